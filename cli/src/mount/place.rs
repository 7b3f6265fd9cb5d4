//! The folder that the user names.

use std::path::{Path, PathBuf};

use super::error::MountError;
use super::run_folder::RunFolder;
use super::teardown;

/// Returns the folder to mount at, absolute and without symbolic links. What a dead process left
/// mounted there is taken down first, and what others left where nothing is mounted any more.
pub fn to_mount_at(directory: &Path) -> Result<PathBuf, MountError> {
    for left in RunFolder::all()? {
        if !left.is_alive() && teardown::mounts(&left)?.is_empty() && teardown::is_unused(&left) {
            // It is in nobody's way; another process may be just as tidy.
            drop(teardown::take_down(&left).and_then(|()| left.remove()));
        }
    }
    let failed = |op| {
        let path = directory.to_owned();
        move |source| MountError::Io { op, path, source }
    };
    if let Some(left) = RunFolder::find(&mounted_at(directory))? {
        if left.is_alive() {
            let directory = left.state().directory.clone();
            return Err(MountError::Mounted { directory });
        }
        teardown::take_down(&left)?;
        left.remove()?;
    }
    let found = directory.canonicalize().map_err(failed("mount at"))?;
    if !found.is_dir() {
        let error = std::io::ErrorKind::NotADirectory.into();
        return Err(failed("mount at")(error));
    }
    Ok(found)
}

/// Returns the folder that something is mounted at, even where what is mounted has died.
pub fn mounted_at(directory: &Path) -> PathBuf {
    if let Ok(found) = directory.canonicalize() {
        return found;
    }
    let parent = directory.parent().map(|parent| match parent {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    });
    let parent = parent.and_then(|parent| parent.canonicalize().ok());
    match (parent, directory.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => directory.to_owned(),
    }
}
