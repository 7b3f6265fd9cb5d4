//! The folder of one run, and what whoever clears up after a dead run must know.
//!
//! ```text
//! RUN/                      others get through it
//!     runs/                 nobody but the owner gets in
//!         <digits>.json     what the run has made; locked as long as its process lives
//!     <digits>/             QEMU's user owns it
//!         nbd.sock          where QEMU serves
//! ```
//!
//! Nothing that lies where QEMU's user can write is believed: that user could put a record of its
//! own there, and root would delete and write what stands in it. Earlier versions kept the record
//! in the second folder, as `run.json`. Such a one is believed where it is still this user's file,
//! and all it names is what its run makes.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

mod record;

pub use record::{RemoteRecord, RunRecord};

use super::DomainError;
use crate::own;
use crate::source::libvirt::xml::SecurityLabel;

/// Longest path of a unix socket, by the system's limit.
const SOCKET_PATH_LEN_MAX: usize = 107;
const RECORDS: &str = "runs";
const OLD_RECORD: &str = "run.json";
const SOCKET: &str = "nbd.sock";

/// The folder of this process's run; removed when dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    record_path: PathBuf,
    file: File,
    record: RunRecord,
    is_kept: bool,
}

impl RunFolder {
    /// Makes a run's record, and a folder in which QEMU's user may make a socket. Without a label
    /// it stays this user's.
    ///
    /// # Errors
    ///
    /// Also where the socket's path would be too long for the system, and where others could change
    /// what is recorded.
    pub fn make(
        parent: &Path,
        drawn: &str,
        label: Option<SecurityLabel>,
        record: RunRecord,
    ) -> Result<Self, DomainError> {
        own::make_passage(parent).map_err(DomainError::file("use", parent))?;
        let path = parent.join(drawn);
        if path.join(SOCKET).as_os_str().len() > SOCKET_PATH_LEN_MAX {
            let source = std::io::Error::other("a socket's path has at most 107 bytes");
            return Err(DomainError::File {
                op: "use",
                path,
                source,
            });
        }
        let records = parent.join(RECORDS);
        own::make_private(&records).map_err(DomainError::file("use", &records))?;
        let record_path = records.join(format!("{drawn}.json"));
        let file = own::create(&record_path).map_err(DomainError::file("make", &record_path))?;
        let mut folder = Self {
            path,
            record_path,
            file,
            record,
            is_kept: true,
        };
        match folder.fill(label) {
            Ok(()) => {
                folder.is_kept = false;
                Ok(folder)
            }
            Err(error) => {
                drop(fs::remove_file(&folder.record_path));
                Err(error)
            }
        }
    }

    fn fill(&mut self, label: Option<SecurityLabel>) -> Result<(), DomainError> {
        // Who looks for dead runs may have it for a moment, and finds nothing in it.
        flock(&self.file, FlockOperation::LockExclusive)
            .map_err(|error| DomainError::file("lock", &self.record_path)(error.into()))?;
        self.write()?;
        let path = &self.path;
        let made = DirBuilder::new().mode(0o700).create(path);
        made.map_err(DomainError::file("make", path))?;
        let given = give_away(path, label);
        given.inspect_err(|_| drop(fs::remove_dir(path)))
    }

    /// Changes the record.
    pub fn update(&mut self, change: impl FnOnce(&mut RunRecord)) -> Result<(), DomainError> {
        change(&mut self.record);
        self.write()
    }

    /// One line, which counts up to its end: who is killed before the rest is cut off has written
    /// it all the same.
    fn write(&mut self) -> Result<(), DomainError> {
        let mut text = serde_json::to_vec(&self.record).unwrap_or_default();
        text.push(b'\n');
        let written = self.file.write_all_at(&text, 0);
        let written = written.and_then(|()| self.file.set_len(text.len() as u64));
        written.map_err(DomainError::file("write", &self.record_path))
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
            drop(remove(&self.path, &self.record_path));
        }
    }
}

fn give_away(path: &Path, label: Option<SecurityLabel>) -> Result<(), DomainError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o750))
        .map_err(DomainError::file("set the rights of", path))?;
    let is_root = rustix::process::geteuid().is_root();
    match label.filter(|_| is_root) {
        Some(label) => {
            lchown(path, Some(label.uid), None).map_err(DomainError::file("give away", path))
        }
        None => Ok(()),
    }
}

/// Removes both; the record goes last, so that what stays is found again.
fn remove(folder: &Path, record: &Path) -> Result<(), DomainError> {
    let gone = |removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    gone(fs::remove_dir_all(folder)).map_err(DomainError::file("remove", folder))?;
    gone(fs::remove_file(record)).map_err(DomainError::file("remove", record))
}

/// A run whose owner is dead, held by whoever clears up after it.
#[derive(Debug)]
pub struct DeadRun {
    /// Its folder.
    pub path: PathBuf,
    /// What it had made.
    pub record: RunRecord,
    record_path: PathBuf,
    _file: File,
}

