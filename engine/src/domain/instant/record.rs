//! What must be known of an instant restore after every process that worked on it is gone.
//!
//! ```text
//! STATE/<uuid>.json     the record
//! STATE/<uuid>.lock     locked by the process that watches over the restore; holds its number
//! STATE/<uuid>.log      what that process says
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::domain::DomainError;
use crate::id::SnapshotId;
use crate::own;
use crate::storage::replace_file;

/// Name of the export's socket.
const SOCKET: &str = "nbd.sock";
/// Version of records.
pub const RECORD_VERSION: u32 = 1;

/// One domain that was restored at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The domain's name.
    pub domain: String,
    /// The domain's UUID.
    pub uuid: String,
    /// The libvirt daemon.
    pub uri: String,
    /// The repository's folder, absolute.
    pub repository: PathBuf,
    /// The file with the repository's passphrase, absolute.
    pub password_file: Option<PathBuf>,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What pins the snapshot.
    pub pin: String,
    /// Where the export listens.
    pub socket: PathBuf,
    /// The group that QEMU connects with, where it is not this process's.
    pub group: Option<u32>,
    /// The disks.
    pub disks: Vec<InstantDisk>,
    /// Most bytes that are pulled in a second, of each disk; 0 is no bound.
    #[serde(default)]
    pub pull_limit: u64,
    /// Whether the domain was seen to need the export. Before that, one that does not need it is
    /// not defined yet.
    pub is_defined: bool,
}

/// A disk of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstantDisk {
    /// Its name in the guest.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// The folder of all records of a host.
#[derive(Debug, Clone)]
pub struct StateFolder {
    path: PathBuf,
}

/// The right to watch over a restore; given back when dropped, and when the process ends.
#[derive(Debug)]
pub struct Watch {
    _file: File,
}

impl StateFolder {
    /// Names the folder; it is made when something is written.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, uuid: &str, extension: &str) -> PathBuf {
        self.path.join(format!("{uuid}.{extension}"))
    }

    /// Returns the file that takes what the watching process says.
    pub fn log(&self, uuid: &str) -> PathBuf {
        self.file(uuid, "log")
    }

    /// Writes a record.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub fn save(&self, record: &Record) -> Result<(), DomainError> {
        self.make()?;
        let path = self.file(&record.uuid, "json");
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        let saved = text.and_then(|text| replace_file(&path, &text));
        saved.map_err(DomainError::file("write", &path))
    }

    fn make(&self) -> Result<(), DomainError> {
        // The records say where passphrases are.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let made = builder.create(&self.path);
        let made = made.and_then(|()| own::make_private(&self.path));
        made.map_err(DomainError::file("make", &self.path))
    }

    /// Reads all records, by the names of their domains.
    pub fn all(&self) -> Result<Vec<Record>, DomainError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(DomainError::file("list", &self.path))?,
        };
        // What stands in a record is run, served and removed.
        own::check_folder(&self.path).map_err(DomainError::file("believe", &self.path))?;
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(DomainError::file("list", &self.path))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                records.extend(read(&path).map_err(DomainError::file("believe", &path))?);
            }
        }
        records.sort_by(|a, b| a.domain.cmp(&b.domain));
        Ok(records)
    }

    /// Finds a record by the domain's name or UUID.
    pub fn find(&self, name: &str) -> Result<Option<Record>, DomainError> {
        let all = self.all()?;
        let by_uuid = all.iter().find(|record| record.uuid == name);
        let found = by_uuid.or_else(|| all.iter().find(|record| record.domain == name));
        Ok(found.cloned())
    }

    /// Removes a record and what belongs to it.
    pub fn remove(&self, uuid: &str) -> Result<(), DomainError> {
        for extension in ["json", "log", "lock"] {
            let path = self.file(uuid, extension);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(DomainError::file("remove", &path))?,
            }
        }
        Ok(())
    }

    /// Takes the right to watch over a restore, if nobody has it.
    pub fn watch(&self, uuid: &str) -> Result<Option<Watch>, DomainError> {
        self.make()?;
        let path = self.file(uuid, "lock");
        let file = own::open_lock(&path).map_err(DomainError::file("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked.map_err(|error| DomainError::file("lock", &path)(error.into()))?,
        }
        let text = format!("{:>10}\n", std::process::id());
        let written = file.write_all_at(text.as_bytes(), 0);
        written.map_err(DomainError::file("write", &path))?;
        Ok(Some(Watch { _file: file }))
    }

    /// Returns the process that watches over a restore, if one does.
    pub fn watcher(&self, uuid: &str) -> Option<u32> {
        let mut file = own::open(&self.file(uuid, "lock")).ok()?;
        let is_free = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok().filter(|_| !is_free)
    }
}

