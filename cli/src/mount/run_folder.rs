//! The private folder of a mount, by which another process finds what belongs to it.
//!
//!     /run/cairn/mounts/<pid>-<n>/      mode 0700
//!         lock                          locked as long as the mount's process lives
//!         state.json                    what is mounted where, and by whom
//!         volumes/                      the FUSE file system

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
            let state: State = serde_json::from_slice(&fs::read(state_file(&path)).ok()?).ok()?;
            let lock = File::open(lock_file(&path)).ok()?;
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
        let state = fs::read(state_file(&path)).ok();
        if state.is_none_or(|text| serde_json::from_slice::<State>(&text).is_err()) {
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
    let lock = File::create_new(&lock_path).map_err(failed("make", &lock_path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| failed("lock", &lock_path)(error.into()))?;
    let volumes = volumes_folder(path);
    builder
        .create(&volumes)
        .map_err(failed("make folder", volumes))?;
    let state_path = state_file(path);
    let text = serde_json::to_vec(state).map_err(io::Error::from);
    text.and_then(|text| fs::write(&state_path, text))
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
