//! Key slots: passphrases that open the repository.

use std::sync::Arc;

use jiff::Timestamp;

use super::open::open_session;
use super::{Repository, RepositoryError};
use crate::crypto::{self, MasterKey, Passphrase, create_slot};
use crate::format::config::Config;
use crate::format::keys::KeySlot;
use crate::id::KeyId;
use crate::limits::SMALL_DOCUMENT_LEN_MAX;
use crate::storage::{Area, Existing, Name, Storage, StorageError};

/// What is known of a key slot without opening it.
#[derive(Debug, Clone)]
pub struct KeySlotInfo {
    /// Its id.
    pub id: KeyId,
    /// What it was called when it was made.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A slot that is to be stored.
pub(super) struct NewSlot {
    pub(super) id: KeyId,
    pub(super) stored: Vec<u8>,
}

/// Wraps the master key under a passphrase.
pub(super) fn new_slot(
    config: &Config,
    master: &MasterKey,
    passphrase: &Passphrase,
    label: &str,
) -> Result<NewSlot, RepositoryError> {
    let encryption = config
        .encryption
        .as_ref()
        .ok_or(RepositoryError::NotEncrypted)?;
    let (repository, now) = (config.repository_id, Timestamp::now());
    let slot = create_slot(
        master,
        passphrase,
        repository,
        encryption,
        label.to_owned(),
        now,
    )?;
    let stored = slot.encode().map_err(RepositoryError::KeySlot)?;
    let id = KeyId::from_bytes(*blake3::hash(&stored).as_bytes());
    Ok(NewSlot { id, stored })
}

/// Reads one key slot, checked against its name.
pub(super) fn read_slot(storage: &dyn Storage, id: KeyId) -> Result<KeySlot, RepositoryError> {
    let object = Name::Key(id);
    let stored = storage.read(&object, SMALL_DOCUMENT_LEN_MAX)?;
    if blake3::hash(&stored) != *id.as_bytes() {
        return Err(RepositoryError::NameMismatch { object });
    }
    KeySlot::decode(&stored).map_err(|source| RepositoryError::Document { object, source })
}

/// Reads every key slot. Damaged ones are left out: another may still open the repository.
pub(super) fn read_slots(storage: &dyn Storage) -> Result<Vec<(KeyId, KeySlot)>, RepositoryError> {
    let mut slots = Vec::new();
    for listed in storage.list(Area::Keys)? {
        let Name::Key(id) = listed.name else { continue };
        match read_slot(storage, id) {
            Ok(slot) => slots.push((id, slot)),
            Err(error) if error.is_damage() || error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(slots)
}

/// Opens whichever slot the passphrase fits, and says which.
pub(super) fn unlock(
    storage: &dyn Storage,
    config: &Config,
    passphrase: &Passphrase,
) -> Result<(KeyId, MasterKey), RepositoryError> {
    let slots = read_slots(storage)?;
    if slots.is_empty() {
        check_none_is_newer(storage)?;
    }
    unlock_with(slots, config, passphrase)
}

/// Fails with what a key slot of a newer version is refused by, where there is one.
fn check_none_is_newer(storage: &dyn Storage) -> Result<(), RepositoryError> {
    for listed in storage.list(Area::Keys)? {
        if let Name::Key(id) = listed.name
            && let Err(error) = read_slot(storage, id)
            && error.is_unsupported()
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Opens whichever of these slots the passphrase fits, and says which.
pub(super) fn unlock_with(
    slots: Vec<(KeyId, KeySlot)>,
    config: &Config,
    passphrase: &Passphrase,
) -> Result<(KeyId, MasterKey), RepositoryError> {
    let (ids, slots): (Vec<KeyId>, Vec<KeySlot>) = slots.into_iter().unzip();
    if slots.is_empty() {
        return Err(RepositoryError::NoKeySlots);
    }
    let encryption = config
        .encryption
        .as_ref()
        .ok_or(RepositoryError::NotEncrypted)?;
    let (place, master) = crypto::unlock(&slots, passphrase, config.repository_id, encryption)?;
    let id = *ids.get(place).expect("one id for each slot");
    Ok((id, master))
}

impl Repository {
    /// Returns the key slots that cannot be read, and why.
    pub fn damaged_key_slots(&self) -> Result<Vec<(KeyId, RepositoryError)>, RepositoryError> {
        let mut damaged = Vec::new();
        for listed in self.storage().list(Area::Keys)? {
            let Name::Key(id) = listed.name else { continue };
            if let Err(error) = read_slot(&**self.storage(), id) {
                damaged.push((id, error));
            }
        }
        Ok(damaged)
    }

    /// Lists the key slots.
    pub fn key_slots(&self) -> Result<Vec<KeySlotInfo>, RepositoryError> {
        let slots = read_slots(&**self.storage())?.into_iter();
        let info = |(id, slot): (KeyId, KeySlot)| KeySlotInfo {
            id,
            label: slot.label,
            created: slot.created,
        };
        Ok(slots.map(info).collect())
    }

    /// Returns the slot that a passphrase opens.
    pub fn slot_of(&self, passphrase: &Passphrase) -> Result<KeyId, RepositoryError> {
        Ok(unlock(&**self.storage(), self.config(), passphrase)?.0)
    }

    /// Adds a slot for another passphrase. `current` must open the repository.
    pub fn add_key(
        self: &Arc<Self>,
        current: &Passphrase,
        passphrase: &Passphrase,
        label: &str,
    ) -> Result<KeyId, RepositoryError> {
        let storage = &**self.storage();
        let (_, master) = unlock(storage, self.config(), current)?;
        let slot = new_slot(self.config(), &master, passphrase, label)?;
        let session = open_session(storage, "key add")?;
        storage.put(
            session.id(),
            &Name::Key(slot.id),
            &slot.stored,
            Existing::Refuse,
        )?;
        Ok(slot.id)
    }

    /// Removes a slot; never the last. Whoever copied its file, or knows the master key, keeps
    /// access.
    pub fn remove_key(&self, id: KeyId) -> Result<(), RepositoryError> {
        let name = Name::Key(id);
        let slots = read_slots(&**self.storage())?;
        if !slots.iter().any(|(slot, _)| *slot == id) {
            return Err(RepositoryError::NoSuchKey(id));
        }
        if slots.len() < 2 {
            return Err(RepositoryError::LastKey);
        }
        let stored = self.storage().read(&name, SMALL_DOCUMENT_LEN_MAX)?;
        self.storage().delete(&name)?;
        self.storage().settle(&name)?;
        // Two who each remove one of the last two slots would lock everyone out: both put theirs
        // back.
        if read_slots(&**self.storage())?.is_empty() {
            let session = open_session(&**self.storage(), "key remove")?;
            match self
                .storage()
                .put(session.id(), &name, &stored, Existing::Refuse)
            {
                Ok(()) | Err(StorageError::Exists(_)) => {}
                Err(error) => return Err(error.into()),
            }
            return Err(RepositoryError::LastKey);
        }
        Ok(())
    }

    /// Replaces the slot that `current` opens by one for `passphrase`.
    pub fn change_passphrase(
        self: &Arc<Self>,
        current: &Passphrase,
        passphrase: &Passphrase,
    ) -> Result<KeyId, RepositoryError> {
        let slots = read_slots(&**self.storage())?;
        let old = self.slot_of(current)?;
        let label = slots
            .into_iter()
            .find(|(id, _)| *id == old)
            .map(|(_, slot)| slot.label);
        // The new slot is durable before the old one goes.
        let id = self.add_key(current, passphrase, &label.unwrap_or_default())?;
        self.storage().delete(&Name::Key(old))?;
        self.storage().settle(&Name::Key(old))?;
        Ok(id)
    }
}