impl DeadRun {
    /// Removes the folder and the record. All else must be cleared by then.
    pub fn remove(self) -> Result<(), DomainError> {
        remove(&self.path, &self.record_path)
    }

    /// Returns what its job's XML holds, and no other job's.
    pub fn mark(&self) -> String {
        mark(&self.path, &self.record)
    }
}

/// A record that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbelieved {
    /// The record.
    pub path: PathBuf,
    /// The folder of its run.
    pub folder: PathBuf,
    /// Why not.
    pub reason: String,
}

/// A job on this host is told by its socket.
fn mark(path: &Path, record: &RunRecord) -> String {
    let remote = record.remote.as_ref().map(|remote| remote.mark.clone());
    remote.unwrap_or_else(|| path.join(SOCKET).to_string_lossy().into_owned())
}

/// Returns the runs of a domain below a folder whose owners are dead, and what else lies there, of
/// whatever domain, that nobody can believe.
pub fn dead_runs(parent: &Path, uuid: &str) -> (Vec<DeadRun>, Vec<Unbelieved>) {
    let mut dead = Vec::new();
    let mut unbelieved = Vec::new();
    for found in Found::all(parent) {
        let (file, record) = match found.read() {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(reason) => {
                unbelieved.push(Unbelieved {
                    path: found.record,
                    folder: found.folder,
                    reason,
                });
                continue;
            }
        };
        let is_dead = || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if record.uuid != uuid || !is_dead() {
            continue;
        }
        // It may have changed until nobody held it.
        if let Ok(Some((_, record))) = found.read() {
            dead.push(DeadRun {
                path: found.folder,
                record,
                record_path: found.record,
                _file: file,
            });
        }
    }
    (dead, unbelieved)
}

/// Returns the process of a domain's run that is alive, if there is one.
pub fn living_run(parent: &Path, uuid: &str) -> Option<(u32, PathBuf)> {
    Found::all(parent).into_iter().find_map(|found| {
        let (file, record) = found.read().ok()??;
        let is_free = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
        (!is_free && record.uuid == uuid).then_some((record.pid, found.folder))
    })
}

/// A record that may be there.
struct Found {
    drawn: String,
    record: PathBuf,
    folder: PathBuf,
}

impl Found {
    fn all(parent: &Path) -> Vec<Self> {
        let records = parent.join(RECORDS);
        let mut all = Vec::new();
        for name in names(parent) {
            let folder = parent.join(&name);
            let (new, old) = (
                records.join(format!("{name}.json")),
                folder.join(OLD_RECORD),
            );
            // What else lies in the folder of a run with a record is QEMU's user's, and is not
            // looked at.
            let is_old = fs::symlink_metadata(&new).is_err() && fs::symlink_metadata(&old).is_ok();
            if is_old && record::is_drawn(&name) {
                all.push(Self {
                    drawn: name,
                    record: old,
                    folder,
                });
            }
        }
        for name in names(&records) {
            let drawn = name
                .strip_suffix(".json")
                .filter(|name| record::is_drawn(name));
            all.extend(drawn.map(|drawn| Self {
                drawn: drawn.to_owned(),
                record: records.join(&name),
                folder: parent.join(drawn),
            }));
        }
        all
    }

    /// Reads it; one that is not written yet, or removed meanwhile, is none.
    fn read(&self) -> Result<Option<(File, RunRecord)>, String> {
        if let Some(above) = self
            .record
            .parent()
            .filter(|above| above.ends_with(RECORDS))
        {
            let reason = |error| format!("folder {}: {error}", above.display());
            own::check_folder(above).map_err(reason)?;
        }
        let (file, text) = match own::read(&self.record) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        let Some(line) = text
            .split(|byte| *byte == b'\n')
            .next()
            .filter(|l| !l.is_empty())
        else {
            return Ok(None);
        };
        let record = serde_json::from_slice::<RunRecord>(line);
        let record = record.map_err(|error| format!("it is no record: {error}"))?;
        record.check(&self.drawn)?;
        Ok(Some((file, record)))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.collect()
}

/// Writes a line to a pipe whose reader may be gone.
pub(super) fn tell(pipe: &mut impl Write, line: &str) -> bool {
    pipe.write_all(line.as_bytes())
        .and_then(|()| pipe.flush())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const DRAWN: &str = "0123abcd";

    fn record() -> RunRecord {
        RunRecord {
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
        }
    }

    fn dead(parent: &Path) -> Vec<DeadRun> {
        let (dead, unbelieved) = dead_runs(parent, "u");
        assert_eq!(unbelieved, []);
        dead
    }

    /// What kill -9 leaves: the folder, and a lock that nobody holds.
    fn kill(mut run: RunFolder) -> (PathBuf, PathBuf) {
        run.keep();
        (run.path().to_owned(), run.record_path.clone())
    }

    #[test]
    fn a_run_is_dead_when_nobody_holds_its_record() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let parent = parent.path();
        let mut run = RunFolder::make(parent, DRAWN, None, record()).expect("it is made");
        run.update(|record| record.published = true)
            .expect("it is written");
        assert!(dead(parent).is_empty());
        assert_eq!(living_run(parent, "u").map(|(pid, _)| pid), Some(1));
        let mode = |path: &Path| fs::symlink_metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!(mode(run.path()), 0o750);
        assert_eq!(mode(&run.record_path), 0o600);
        assert_eq!(mode(&parent.join(RECORDS)), 0o700);
        let (path, record_path) = kill(run);
        assert!(living_run(parent, "u").is_none());
        assert!(matches!(&*dead(parent), [dead] if dead.record.published));
        assert!(dead_runs(parent, "v").0.is_empty());
        // Killed before a longer text of before was cut off.
        let mut text = fs::read(&record_path).expect("the record is there");
        text.extend(b"}\n");
        fs::write(&record_path, text).expect("it is written");
        let [run] = <[DeadRun; 1]>::try_from(dead(parent)).expect("it counts up to its end");
        run.remove().expect("it is there");
        assert!(!path.exists() && !record_path.exists());
        let run = RunFolder::make(parent, DRAWN, None, record()).expect("it is made");
        let (path, record_path) = (run.path().to_owned(), run.record_path.clone());
        drop(run);
        assert!(!path.exists() && !record_path.exists());
    }

