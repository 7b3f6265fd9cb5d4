//! Copies of `config` and of the key slots, which every client keeps in its cache folder: without
//! these few bytes a repository cannot be opened, however whole the rest of it is.
//!
//! They lie under the hash of the repository's place, since a damaged `config` does not even tell
//! which repository it is. A copy is believed as `config` is: once its MAC is checked.

use std::path::PathBuf;

use super::keys::{read_slot, unlock_with};
use super::open::{OpenOptions, Repository, open_session, read_config};
use super::{RepositoryError, keys};
use crate::crypto::{Keys, Passphrase};
use crate::format::FormatError;
use crate::format::config::Config;
use crate::format::keys::KeySlot;
use crate::id::KeyId;
use crate::limits::SMALL_DOCUMENT_LEN_MAX;
use crate::storage::{
    Area, Existing, Name, SharedStorage, Storage, StorageError, make_private_folder, replace_file,
};

/// What was put back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PutBack {
    /// Whether `config` was.
    pub config: bool,
    /// The key slots that were.
    pub keys: Vec<KeyId>,
}

/// Where the copies of one repository lie.
struct Spare(PathBuf);

impl Spare {
    fn of(storage: &dyn Storage, options: &OpenOptions) -> Self {
        let name = options.place_name(storage);
        Self(options.cache.join("spare").join(name))
    }

    /// Returns what is kept of where the repository is, and of the link that was named.
    fn of_all_names(storage: &dyn Storage, options: &OpenOptions) -> impl Iterator<Item = Self> {
        let named = options.named_place();
        let named = named.map(|name| Self(options.cache.join("spare").join(name)));
        [Self::of(storage, options)].into_iter().chain(named)
    }

    fn file(&self, name: Name) -> PathBuf {
        self.0.join(name.path())
    }

    fn read(&self, name: Name) -> Option<Vec<u8>> {
        let path = self.file(name);
        let len = std::fs::metadata(&path).ok()?.len();
        (len <= SMALL_DOCUMENT_LEN_MAX).then(|| std::fs::read(path).ok())?
    }

    /// Returns whether what was here was encrypted.
    fn is_encrypted(&self) -> bool {
        let kept = self.read(Name::Config);
        let kept = kept.and_then(|stored| Config::decode(&stored).ok());
        kept.is_some_and(|kept| kept.encryption.is_some())
    }

    /// Keeps a copy. One that cannot be kept is none: it protects, and must not be in the way.
    fn keep(&self, name: Name, bytes: &[u8]) {
        if self.read(name).is_some_and(|kept| kept == bytes) {
            return;
        }
        let path = self.file(name);
        let made = path.parent().map(make_private_folder);
        if made.is_some_and(|made| made.is_ok()) {
            drop(replace_file(&path, bytes));
        }
    }

    /// Returns the copies of key slots whose bytes have their names.
    fn slots(&self) -> Vec<(KeyId, KeySlot)> {
        let entries = std::fs::read_dir(self.0.join("keys"));
        let mut slots = Vec::new();
        for entry in entries.into_iter().flatten().flatten() {
            let id: Option<KeyId> = entry.file_name().to_str().and_then(|id| id.parse().ok());
            if let Some(id) = id
                && let Some(stored) = self.slot(id)
                && let Ok(slot) = KeySlot::decode(&stored)
            {
                slots.push((id, slot));
            }
        }
        slots
    }

    fn slot(&self, id: KeyId) -> Option<Vec<u8>> {
        let stored = self.read(Name::Key(id))?;
        (blake3::hash(&stored) == *id.as_bytes()).then_some(stored)
    }
}

/// Fails if a `config` says that a repository is not encrypted which was, when this client opened
/// it last: whoever can write to the storage could have all that comes stored in the clear.
///
/// To be asked before anything is asked of the user, stored, or remembered: the copy is the proof.
pub(crate) fn check_encryption(
    storage: &dyn Storage,
    options: &OpenOptions,
    config: &Config,
) -> Result<(), RepositoryError> {
    if config.encryption.is_some() {
        return Ok(());
    }
    let mut spares = Spare::of_all_names(storage, options);
    match spares.find(Spare::is_encrypted) {
        Some(spare) => Err(RepositoryError::Downgraded {
            location: storage.location(),
            proof: spare.file(Name::Config),
        }),
        None => Ok(()),
    }
}

