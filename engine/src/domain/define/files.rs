//! Files of a domain beside its disks, whose they are, and taking back what was made.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::{DefineError, DefineOptions, NVRAM, Plan, Result, TPM, file};
use crate::format::manifest::{FileRecord, Manifest};
use crate::repository::Contents;
use crate::restore::restore_file;

/// Where libvirt keeps TPM states of the system's domains, each under its UUID.
const TPM_FOLDER: &str = "/var/lib/libvirt/swtpm";
/// Longest TPM state that is unpacked, in bytes: those of backups are shorter.
const TPM_LEN_MAX: u64 = 64 << 20;

/// Whose files are; what is not given stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileRights {
    /// The user's id.
    pub owner: Option<u32>,
    /// The group's id.
    pub group: Option<u32>,
    /// The mode's bits.
    pub mode: Option<u32>,
}

impl FileRights {
    /// A TPM's folder is libvirt's to give away.
    pub(super) fn apply(self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if self.owner.is_some() || self.group.is_some() {
            chown(path, self.owner, self.group).map_err(file("give away", path))?;
        }
        let Some(mode) = self.mode else {
            return Ok(());
        };
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(path, mode).map_err(file("set the mode of", path))
    }
}

/// What this run has written. What was not there before is removed when this is dropped.
#[derive(Default)]
pub(super) struct Made {
    paths: Vec<PathBuf>,
    new: Vec<PathBuf>,
}

impl Made {
    pub(super) fn add(&mut self, path: &Path, is_new: bool) {
        self.paths.push(path.to_owned());
        if is_new {
            self.new.push(path.to_owned());
        }
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Lets everything stay, and returns what was written.
    pub(super) fn keep(mut self) -> Vec<PathBuf> {
        self.new.clear();
        std::mem::take(&mut self.paths)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.new {
            // Nobody is left to tell; the error that led here is told.
            match path.is_dir() {
                true => drop(fs::remove_dir_all(path)),
                false => drop(fs::remove_file(path)),
            }
        }
    }
}

/// Returns the folder for a domain's TPM state, where the UUID is fit to name one.
pub(in crate::domain) fn tpm_folder(uuid: &str) -> Option<PathBuf> {
    let is_plain = uuid
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_plain.then(|| Path::new(TPM_FOLDER).join(uuid))
}

/// Writes the firmware's variables and the TPM's state, as far as the snapshot has them. What it
/// has not, the rewritten domain says.
pub(super) fn write(
    contents: &Contents,
    manifest: &Manifest,
    plan: &Plan,
    options: &DefineOptions<'_>,
    made: &mut Made,
) -> Result<()> {
    let record = |name| manifest.files.iter().find(|file| file.name == name);
    if let (Some(path), Some(record)) = (&plan.nvram, record(NVRAM)) {
        let is_new = fs::symlink_metadata(path).is_err();
        let mut opening = File::options();
        opening
            .write(true)
            .truncate(true)
            .create(true)
            .create_new(!options.force)
            .mode(0o600);
        let opened = opening.open(path).map_err(file("create", path))?;
        made.add(path, is_new);
        let mut out = BufWriter::new(opened);
        restore(contents, record, &mut out)?;
        let opened = out
            .into_inner()
            .map_err(|error| file("write", path)(error.into_error()))?;
        opened.sync_data().map_err(file("sync", path))?;
    }
    if let (Some(folder), Some(record)) = (&plan.tpm, record(TPM)) {
        unpack(contents, record, folder, made)?;
    }
    Ok(())
}

/// Writes a file of a snapshot.
pub(in crate::domain) fn restore(
    contents: &Contents,
    record: &FileRecord,
    out: &mut dyn Write,
) -> Result<()> {
    restore_file(contents, record, out).map_err(|source| DefineError::Restore {
        name: format!("file {}", record.name),
        source,
    })
}

fn unpack(contents: &Contents, record: &FileRecord, folder: &Path, made: &mut Made) -> Result<()> {
    let is_new = fs::symlink_metadata(folder).is_err();
    made.add(folder, is_new);
    unpack_tpm(contents, record, folder)
}

/// Unpacks a TPM's state. Nothing leaves the folder, whatever the archive names.
pub(in crate::domain) fn unpack_tpm(
    contents: &Contents,
    record: &FileRecord,
    folder: &Path,
) -> Result<()> {
    if record.size > TPM_LEN_MAX {
        let source = std::io::Error::other("the state is too long to be that of a TPM");
        return Err(file("unpack the TPM's state to", folder)(source));
    }
    let mut archive = Vec::new();
    restore(contents, record, &mut archive)?;
    fs::create_dir_all(folder).map_err(file("make the folder", folder))?;
    let mut archive = tar::Archive::new(archive.as_slice());
    archive.set_overwrite(true);
    archive
        .unpack(folder)
        .map_err(file("unpack the TPM's state to", folder))
}
