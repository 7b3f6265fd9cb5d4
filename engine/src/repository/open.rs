//! Makes and opens repositories.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{new_slot, unlock};
use super::{RepositoryError, spare};
use crate::chunker::ChunkerSettings;
use crate::crypto::{Keys, MasterKey, Passphrase};
use crate::format::config::{Compression, Config};
use crate::format::session::SessionKind;
use crate::format::{FormatError, Salt};
use crate::id::{RepositoryId, SessionId};
use crate::limits::SMALL_DOCUMENT_LEN_MAX;
use crate::storage::{
    Existing, Name, SharedStorage, Storage, StorageError, is_shared, make_private_folder,
};

/// Settings of a repository to be made. They are fixed for its life.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// How disks are cut.
    pub chunker: ChunkerSettings,
    /// How frames are compressed.
    pub compression: Compression,
    /// Plain length that frames are filled to.
    pub frame_len: u32,
    /// Stored length at which packs are sealed.
    pub pack_len: u64,
    /// For how long forgotten snapshots rest, in seconds; a week where nothing is said.
    pub grace_seconds: Option<u64>,
    /// How much parity every pack gets, in percent of it; none where nothing is said.
    pub parity_percent: Option<u8>,
}

/// How a repository is opened on this machine.
#[derive(Clone)]
pub struct OpenOptions {
    /// Folder of the repository, where it is a local one: its index may live inside.
    pub local: Option<PathBuf>,
    /// The user's cache folder, for the index of every other repository.
    pub cache: PathBuf,
}

impl OpenOptions {
    /// Returns where the repository is, in one way whichever leads to it.
    fn place(&self, storage: &dyn Storage) -> String {
        match &self.local {
            Some(local) => {
                let path = std::fs::canonicalize(local);
                path.as_ref().unwrap_or(local).display().to_string()
            }
            None => storage.location(),
        }
    }

    /// Returns what tells the place of a repository from others, as a file name.
    pub(super) fn place_name(&self, storage: &dyn Storage) -> String {
        let place = self.place(storage);
        blake3::hash(place.as_bytes()).to_hex().to_string()
    }

    /// Returns what tells the place as it was named, where links lead elsewhere from there. Whoever
    /// can make a link of the folder must not make it one that was never seen.
    pub(super) fn named_place(&self) -> Option<String> {
        let local = std::path::absolute(self.local.as_ref()?).ok()?;
        let leads_on = std::fs::canonicalize(&local).is_ok_and(|place| place != local);
        let name = || blake3::hash(local.as_os_str().as_encoded_bytes());
        leads_on.then(|| name().to_hex().to_string())
    }

    /// Returns the folder of what this client remembers of a repository. A copy elsewhere has the
    /// same id, and packs, snapshots and sessions of its own.
    pub(super) fn folder_of(&self, storage: &dyn Storage, repository: RepositoryId) -> PathBuf {
        let of_id = self.cache.join(repository.to_hex());
        of_id.join(&self.place_name(storage)[..16])
    }
}

/// A repository whose settings are known and whose keys are open.
pub struct Repository {
    storage: SharedStorage,
    config: Config,
    chunker: ChunkerSettings,
    keys: Arc<Keys>,
    index_folder: PathBuf,
    temp: Temp,
    memory_file: PathBuf,
}

/// Where a session's private files go.
enum Temp {
    /// With the unfinished uploads of the local repository at this path: cleared with them.
    Session(PathBuf),
    /// Into this folder.
    Cache(PathBuf),
}

impl Repository {
    /// Makes a repository in a storage that holds nothing yet, and opens it. It is encrypted
    /// exactly if a passphrase is given.
    ///
    /// # Durability
    ///
    /// Durable on return. `config` is written last: without it there is no repository.
    pub fn init(
        storage: SharedStorage,
        settings: &InitOptions,
        passphrase: Option<&Passphrase>,
        options: &OpenOptions,
    ) -> Result<Arc<Self>, RepositoryError> {
        let id = RepositoryId::from_bytes(*Salt::draw().as_bytes());
        let salt = passphrase.map(|_| Salt::draw());
        let mut config = Config::new(id, jiff::Timestamp::now(), salt);
        config.chunker.average = settings.chunker.average();
        config.compression = settings.compression;
        config.frame_len = settings.frame_len;
        config.pack_len = settings.pack_len;
        config.grace_seconds = settings.grace_seconds;
        config.parity_percent = settings.parity_percent;

        let session = open_session(&*storage, "init")?;
        let keys = match passphrase {
            None => Keys::plain(id),
            Some(passphrase) => {
                let master = MasterKey::draw();
                let slot = new_slot(&config, &master, passphrase, "init")?;
                storage.put(
                    session.id(),
                    &Name::Key(slot.id),
                    &slot.stored,
                    Existing::Refuse,
                )?;
                Keys::sealed(id, &master)
            }
        };
        let document = |source| RepositoryError::Document {
            object: Name::Config,
            source,
        };
        let stored = config
            .encode(|bytes| keys.config_mac(bytes))
            .map_err(document)?;
        let put = storage.put(session.id(), &Name::Config, &stored, Existing::Refuse);
        put.map_err(|error| match error {
            StorageError::Exists(_) => RepositoryError::NotEmpty {
                location: storage.location(),
            },
            error => error.into(),
        })?;
        drop(session);
        // A medium that is full by now may get room later; a collection tries again.
        drop(storage.keep_reserve());
        spare::keep(&*storage, options, &stored);
        Self::assemble(storage, config, keys, options)
    }

