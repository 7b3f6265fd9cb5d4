//! Loop devices and mounts that tests make and free themselves. Needs root.
//!
//! `mount` would make a loop device by itself, which ends by itself some time after the umount:
//! who mounts the same image then meets the old device, or none.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::panicking;

use super::waiting::attempts;

/// A loop device. When this is dropped, it is detached, and the kernel has let go of its file.
pub struct LoopDevice {
    path: PathBuf,
    file: PathBuf,
}

impl LoopDevice {
    /// Attaches a free device to a file; `more` goes to losetup.
    #[track_caller]
    pub fn attach(file: &Path, more: &[&str]) -> Self {
        let user = fs::metadata("/proc/self").expect("/proc is there").uid();
        assert_eq!(user, 0, "loop devices need root");
        let file = file.canonicalize().expect("the file is there");
        let args = [&["--find", "--show"], more].concat();
        let args = args.into_iter().map(OsStr::new).chain([file.as_os_str()]);
        let args: Vec<&OsStr> = args.collect();
        // Whoever asks for a free one at the same time may be faster.
        let path = attempts(|| run("losetup", &args)).expect("a device can be attached");
        Self {
            path: path.trim_end().into(),
            file,
        }
    }

    /// Returns the device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the device has the file still, and not another test's, or none.
    fn is_ours(&self) -> bool {
        let name = self.path.file_name().expect("it is below /dev");
        let file = Path::new("/sys/block").join(name).join("loop/backing_file");
        let file = fs::read_to_string(file).unwrap_or_default();
        // The kernel says so of a file that was deleted.
        let file = file.trim_end().trim_end_matches(" (deleted)");
        Path::new(file) == self.file
    }

    /// Detaches it, at once or when its last user is gone.
    pub fn detach(&self) -> Result<(), String> {
        let args = [OsStr::new("--detach"), self.path.as_os_str()];
        match run("losetup", &args) {
            Err(error) if self.is_ours() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if panicking() {
            drop(self.detach());
            return;
        }
        attempts(|| self.detach()).expect("it can be detached");
        let let_go = || match self.is_ours() {
            true => Err(format!("{} is in use", self.path.display())),
            false => Ok(()),
        };
        attempts(let_go).expect("nobody uses it");
    }
}

/// What is mounted somewhere until this is dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts something; `args` go to mount.
    #[track_caller]
    pub fn new(source: &Path, at: &Path, args: &[&str]) -> Self {
        Self::attempt(source, at, args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Mounts something that may be none; returns what mount says then.
    pub fn attempt(source: &Path, at: &Path, args: &[&str]) -> Result<Self, String> {
        fs::create_dir_all(at).expect("a mount point can be made");
        let args = args.iter().map(OsStr::new);
        let args: Vec<&OsStr> = args.chain([source.as_os_str(), at.as_os_str()]).collect();
        run("mount", &args)?;
        Ok(Self(at.to_owned()))
    }

    /// Mounts a file system in memory, of so many bytes.
    #[track_caller]
    pub fn small(at: &Path, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        Self::new(Path::new("cairn"), at, &["-t", "tmpfs", "-o", &size])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let umount = |args: &[&OsStr]| run("umount", &[args, &[self.0.as_os_str()]].concat());
        if panicking() {
            drop(umount(&["-l".as_ref()]));
            return;
        }
        // A process that another test is just starting may hold what this one opened.
        attempts(|| umount(&[])).expect("nobody uses it");
    }
}

/// The file system in an image, mounted until this is dropped.
pub struct MountedImage {
    pub path: PathBuf,
    // In this order: what is mounted goes before its device.
    _mount: Mount,
    _device: LoopDevice,
}

impl MountedImage {
    /// Mounts an image from a device of its own; `args` go to mount.
    #[track_caller]
    pub fn new(image: &Path, at: &Path, args: &[&str]) -> Self {
        Self::attempt(image, at, args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Mounts an image that may be none; returns what mount says then.
    #[track_caller]
    pub fn attempt(image: &Path, at: &Path, args: &[&str]) -> Result<Self, String> {
        let mut options = args.iter().flat_map(|arg| arg.split(','));
        let access: &[&str] = match options.any(|option| option == "ro") {
            true => &["--read-only"],
            false => &[],
        };
        let device = LoopDevice::attach(image, access);
        Ok(Self {
            path: at.to_owned(),
            _mount: Mount::attempt(device.path(), at, args)?,
            _device: device,
        })
    }
}

/// Runs a program to its end, and returns what it prints.
fn run(program: &str, args: &[&OsStr]) -> Result<String, String> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, of the package mount: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program} {args:?}: {said}")),
    }
}
