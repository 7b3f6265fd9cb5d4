//! Small files and names that must survive a power cut.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, renameat};

use super::TargetError;
use super::in_use::InUse;
use super::partial::{Partial, rename_new};

/// Writes a small file; it is whole or not there. Only its owner may read it. A link that has its
/// name is replaced, and not what it points to.
///
/// # Durability
///
/// Durable on return.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), TargetError> {
    let partial = Partial::create_unfollowed(path)?;
    let private = fs::Permissions::from_mode(0o600);
    let set = partial.output().file().set_permissions(private);
    set.map_err(|source| TargetError::io("set the mode of", path, source))?;
    partial.output().write_at(0, bytes)?;
    partial.publish().map(drop)
}

/// Removes a file; that it is not there is fine. Durable on return.
pub fn remove_file(path: &Path) -> Result<(), TargetError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(|source| TargetError::io("remove", path, source))?,
    }
    sync_folder_of(path)
}

/// Gives a file another name in its folder, which must be free. Durable on return.
pub fn rename_file(from: &Path, to: &Path) -> Result<(), TargetError> {
    rename_new(CWD, from, to).map_err(|errno| TargetError::io("rename", from, errno))?;
    sync_folder_of(to)
}

/// Gives a file the name of another, which goes unless something has it in use. Durable on return.
pub fn replace_file(from: &Path, to: &Path) -> Result<(), TargetError> {
    let _held = InUse::lock(to)?;
    renameat(CWD, from, CWD, to).map_err(|errno| TargetError::io("rename", from, errno))?;
    sync_folder_of(to)
}

/// Makes what any process wrote to a file durable.
pub fn sync_open(path: &Path, file: &File) -> Result<(), TargetError> {
    let synced = file.sync_all();
    synced.map_err(|source| TargetError::io("sync", path, source))
}

fn sync_folder_of(path: &Path) -> Result<(), TargetError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| TargetError::io("sync the folder of", path, source))
}