    /// Reads the settings of a repository, and opens its keys. `passphrase` is asked for one only
    /// where one is needed; what it answers in vain is a wrong passphrase.
    ///
    /// `given` tells that the user gave a passphrase: an unencrypted `config` is refused then, so
    /// that nobody can switch encryption off unseen; and so it is, whatever is given, where this
    /// client knows the place as an encrypted repository's.
    pub fn open<E: From<RepositoryError>>(
        storage: SharedStorage,
        options: &OpenOptions,
        given: bool,
        passphrase: impl FnOnce() -> Result<Passphrase, E>,
    ) -> Result<Arc<Self>, E> {
        let (stored, config) = read_config(&*storage)?;
        spare::check_encryption(&*storage, options, &config)?;
        let keys = match &config.encryption {
            None if given => return Err(RepositoryError::NotEncrypted.into()),
            None => Keys::plain(config.repository_id),
            Some(_) => {
                let (_, master) = unlock(&*storage, &config, &passphrase()?)?;
                Keys::sealed(config.repository_id, &master)
            }
        };
        let verified = Config::verify(&stored, |bytes| keys.config_mac(bytes));
        verified.map_err(|error| match error {
            FormatError::AuthenticationFailed { .. } => RepositoryError::ConfigForged,
            source => RepositoryError::Document {
                object: Name::Config,
                source,
            },
        })?;
        spare::keep(&*storage, options, &stored);
        Ok(Self::assemble(storage, config, keys, options)?)
    }

    fn assemble(
        storage: SharedStorage,
        config: Config,
        keys: Keys,
        options: &OpenOptions,
    ) -> Result<Arc<Self>, RepositoryError> {
        let cache = options.folder_of(&*storage, config.repository_id);
        let (index_folder, temp) = match &options.local {
            Some(local) if !keys.is_sealed() && !is_shared(local) => {
                (local.join("index"), Temp::Session(local.clone()))
            }
            _ => (cache.join("index"), Temp::Cache(cache.join("tmp"))),
        };
        let memory_file = cache.join("newest");
        let average = config.chunker.average;
        let chunker = ChunkerSettings::new(average).map_err(|_| RepositoryError::Document {
            object: Name::Config,
            source: FormatError::Malformed {
                rule: "an average chunk size that cannot be",
            },
        })?;
        Ok(Arc::new(Self {
            storage,
            config,
            chunker,
            keys: Arc::new(keys),
            index_folder,
            temp,
            memory_file,
        }))
    }

    /// Returns where its objects are.
    pub fn storage(&self) -> &SharedStorage {
        &self.storage
    }

    /// Returns its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns how it cuts disks.
    pub fn chunker(&self) -> ChunkerSettings {
        self.chunker
    }

    /// Returns what it hashes and seals with.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Returns the file in which this client remembers the newest snapshot.
    pub(super) fn memory_file(&self) -> &Path {
        &self.memory_file
    }

    /// Returns a folder for a session's private files; makes it where need be.
    pub(super) fn temp_folder(&self, session: SessionId) -> Result<PathBuf, RepositoryError> {
        let folder = match &self.temp {
            Temp::Session(local) => local.join("tmp").join(session.to_hex()),
            Temp::Cache(folder) => {
                self.clear_temp(folder);
                folder.join(session.to_hex())
            }
        };
        make_private_folder(&folder).map_err(|source| StorageError::Io {
            op: "make",
            object: folder.display().to_string(),
            source,
        })?;
        Ok(folder)
    }

    /// Removes what dead sessions left in the cache. What cannot be removed is in nobody's way.
    fn clear_temp(&self, folder: &Path) {
        let (Ok(entries), Ok(sessions)) = (std::fs::read_dir(folder), self.storage.sessions())
        else {
            return;
        };
        for entry in entries.flatten() {
            let id: Option<SessionId> = entry.file_name().to_str().and_then(|id| id.parse().ok());
            let alive = |id| {
                sessions
                    .iter()
                    .any(|session| session.alive && session.id == id)
            };
            if id.is_some_and(|id| !alive(id)) {
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
    }

    /// Opens a session that writes, without the packs and the index.
    pub(crate) fn open_writer(
        &self,
        command: &str,
    ) -> Result<Box<dyn crate::storage::Session>, RepositoryError> {
        open_session(&*self.storage, command)
    }

    /// Returns whether its index lies inside of it, for all clients.
    pub(super) fn is_index_inside(&self) -> bool {
        matches!(self.temp, Temp::Session(_))
    }

    /// Returns the folder of its index.
    pub fn index_folder(&self) -> &Path {
        &self.index_folder
    }
}

/// Reads `config`, without trusting it yet.
pub(crate) fn read_config(storage: &dyn Storage) -> Result<(Vec<u8>, Config), RepositoryError> {
    let object = Name::Config;
    let stored = storage
        .read(&object, SMALL_DOCUMENT_LEN_MAX)
        .map_err(|error| match error {
            StorageError::NotFound(_) => RepositoryError::NoRepository {
                location: storage.location(),
            },
            error => error.into(),
        })?;
    let config = Config::decode(&stored);
    let config = config.map_err(|source| RepositoryError::Document { object, source })?;
    Ok((stored, config))
}

/// Opens a session that writes documents only, and so needs neither packs nor index.
pub(super) fn open_session(
    storage: &dyn Storage,
    command: &str,
) -> Result<Box<dyn crate::storage::Session>, RepositoryError> {
    let document = super::session_document(SessionKind::Writer, command, Vec::new())?;
    Ok(storage.open_session(&document)?)
}