/// Reads a record; one that another process removed meanwhile is none.
fn read(path: &Path) -> io::Result<Option<Record>> {
    let text = match own::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?.1,
    };
    let record: Record = serde_json::from_slice(&text)?;
    if record.version != RECORD_VERSION {
        let text = format!("its version {} is not known", record.version);
        return Err(io::Error::other(text));
    }
    // The folder of the socket is removed by the name that stands here.
    let socket = Path::new("instant").join(&record.uuid).join(SOCKET);
    let is_its = path.file_stem() == Some(record.uuid.as_ref()) && !record.uuid.contains('/');
    if !is_its || !record.socket.is_absolute() || !record.socket.ends_with(socket) {
        return Err(io::Error::other("it names what is not its own"));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(domain: &str, uuid: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            domain: domain.to_owned(),
            uuid: uuid.to_owned(),
            uri: "test:///default".to_owned(),
            repository: PathBuf::from("/r"),
            password_file: None,
            snapshot: SnapshotId::from_bytes([1; 32]),
            pin: format!("instant {uuid} host"),
            socket: Path::new("/run/instant").join(uuid).join(SOCKET),
            group: Some(107),
            disks: Vec::new(),
            pull_limit: 0,
            is_defined: false,
        }
    }

    #[test]
    fn records_are_found_by_name_and_uuid_until_they_are_removed() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let states = StateFolder::new(folder.path().join("new"));
        assert!(states.all().expect("there is none yet").is_empty());
        let (web, db) = (record("web", "u1"), record("db", "u2"));
        for record in [&web, &db] {
            states.save(record).expect("it can be written");
        }
        let found = |name| states.find(name).expect("they can be read");
        assert_eq!(found("web"), Some(web));
        assert_eq!(found("u2"), Some(db));
        states.remove("u1").expect("it is there");
        states.remove("u1").expect("once more does no harm");
        assert_eq!((found("web"), found("u1")), (None, None));
    }

    #[test]
    fn records_that_name_what_is_not_their_own_are_refused() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let states = StateFolder::new(folder.path().join("new"));
        let refused = |record: &Record, file: &str| {
            let path = states.path().join(file);
            let text = serde_json::to_vec(record).expect("it is encoded");
            fs::write(&path, text).expect("the folder is there");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
            assert!(states.all().is_err(), "{record:?}");
            fs::remove_file(path).expect("it is there");
        };
        let web = record("web", "u1");
        states.save(&web).expect("it can be written");
        refused(&web, "u2.json");
        refused(&record("web", "../u"), "u.json");
        let socket = |socket: &str| {
            let mut record = record("web", "u2");
            record.socket = socket.into();
            refused(&record, "u2.json");
        };
        socket("/etc/shadow");
        socket("/run/instant/u1/nbd.sock");
        socket("instant/u2/nbd.sock");
        let path = states.path().join("u1.json");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
        assert!(states.all().is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        assert_eq!(states.all().expect("it is ours").len(), 1);
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(states.path(), open).expect("it is ours");
        assert!(states.all().is_err());
    }

    #[test]
    fn one_process_watches() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let states = StateFolder::new(folder.path().to_owned());
        let watch = states.watch("u").expect("the folder can be written");
        assert!(watch.is_some());
        assert_eq!(states.watcher("u"), Some(std::process::id()));
        assert!(states.watch("u").expect("it is there").is_none());
        drop(watch);
        assert_eq!(states.watcher("u"), None);
    }
}
