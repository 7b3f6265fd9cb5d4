//! The folder of one run: QEMU's socket, and what whoever clears up after a dead run must know.
//!
//! The owner holds a lock on the record. A record that nobody holds belongs to a dead run.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::DomainError;
use super::overlay::Overlay;
use crate::limits::SMALL_DOCUMENT_LEN_MAX;
use crate::source::libvirt::xml::SecurityLabel;

/// Longest path of a unix socket, by the system's limit.
const SOCKET_PATH_LEN_MAX: usize = 107;
const RECORD: &str = "run.json";
const SOCKET: &str = "nbd.sock";

/// What a run has made, written before it makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The domain's UUID.
    pub uuid: String,
    /// The domain's name.
    pub name: String,
    /// The process that owns the run, for people to read.
    pub pid: u32,
    /// The checkpoint that it makes, if it does.
    pub checkpoint: Option<String>,
    /// The scratch files that QEMU makes for it.
    pub scratch: Vec<PathBuf>,
    /// Overlays that must be committed back.
    #[serde(default)]
    pub overlays: Vec<Overlay>,
    /// Images of a domain that is off, which get the checkpoint's bitmap.
    #[serde(default)]
    pub images: Vec<PathBuf>,
    /// Whether the guest may be frozen by it: `agent` or `suspend`.
    pub frozen: Option<String>,
    /// Whether its snapshot is published, so that the checkpoint stays.
    pub published: bool,
    /// What it has on another host.
    #[serde(default)]
    pub remote: Option<RemoteRecord>,
}

/// What a run has made on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRecord {
    /// The libvirt URI by which the host is reached.
    pub uri: String,
    /// The folder of QEMU's socket there, where there is one.
    pub folder: Option<PathBuf>,
    /// What the job's XML holds, and no other job's.
    pub mark: String,
}

/// The folder of this process's run; removed when dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    file: File,
    record: RunRecord,
    is_kept: bool,
}

impl RunFolder {
    /// Makes a run's folder, in which QEMU's user may make a socket.
    ///
    /// # Errors
    ///
    /// Also where the socket's path would be too long for the system.
    pub fn make(
        parent: &Path,
        drawn: &str,
        label: Option<SecurityLabel>,
        record: RunRecord,
    ) -> Result<Self, DomainError> {
        fs::create_dir_all(parent).map_err(DomainError::file("make", parent))?;
        // QEMU's user has to get through, and nobody has to list what is here.
        let reachable = fs::set_permissions(parent, fs::Permissions::from_mode(0o711));
        // Another user's folder is as that user wants it.
        drop(reachable);
        let path = parent.join(drawn);
        if path.join(SOCKET).as_os_str().len() > SOCKET_PATH_LEN_MAX {
            let source = std::io::Error::other("a socket's path has at most 107 bytes");
            return Err(DomainError::File {
                op: "use",
                path,
                source,
            });
        }
        fs::create_dir(&path).map_err(DomainError::file("make", &path))?;
        let made = Self::fill(&path, label, record);
        if made.is_err() {
            drop(fs::remove_dir_all(&path));
        }
        made
    }

    fn fill(
        path: &Path,
        label: Option<SecurityLabel>,
        record: RunRecord,
    ) -> Result<Self, DomainError> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o750))
            .map_err(DomainError::file("set the rights of", path))?;
        let is_root = rustix::process::geteuid().is_root();
        if let Some(label) = label.filter(|_| is_root) {
            chown(path, Some(label.uid), None).map_err(DomainError::file("give away", path))?;
        }
        let file = path.join(RECORD);
        let opened = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&file);
        let opened = opened.map_err(DomainError::file("make", &file))?;
        flock(&opened, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| DomainError::file("lock", &file)(error.into()))?;
        let mut folder = Self {
            path: path.to_owned(),
            file: opened,
            record,
            is_kept: false,
        };
        folder.write()?;
        Ok(folder)
    }

    /// Changes the record.
    pub fn update(&mut self, change: impl FnOnce(&mut RunRecord)) -> Result<(), DomainError> {
        change(&mut self.record);
        self.write()
    }

    fn write(&mut self) -> Result<(), DomainError> {
        use std::os::unix::fs::FileExt;
        let mut text = serde_json::to_vec(&self.record).unwrap_or_default();
        text.push(b'\n');
        let written = self.file.write_all_at(&text, 0);
        let written = written.and_then(|()| self.file.set_len(text.len() as u64));
        written.map_err(DomainError::file("write", &self.path.join(RECORD)))
    }

    /// Leaves the folder to the next run, which clears what this one could not.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Returns what the job's XML holds, and no other job's.
    pub fn mark(&self) -> String {
        mark(&self.path, &self.record)
    }

    /// Returns the path of QEMU's socket, or of the one that stands for it on this host.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is recorded.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.is_kept {
            // What stays is cleared by the next run.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// A run whose owner is dead, held by whoever clears up after it.
