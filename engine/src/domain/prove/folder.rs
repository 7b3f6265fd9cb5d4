//! What a proof makes outside of libvirt, and how it goes away.
//!
//! ```text
//! RUN/prove/<8 digits>/         QEMU's group may enter it, nobody else
//!     prove.json                what was made; locked as long as its owner lives
//!     nbd.sock                  the export of the disks
//! DIR/cairn-prove-<8 digits>/   the same rights
//!     owner                     locked as long as the owner lives
//!     *.qcow2, nvram.fd         what the guest writes
//!     console.log               what it writes to its first serial line
//! ```
//!
//! A lock goes with its process, however that ends. The first folder is lost at a reboot, so the
//! second tells by itself that nobody needs it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::ProveError;
use crate::domain::checkpoint::is_drawn;
use crate::domain::define::files::tpm_folder;
use crate::domain::rewrite::new_uuid;
use crate::own;
use crate::source::libvirt::{Connection, LibvirtError, Reason};

/// What the names of throw-away domains begin with, and those of folders beside images.
pub const PREFIX: &str = "cairn-prove-";
/// Longest path of a unix socket, by the system's limit.
const SOCKET_PATH_LEN_MAX: usize = 107;
const RECORD: &str = "prove.json";
const OWNER: &str = "owner";
const SOCKET: &str = "nbd.sock";
const CONSOLE: &str = "console.log";
const NVRAM: &str = "nvram.fd";

/// What a proof has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveRecord {
    /// The domain's name.
    pub domain: String,
    /// The domain's UUID.
    pub uuid: String,
    /// The libvirt daemon.
    pub uri: String,
    /// The process that owns the proof, for people to read.
    pub pid: u32,
    /// The folder with what the guest writes.
    pub folder: PathBuf,
}

/// The folders of this process's proof; removed when dropped.
#[derive(Debug)]
pub struct ProveFolder {
    run: PathBuf,
    record: ProveRecord,
    is_kept: AtomicBool,
    _locked: [File; 2],
}

impl ProveFolder {
    /// Makes the folders, which `group` may enter, and the file for the console.
    ///
    /// # Errors
    ///
    /// Also where the socket's path would be too long for the system.
    pub fn make(run: &Path, dir: &Path, uri: &str, group: Option<u32>) -> Result<Self, ProveError> {
        let uuid = new_uuid()?;
        let digits = uuid.get(..8).ok_or(ProveError::Random)?;
        let record = ProveRecord {
            domain: format!("{PREFIX}{digits}"),
            uri: uri.to_owned(),
            pid: std::process::id(),
            folder: dir.join(format!("{PREFIX}{digits}")),
            uuid: uuid.clone(),
        };
        let above = run.join("prove");
        let run = above.join(digits);
        if run.join(SOCKET).as_os_str().len() > SOCKET_PATH_LEN_MAX {
            let source = io::Error::other("a socket's path has at most 107 bytes");
            return Err(ProveError::file("use", &run)(source));
        }
        for folder in [above.parent().unwrap_or(&above), &above] {
            own::make_passage(folder).map_err(ProveError::file("use", folder))?;
        }
        let text = serde_json::to_vec(&record).unwrap_or_default();
        let locked = own(&run, RECORD, &text, group)?;
        let made = || -> Result<File, ProveError> {
            let owner = own(&record.folder, OWNER, record.domain.as_bytes(), group)?;
            let console = record.folder.join(CONSOLE);
            let made = File::create_new(&console).and_then(|_| shared(&console));
            made.map_err(ProveError::file("make", &console))?;
            Ok(owner)
        };
        match made() {
            Ok(owner) => Ok(Self {
                run,
                record,
                is_kept: AtomicBool::new(false),
                _locked: [locked, owner],
            }),
            Err(error) => {
                remove(&run, &record);
                Err(error)
            }
        }
    }

    /// Returns what was made.
    pub fn record(&self) -> &ProveRecord {
        &self.record
    }

    /// Returns where the disks are to be served.
    pub fn socket(&self) -> PathBuf {
        self.run.join(SOCKET)
    }

    /// Returns the file that takes what the guest writes to its first serial line.
    pub fn console(&self) -> PathBuf {
        self.record.folder.join(CONSOLE)
    }

    /// Returns the file for the firmware's variables.
    pub fn nvram(&self) -> PathBuf {
        self.record.folder.join(NVRAM)
    }

    /// Returns the file of a disk.
    pub fn disk(&self, target: &str) -> PathBuf {
        self.record.folder.join(format!("{target}.qcow2"))
    }

    /// Leaves all to the next proof: the domain could not be ended.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for ProveFolder {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Relaxed) {
            remove(&self.run, &self.record);
        }
    }
}

/// Lets the group of a file's folder write it too.
pub(super) fn shared(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
}

