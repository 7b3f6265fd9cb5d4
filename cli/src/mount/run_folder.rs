//! The private folder of a mount, by which another process finds what belongs to it.
//!
//!     /run/cairn/mounts/<pid>-<n>/      mode 0700
//!         lock                          locked as long as the mount's process lives
//!         state.json                    what is mounted where, and by whom
//!         volumes/                      the FUSE file system

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cairn_engine::own;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::error::MountError;

const BASE: &str = "/run/cairn/mounts";

/// What another process must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The folder that the user named, absolute and without symbolic links.
    pub directory: PathBuf,
    /// The process that serves the volumes.
    pub pid: u32,
}

/// A run folder: this process's own, or another's.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    state: State,
    lock: File,
}

impl RunFolder {
    /// Makes the folder of this process's mount at `directory`.
    ///
    /// # Errors
    ///
    /// [`MountError::Mounted`] if there is one already: of two processes that come at once, one
    /// is refused.
    pub fn create(directory: &Path) -> Result<Self, MountError> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true);
        builder.create(BASE).map_err(failed("make folder", BASE))?;
        own::make_private(Path::new(BASE)).map_err(failed("use", BASE))?;
        builder.recursive(false);
        let base = lock_base()?;
        sweep()?;
        if Self::find(directory)?.is_some() {
            let directory = directory.to_owned();
            return Err(MountError::Mounted { directory });
        }
        let pid = std::process::id();
        let mut number = 0_u32;
        let path = loop {
            // Only a process with the same id, long dead, can have taken a name.
            let path = Path::new(BASE).join(format!("{pid}-{number}"));
            match builder.create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                made => {
                    made.map_err(failed("make folder", &path))?;
                    break path;
                }
            }
        };
        let state = State {
            directory: directory.to_owned(),
            pid,
        };
        let filled = fill(&path, &state, &builder);
        let lock = filled.inspect_err(|_| drop(fs::remove_dir_all(&path)))?;
        drop(base);
        Ok(Self { path, state, lock })
    }

    /// Returns the run folder of the mount at `directory`, whose process may be dead.
    pub fn find(directory: &Path) -> Result<Option<Self>, MountError> {
        let mut all = Self::all()?.into_iter();
        Ok(all.find(|run| run.state.directory == directory))
    }

    /// Returns the run folders of all mounts of this machine.
    pub fn all() -> Result<Vec<Self>, MountError> {
        let entries = match fs::read_dir(BASE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", BASE))?,
        };
        let found = entries.flatten().filter_map(|entry| {
            // One that is being made or removed has no state, or half of it.
            let path = entry.path();
            let state = read_state(&path)?;
            let lock = own::open(&lock_file(&path)).ok()?;
            Some(Self { path, state, lock })
        });
        Ok(found.collect())
    }

    /// Returns what is known of the mount.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the name of the tmpfs that holds the mount points: no other mount's has the same.
    pub fn holder(&self) -> &Path {
        &self.path
    }

    /// Returns the folder with a file for each volume.
    pub fn volumes(&self) -> PathBuf {
        volumes_folder(&self.path)
    }

    /// Returns whether [`Self::remove`] was here.
    pub fn is_removed(&self) -> bool {
        !self.path.exists()
    }

    /// Returns whether another process serves the volumes.
    pub fn is_alive(&self) -> bool {
        let locked = flock(&self.lock, FlockOperation::NonBlockingLockShared);
        if locked.is_ok() {
            // The lock goes with the file at the latest.
            let _ = flock(&self.lock, FlockOperation::Unlock);
        }
        locked.is_err()
    }

    /// Waits until no other process serves the volumes.
    pub fn wait_for_end(&self) -> Result<(), MountError> {
        let locked = flock(&self.lock, FlockOperation::LockShared);
        locked.map_err(|error| failed("lock", lock_file(&self.path))(error.into()))
    }

    /// Removes the folder. Nothing may be mounted in it.
    pub fn remove(&self) -> Result<(), MountError> {
        remove(&self.path)
    }
}

/// Reads what stands in a run folder. Root unmounts by it: so it must be root's own.
fn read_state(folder: &Path) -> Option<State> {
    own::check_folder(folder).ok()?;
    let (_, text) = own::read(&state_file(folder)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Holds all others up who make a run folder, until it is dropped.
fn lock_base() -> Result<File, MountError> {
    let base = File::open(BASE).map_err(failed("open", BASE))?;
    flock(&base, FlockOperation::LockExclusive)
        .map_err(|error| failed("lock", BASE)(error.into()))?;
    Ok(base)
}

/// Removes what is left of processes that were killed while they made or removed their folder.
/// Nobody may be making one.
fn sweep() -> Result<(), MountError> {
    let entries = fs::read_dir(BASE).map_err(failed("list", BASE))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if own::check_folder(&path).is_ok() && read_state(&path).is_none() {
            // What does not go is in nobody's way.
            drop(remove(&path));
        }
    }
    Ok(())
}

/// Removes the parts of a run folder one by one, and never what may still be mounted.
fn remove(folder: &Path) -> Result<(), MountError> {
    let steps: [(PathBuf, Removal); 4] = [
        (volumes_folder(folder), |path| fs::remove_dir(path)),
        (state_file(folder), |path| fs::remove_file(path)),
        (lock_file(folder), |path| fs::remove_file(path)),
        (folder.to_owned(), |path| fs::remove_dir(path)),
    ];
    for (path, remove) in steps {
        match remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(failed("remove", &path))?,
        }
    }
    Ok(())
}

type Removal = fn(&Path) -> io::Result<()>;

fn fill(path: &Path, state: &State, builder: &DirBuilder) -> Result<File, MountError> {
    let lock_path = lock_file(path);
    let lock = own::create(&lock_path).map_err(failed("make", &lock_path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| failed("lock", &lock_path)(error.into()))?;
    let volumes = volumes_folder(path);
    builder
        .create(&volumes)
        .map_err(failed("make folder", volumes))?;
    let state_path = state_file(path);
    let text = serde_json::to_vec(state).map_err(io::Error::from);
    text.and_then(|text| own::create(&state_path)?.write_all(&text))
        .map_err(failed("write", state_path))?;
    Ok(lock)
}

fn volumes_folder(path: &Path) -> PathBuf {
    path.join("volumes")
}

fn lock_file(path: &Path) -> PathBuf {
    path.join("lock")
}

fn state_file(path: &Path) -> PathBuf {
    path.join("state.json")
}

fn failed(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> MountError {
    let path = path.into();
    move |source| MountError::Io { op, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_others_could_have_written_is_no_mount() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let run = folder.path().join("1-0");
        let builder = DirBuilder::new();
        builder.create(&run).expect("the folder is new");
        let state = State {
            directory: PathBuf::from("/mnt"),
            pid: 1,
        };
        let _lock = fill(&run, &state, &builder).expect("it can be made");
        assert_eq!(read_state(&run), Some(state));
        let file = state_file(&run);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        mode(&file, 0o666);
        assert_eq!(read_state(&run), None);
        mode(&file, 0o600);
        mode(&run, 0o777);
        assert_eq!(read_state(&run), None);
        mode(&run, 0o700);
        assert!(read_state(&run).is_some());
        let link = folder.path().join("1-1");
        symlink(&run, &link).expect("links can be made");
        assert_eq!(read_state(&link), None);
        fs::copy(&file, folder.path().join("moved")).expect("it is there");
        fs::remove_file(&file).expect("it is there");
        symlink(folder.path().join("moved"), &file).expect("links can be made");
        assert_eq!(read_state(&run), None);
    }
}