#[derive(Debug)]
pub struct DeadRun {
    /// Its folder.
    pub path: PathBuf,
    /// What it had made.
    pub record: RunRecord,
    _file: File,
}

impl DeadRun {
    /// Removes the folder. All else must be cleared by then.
    pub fn remove(self) -> Result<(), DomainError> {
        fs::remove_dir_all(&self.path).map_err(DomainError::file("remove", &self.path))
    }

    /// Returns what its job's XML holds, and no other job's.
    pub fn mark(&self) -> String {
        mark(&self.path, &self.record)
    }
}

/// A job on this host is told by its socket.
fn mark(path: &Path, record: &RunRecord) -> String {
    let remote = record.remote.as_ref().map(|remote| remote.mark.clone());
    remote.unwrap_or_else(|| path.join(SOCKET).to_string_lossy().into_owned())
}

/// Returns the runs of a domain below a folder whose owners are dead.
pub fn dead_runs(parent: &Path, uuid: &str) -> Vec<DeadRun> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let dead = entries.filter_map(|entry| dead_run(&entry.path()));
    dead.filter(|run| run.record.uuid == uuid).collect()
}

/// Returns the process of a domain's run that is alive, if there is one.
pub fn living_run(parent: &Path, uuid: &str) -> Option<(u32, PathBuf)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut runs = entries.filter_map(|entry| {
        let file = File::open(entry.path().join(RECORD)).ok()?;
        let record = read(&file)?;
        let taken = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
        taken.then(|| (record, entry.path()))
    });
    let (record, path) = runs.find(|(record, _)| record.uuid == uuid)?;
    Some((record.pid, path))
}

fn dead_run(path: &Path) -> Option<DeadRun> {
    let file = File::open(path.join(RECORD)).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(DeadRun {
        path: path.to_owned(),
        record: read(&file)?,
        _file: file,
    })
}

fn read(file: &File) -> Option<RunRecord> {
    let mut text = Vec::new();
    file.take(SMALL_DOCUMENT_LEN_MAX)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes a line to a pipe whose reader may be gone.
pub(super) fn tell(pipe: &mut impl Write, line: &str) -> bool {
    pipe.write_all(line.as_bytes())
        .and_then(|()| pipe.flush())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_dead_when_nobody_holds_its_record() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let record = RunRecord {
            uuid: "u".to_owned(),
            name: "web1".to_owned(),
            pid: 1,
            checkpoint: None,
            scratch: Vec::new(),
            overlays: Vec::new(),
            images: Vec::new(),
            frozen: None,
            published: false,
            remote: None,
        };
        let mut run = RunFolder::make(parent.path(), "0a", None, record).expect("it is made");
        run.update(|record| record.published = true)
            .expect("it is written");
        assert!(dead_runs(parent.path(), "u").is_empty());
        assert_eq!(living_run(parent.path(), "u").map(|(pid, _)| pid), Some(1));
        let mode = fs::metadata(run.path())
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o750);
        // What kill -9 leaves: the folder, and a lock that nobody holds.
        let path = run.path().to_owned();
        let kept = fs::read(path.join(RECORD)).expect("the record is there");
        drop(run);
        fs::create_dir(&path).expect("it was removed");
        fs::write(path.join(RECORD), kept).expect("it is written");
        assert!(living_run(parent.path(), "u").is_none());
        let dead = dead_runs(parent.path(), "u");
        assert!(matches!(&*dead, [dead] if dead.record.published));
        assert!(dead_runs(parent.path(), "v").is_empty());
    }
}