/// Makes a folder with a file in it that stays locked. The text follows the lock, so that nobody
/// takes a file without one for a dead owner's.
fn own(folder: &Path, name: &str, text: &[u8], group: Option<u32>) -> Result<File, ProveError> {
    let made = fs::create_dir(folder);
    made.map_err(ProveError::file("make", folder))?;
    let fill = || -> io::Result<File> {
        if let Some(group) = group {
            lchown(folder, None, Some(group))?;
        }
        // What is made in it gets its group.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o2750))?;
        // For this user alone: whoever could open it could hold its lock.
        let mut file = own::create(&folder.join(name))?;
        flock(&file, FlockOperation::LockExclusive)?;
        file.write_all(text)?;
        Ok(file)
    };
    fill().map_err(|error| {
        drop(fs::remove_dir_all(folder));
        ProveError::file("fill", folder)(error)
    })
}

/// Removes what a proof has made; the record goes last, so that what stays is found again.
fn remove(run: &Path, record: &ProveRecord) {
    if let Some(tpm) = tpm_folder(&record.uuid) {
        drop(fs::remove_dir_all(tpm));
    }
    drop(fs::remove_dir_all(&record.folder));
    drop(fs::remove_dir_all(run));
}

/// Removes what proofs left whose processes are dead: domains, and folders below `run` and `dir`.
/// Returns how many proofs that were. What cannot be removed is said, and stands in nobody's way.
pub fn sweep(run: &Path, dir: &Path, connection: &Connection, say: &dyn Fn(&str)) -> usize {
    let mut swept = 0_usize;
    let mut staying = Vec::new();
    for (folder, record, _lock) in dead(&run.join("prove")) {
        let daemon = match record.uri == connection.uri() {
            true => Ok(connection.clone()),
            false => Connection::open(Some(&record.uri)),
        };
        let (pid, name) = (record.pid, &record.domain);
        match daemon.and_then(|daemon| end_domain(&daemon, &record)) {
            Ok(()) => {
                say(&format!(
                    "a proof by process {pid} ended midway; {name} is removed"
                ));
                remove(&folder, &record);
                swept = swept.saturating_add(1);
            }
            Err(error) => {
                say(&format!(
                    "a proof by process {pid} ended midway; {name} stays: {error}"
                ));
                staying.push(record.folder);
            }
        }
    }
    for (folder, _lock) in orphans(dir) {
        if staying.contains(&folder) {
            continue;
        }
        say(&format!(
            "{} is removed: a proof that ended midway left it",
            folder.display()
        ));
        drop(fs::remove_dir_all(folder));
        swept = swept.saturating_add(1);
    }
    swept
}

/// Ends the domain of a record, if it is there. One of another name is none of ours.
pub(super) fn end_domain(
    connection: &Connection,
    record: &ProveRecord,
) -> Result<(), LibvirtError> {
    let domain = match connection.domain(&record.uuid) {
        Err(error) if error.reason == Reason::NoDomain => return Ok(()),
        domain => domain?,
    };
    if domain.name() != record.domain {
        return Ok(());
    }
    match domain.destroy() {
        Err(error) if matches!(error.reason, Reason::NoDomain | Reason::Invalid) => Ok(()),
        destroyed => destroyed,
    }
}

/// Returns what dead proofs have recorded. A record that this user did not write, or that names
/// what no proof of its folder makes, is nobody's, and nothing is done about it.
fn dead(parent: &Path) -> Vec<(PathBuf, ProveRecord, File)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let dead = entries.filter_map(|entry| {
        let path = entry.path();
        let (file, text) = locked(&path, RECORD)?;
        let record: ProveRecord = serde_json::from_slice(&text).ok()?;
        let is_ours = record.is_of(entry.file_name().to_str()?);
        is_ours.then_some((path, record, file))
    });
    dead.collect()
}

impl ProveRecord {
    /// Returns whether a proof with the folder `digits` makes all that it names.
    fn is_of(&self, digits: &str) -> bool {
        let name = format!("{PREFIX}{digits}");
        let folder = &self.folder;
        // What was made there says whose it is, as long as it is there.
        let is_gone = fs::symlink_metadata(folder).is_err();
        let is_its = || {
            let owner = own::check_folder(folder).and_then(|()| own::read(&folder.join(OWNER)));
            owner.is_ok_and(|(_, text)| text == name.as_bytes())
        };
        is_drawn(digits)
            && self.uuid.starts_with(digits)
            && tpm_folder(&self.uuid).is_some()
            && self.domain == name
            && folder.is_absolute()
            && folder.file_name() == Some(name.as_ref())
            && (is_gone || is_its())
    }
}

