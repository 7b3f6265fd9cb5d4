//! Block devices over the files of a run folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::MountError;
use super::tools::LOSETUP;

/// A loop device, detached when dropped unless something else is to end it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    is_handed_over: bool,
}

impl LoopDevice {
    /// Attaches a free device to `file`.
    ///
    /// The device reads around the file's page cache: it has one of its own, and only so are
    /// there several requests on their way at once.
    pub fn attach(file: &Path, is_read_only: bool) -> Result<Self, MountError> {
        let mut args = vec!["--find", "--show", "--nooverlap", "--direct-io=on"];
        if is_read_only {
            args.push("--read-only");
        }
        let mut args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
        args.push(file.as_os_str());
        let path = LOSETUP.run(&args)?;
        Ok(Self {
            path: path.trim_end().into(),
            is_handed_over: false,
        })
    }

    /// Returns the device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the device end by itself when what is mounted from it is unmounted, by whomever.
    ///
    /// Detaching a device that is in use does just that.
    pub fn end_with_its_mount(mut self) -> Result<(), MountError> {
        detach(&self.path)?;
        self.is_handed_over = true;
        Ok(())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.is_handed_over {
            // What stays attached is found and named by the teardown that follows.
            drop(detach(&self.path));
        }
    }
}

/// Detaches a device, at once or when its last user is gone.
pub fn detach(device: &Path) -> Result<(), MountError> {
    LOSETUP
        .run(&[OsStr::new("--detach"), device.as_os_str()])
        .map(drop)
}

/// Returns the devices whose files lie below `folder`.
pub fn attached_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let devices = entries.filter_map(|entry| {
        let file = fs::read(entry.path().join("loop/backing_file")).ok()?;
        let file = Path::new(OsStr::from_bytes(&file));
        let name = entry.file_name();
        file.starts_with(folder)
            .then(|| Path::new("/dev").join(name))
    });
    devices.collect()
}