/// Keeps copies of a `config` whose MAC was checked, and of the key slots that can be read.
pub(super) fn keep(storage: &dyn Storage, options: &OpenOptions, config: &[u8]) {
    for spare in Spare::of_all_names(storage, options) {
        spare.keep(Name::Config, config);
    }
    let spare = Spare::of(storage, options);
    for listed in storage.list(Area::Keys).unwrap_or_default() {
        if let Name::Key(id) = listed.name
            && spare.slot(id).is_none()
            && let Ok(stored) = storage.read(&listed.name, SMALL_DOCUMENT_LEN_MAX)
            && blake3::hash(&stored) == *id.as_bytes()
        {
            spare.keep(listed.name, &stored);
        }
    }
}

impl Repository {
    /// Returns whether this client keeps a copy of a repository's `config`.
    pub fn has_spare(storage: &dyn Storage, options: &OpenOptions) -> bool {
        Spare::of(storage, options).read(Name::Config).is_some()
    }

    /// Returns whether a repository's `config`, which never changes, is other than the copy that
    /// this client keeps. Damage in it may look like a wrong passphrase.
    pub fn differs_from_spare(storage: &dyn Storage, options: &OpenOptions) -> bool {
        let kept = Spare::of(storage, options).read(Name::Config);
        let stored = storage.read(&Name::Config, SMALL_DOCUMENT_LEN_MAX);
        kept.is_some_and(|kept| stored.is_ok_and(|stored| stored != kept))
    }

    /// Puts `config` and key slots that are damaged back from the copies that this client keeps.
    /// The repository need not be one that can be opened.
    ///
    /// A slot that is not there is not put back, unless none can be read: it may have been removed.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NoSpare`] where there is no copy, and all that opening a repository may
    /// fail with: the copy is checked as `config` is.
    pub fn put_back<E: From<RepositoryError>>(
        storage: &SharedStorage,
        options: &OpenOptions,
        passphrase: impl FnOnce() -> Result<Passphrase, E>,
    ) -> Result<PutBack, E> {
        let spare = Spare::of(&**storage, options);
        let document = |source| RepositoryError::Document {
            object: Name::Config,
            source,
        };
        let stored = spare.read(Name::Config).ok_or(RepositoryError::NoSpare)?;
        let config = Config::decode(&stored).map_err(document)?;
        let mut slots = keys::read_slots(&**storage)?;
        let damaged = damaged_slots(&**storage)?;
        // Another repository at the same place has slots of its own: those here must not open it.
        let has_slot = !slots.is_empty();
        let copies = spare.slots().into_iter();
        slots.extend(copies.filter(|(id, _)| !has_slot || damaged.contains(id)));
        let (opened, keys) = match &config.encryption {
            None => (None, Keys::plain(config.repository_id)),
            Some(_) => {
                let (id, master) = unlock_with(slots, &config, &passphrase()?)?;
                (Some(id), Keys::sealed(config.repository_id, &master))
            }
        };
        let verified = Config::verify(&stored, |bytes| keys.config_mac(bytes));
        verified.map_err(|error| match error {
            FormatError::AuthenticationFailed { .. } => RepositoryError::ConfigForged,
            source => document(source),
        })?;
        let absent = opened.filter(|id| !has_slot && !damaged.contains(id));
        let is_whole = read_config(&**storage).is_ok_and(|(stored, _)| {
            Config::verify(&stored, |bytes| keys.config_mac(bytes)).is_ok()
        });
        let config = (!is_whole).then_some(stored.as_slice());
        let slots = damaged.into_iter().chain(absent);
        let done = put(&**storage, &spare, config, slots)?;
        Ok(done)
    }
}

/// Returns the slots that are there and damaged.
fn damaged_slots(storage: &dyn Storage) -> Result<Vec<KeyId>, RepositoryError> {
    let mut damaged = Vec::new();
    for listed in storage.list(Area::Keys)? {
        if let Name::Key(id) = listed.name
            && read_slot(storage, id).is_err_and(|error| error.is_damage())
        {
            damaged.push(id);
        }
    }
    Ok(damaged)
}

/// Puts back what is not as it was.
///
/// # Durability
///
/// Durable on return. Key slots come first: a `config` needs one that opens.
fn put(
    storage: &dyn Storage,
    spare: &Spare,
    config: Option<&[u8]>,
    slots: impl Iterator<Item = KeyId>,
) -> Result<PutBack, RepositoryError> {
    let session = open_session(storage, "repair")?;
    let mut done = PutBack::default();
    for id in slots {
        if let Some(stored) = spare.slot(id) {
            storage.put(session.id(), &Name::Key(id), &stored, Existing::Replace)?;
            done.keys.push(id);
        }
    }
    if let Some(config) = config {
        // What stands there is kept: nobody can say what it was.
        match storage.set_aside(&Name::Config) {
            Ok(()) | Err(StorageError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        storage.put(session.id(), &Name::Config, config, Existing::Refuse)?;
        done.config = true;
    }
    Ok(done)
}