    #[test]
    fn what_lies_in_the_folder_that_is_given_away_is_not_believed() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let parent = parent.path();
        let (path, record_path) =
            kill(RunFolder::make(parent, DRAWN, None, record()).expect("it is made"));
        // One beside the socket says nothing, whoever made it.
        let mut forged = record();
        forged.published = true;
        let text = serde_json::to_vec(&forged).expect("it is encoded");
        fs::write(path.join(OLD_RECORD), &text).expect("it is written");
        assert!(matches!(&*dead(parent), [dead] if !dead.record.published));
        let refused = |what: &str| {
            let (dead, unbelieved) = dead_runs(parent, "u");
            assert!(dead.is_empty(), "{what}");
            let reasons: Vec<&str> = unbelieved.iter().map(|u| &*u.reason).collect();
            assert!(
                matches!(&*reasons, [reason] if reason.contains(what)),
                "{reasons:?}"
            );
            assert_eq!(living_run(parent, "u"), None);
        };
        // Where there is none beside, it is an earlier version's, if it is this user's.
        let kept = fs::read(&record_path).expect("it is there");
        fs::remove_file(&record_path).expect("it is there");
        assert!(matches!(&*dead(parent), [dead] if dead.record.published));
        let old = path.join(OLD_RECORD);
        fs::set_permissions(&old, fs::Permissions::from_mode(0o666)).expect("it is ours");
        refused("others may write");
        fs::copy(&old, parent.join("elsewhere")).expect("it is there");
        fs::remove_file(&old).expect("it is there");
        symlink(parent.join("elsewhere"), &old).expect("links can be made");
        refused("symbolic link");
        fs::remove_file(&old).expect("it is there");
        fs::write(&old, "{").expect("it is written");
        refused("no record");
        forged.scratch = vec!["/etc/shadow".into()];
        let text = serde_json::to_vec(&forged).expect("it is encoded");
        fs::write(&old, &text).expect("it is written");
        refused("/etc/shadow");
        // Nor is one of the right place that names what its run did not make.
        fs::write(&record_path, &text).expect("it is written");
        fs::set_permissions(&record_path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        refused("/etc/shadow");
        fs::write(&record_path, kept).expect("it is written");
        assert_eq!(dead(parent).len(), 1);
        let records = parent.join(RECORDS);
        fs::set_permissions(&records, fs::Permissions::from_mode(0o777)).expect("it is ours");
        refused("others may write");
    }

    #[test]
    fn folders_of_others_take_no_record() {
        let above = tempfile::tempdir().expect("there is a folder for temporary files");
        let parent = above.path().join("run");
        fs::create_dir(&parent).expect("the folder is new");
        let made = || RunFolder::make(&parent, DRAWN, None, record());
        fs::set_permissions(&parent, fs::Permissions::from_mode(0o777)).expect("it is ours");
        assert!(matches!(made(), Err(DomainError::File { op: "use", .. })));
        fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).expect("it is ours");
        symlink(above.path(), parent.join(RECORDS)).expect("links can be made");
        assert!(matches!(made(), Err(DomainError::File { op: "use", .. })));
        fs::remove_file(parent.join(RECORDS)).expect("it is there");
        // A name that is taken stays whose it is.
        fs::create_dir(parent.join(DRAWN)).expect("the folder is new");
        fs::write(parent.join(DRAWN).join("theirs"), "").expect("it is written");
        assert!(made().is_err());
        assert!(parent.join(DRAWN).join("theirs").exists());
        assert_eq!(names(&parent.join(RECORDS)), [""; 0]);
    }
}
