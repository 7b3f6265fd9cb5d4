//! Files of a domain beside its disks, whose they are, and taking back what was made.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{DefineError, DefineOptions, NVRAM, Plan, Result, TPM, file};
use crate::format::manifest::{FileRecord, Manifest};
use crate::own;
use crate::repository::Contents;
use crate::restore::restore_file;

/// Where libvirt keeps TPM states of the system's domains, each under its UUID.
const TPM_FOLDER: &str = "/var/lib/libvirt/swtpm";
/// Length of a UUID as text.
const UUID_LEN: usize = 36;
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
        // What was written, and nothing that its name leads to by now.
        let opened = own::open_unfollowed(path, OFlags::RDONLY).map_err(file("open", path))?;
        if self.owner.is_some() || self.group.is_some() {
            fchown(&opened, self.owner, self.group).map_err(file("give away", path))?;
        }
        let Some(mode) = self.mode else {
            return Ok(());
        };
        let mode = fs::Permissions::from_mode(mode);
        let set = opened.set_permissions(mode);
        set.map_err(file("set the mode of", path))
    }
}

/// Follows no link, and waits for nobody who would read from a pipe.
const UNFOLLOWED: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

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
    // Of another length it could be the folder of all of them.
    let is_uuid = uuid.len() == UUID_LEN
        && uuid
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uuid.then(|| Path::new(TPM_FOLDER).join(uuid))
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
            .custom_flags(UNFOLLOWED)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_of_what_was_written_and_of_nothing_that_has_its_name() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let (written, other) = (folder.path().join("written"), folder.path().join("other"));
        let mode = |path: &Path| {
            let found = fs::metadata(path).expect("it is there");
            found.permissions().mode() & 0o777
        };
        let rights = FileRights {
            mode: Some(0o660),
            ..FileRights::default()
        };
        fs::write(&other, "").expect("files can be written");
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::write(&written, "").expect("files can be written");
        rights.apply(&written).expect("it is ours");
        assert_eq!(mode(&written), 0o660);
        fs::remove_file(&written).expect("it is there");
        std::os::unix::fs::symlink(&other, &written).expect("links can be made");
        assert!(rights.apply(&written).is_err());
        assert_eq!(mode(&other), 0o600);
    }

    #[test]
    fn only_a_whole_uuid_names_a_tpm() {
        let uuid = "01234567-89ab-4def-8123-456789abcdef";
        let found = tpm_folder(uuid).expect("it is one");
        assert_eq!(found, Path::new(TPM_FOLDER).join(uuid));
        // The first would be the folder of all of them.
        for wrong in ["", "-", "01234567", "../../../../../../../../etc/passwd--"] {
            assert_eq!(tpm_folder(wrong), None, "{wrong}");
        }
    }
}