/// Returns folders whose owners are dead, and nothing that another user has made.
fn orphans(dir: &Path) -> Vec<(PathBuf, File)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let orphans = entries.filter_map(|entry| {
        let name = entry.file_name();
        let path = entry.path();
        let is_ours = name.to_str()?.starts_with(PREFIX);
        let (file, text) = is_ours.then(|| locked(&path, OWNER))??;
        (text == name.as_encoded_bytes()).then_some((path, file))
    });
    orphans.collect()
}

/// Locks a file of a folder of this user's that nobody holds, and reads it.
fn locked(folder: &Path, name: &str) -> Option<(File, Vec<u8>)> {
    own::check_folder(folder).ok()?;
    let path = folder.join(name);
    let file = own::open(&path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    // Only now is it whole.
    own::read(&path).ok().map(|(_, text)| (file, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_proof_left_is_swept_and_the_living_is_not() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let (run, dir) = (parent.path().join("run"), parent.path().join("dir"));
        fs::create_dir(&dir).expect("the folder is new");
        let connection = Connection::open(Some("test:///default")).expect("it is in libvirt");
        let sweep = || sweep(&run, &dir, &connection, &|_| {});
        let uri = connection.uri().to_owned();
        let make = || ProveFolder::make(&run, &dir, &uri, None).expect("it can be made");
        let (living, dying) = (make(), make());
        assert_eq!(sweep(), 0);
        assert!(living.console().exists());

        // What kill -9 leaves: both folders, and locks that nobody holds.
        let (dead_run, record) = (dying.run.clone(), dying.record.clone());
        dying.keep();
        drop(dying);
        assert_eq!(sweep(), 1);
        assert!(!dead_run.exists() && !record.folder.exists());

        // What a reboot leaves.
        let dying = make();
        let record = dying.record.clone();
        fs::remove_dir_all(&dying.run).expect("it is there");
        dying.keep();
        drop(dying);
        // A folder that no proof made stays.
        let other = dir.join("cairn-prove-mine");
        fs::create_dir(&other).expect("the folder is new");
        assert_eq!(sweep(), 1);
        assert!(!record.folder.exists() && other.exists());

        // One whose daemon cannot be asked stays, and so does what its domain writes to.
        let dying = ProveFolder::make(&run, &dir, "no-such-driver:///", None);
        let dying = dying.expect("it can be made");
        let (run_of, record) = (dying.run.clone(), dying.record.clone());
        dying.keep();
        drop(dying);
        assert_eq!(sweep(), 0);
        assert!(run_of.exists() && record.folder.exists());

        let (run_of, record) = (living.run.clone(), living.record.clone());
        drop(living);
        assert!(!run_of.exists() && !record.folder.exists());
    }

    #[test]
    fn records_that_name_what_no_proof_makes_are_left_alone() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let (run, dir) = (parent.path().join("run"), parent.path().join("dir"));
        fs::create_dir(&dir).expect("the folder is new");
        let dying = ProveFolder::make(&run, &dir, "test:///default", None);
        let dying = dying.expect("it can be made");
        let (path, record) = (dying.run.join(RECORD), dying.record.clone());
        dying.keep();
        drop(dying);
        let above = run.join("prove");
        assert_eq!(dead(&above).len(), 1);
        let victim = dir.join("victim").join(&record.domain);
        fs::create_dir_all(&victim).expect("the folder is new");
        let forged = |forge: &dyn Fn(&mut ProveRecord)| {
            let mut forged = record.clone();
            forge(&mut forged);
            fs::write(&path, serde_json::to_vec(&forged).expect("it is encoded"))
                .expect("it is written");
            assert!(dead(&above).is_empty(), "{forged:?}");
        };
        forged(&|record| record.folder = victim.clone());
        forged(&|record| record.folder = "/etc".into());
        forged(&|record| record.domain = "web1".to_owned());
        forged(&|record| record.uuid = String::new());
        forged(&|record| record.uuid = "../../../etc".to_owned());
        // Another domain's TPM would go with it.
        forged(&|record| record.uuid = "00000000-0000-4000-8000-000000000000".to_owned());
        let text = serde_json::to_vec(&record).expect("it is encoded");
        fs::write(&path, &text).expect("it is written");
        assert_eq!(dead(&above).len(), 1);
        let elsewhere = dir.join("elsewhere");
        fs::copy(&path, &elsewhere).expect("it is there");
        fs::remove_file(&path).expect("it is there");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("links can be made");
        assert!(dead(&above).is_empty());
    }

    #[test]
    fn a_socket_that_the_system_cannot_name_is_refused() {
        let parent = tempfile::tempdir().expect("there is a folder for temporary files");
        let run = parent.path().join("x".repeat(100));
        let made = ProveFolder::make(&run, parent.path(), "test:///default", None);
        assert!(matches!(made, Err(ProveError::File { .. })));
        assert!(!run.exists());
    }
}
