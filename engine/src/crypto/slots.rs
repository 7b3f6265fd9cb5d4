//! Key slots: making and opening them. Specified in `docs/format.md`, "Key slots".

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::secret::{MasterKey, Passphrase};
use crate::format::config::EncryptionConfig;
use crate::format::keys::{KEY_SLOT_VERSION, KeySlot, PASSPHRASE_SLOT, WRAPPED_LEN};
use crate::format::{Salt, Unknown};
use crate::id::RepositoryId;

/// Why the master key could not be had, or a slot not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnlockError {
    /// The passphrase opens none of the slots.
    #[error("wrong passphrase: it opens none of {slots} key slots")]
    WrongPassword {
        /// How many slots were tried.
        slots: usize,
    },
    /// There is no memory for the derivation.
    #[error("cannot derive a key from the passphrase within {memory_kib} KiB")]
    Derivation {
        /// Memory that the repository's config asks for.
        memory_kib: u32,
        /// The reason.
        source: argon2::Error,
    },
}

/// The key that a passphrase gives in one repository.
type PassphraseKey = Zeroizing<[u8; 32]>;

/// Wraps the master key for a passphrase, in a new slot.
///
/// # Panics
///
/// Panics if the system has no random bytes to give.
pub fn create_slot(
    master: &MasterKey,
    passphrase: &Passphrase,
    repository: RepositoryId,
    config: &EncryptionConfig,
    label: String,
    created: Timestamp,
) -> Result<KeySlot, UnlockError> {
    let passphrase_key = derive(passphrase, config)?;
    let salt = *Salt::draw().as_bytes();
    let mut key = Zeroizing::new(*master.as_bytes());
    let tag = wrapping_cipher(&passphrase_key, &salt)
        .seal_in_place_separate_tag(zero_nonce(), aad(repository), key.as_mut_slice())
        .expect("a key is far shorter than the cipher's limit");
    let mut wrapped = [0; WRAPPED_LEN];
    let (sealed_part, tag_part) = wrapped.split_at_mut(MasterKey::LEN);
    sealed_part.copy_from_slice(key.as_slice());
    tag_part.copy_from_slice(tag.as_ref());
    Ok(KeySlot {
        version: KEY_SLOT_VERSION,
        kind: PASSPHRASE_SLOT.to_owned(),
        label,
        created,
        salt,
        wrapped,
        unknown: Unknown::new(),
    })
}

/// Returns the master key if the passphrase opens any of the slots, and which. Runs argon2id once,
/// whatever the number of slots.
///
/// `config` need not be verified yet: with other parameters than the writer's, no slot opens. Check
/// it with the key before anything else is done.
pub fn unlock(
    slots: &[KeySlot],
    passphrase: &Passphrase,
    repository: RepositoryId,
    config: &EncryptionConfig,
) -> Result<(usize, MasterKey), UnlockError> {
    let passphrase_key = derive(passphrase, config)?;
    let mut tried = 0_usize;
    let passphrase_slots = slots.iter().enumerate();
    for (place, slot) in passphrase_slots.filter(|(_, slot)| slot.kind == PASSPHRASE_SLOT) {
        tried = tried.saturating_add(1);
        let mut wrapped = Zeroizing::new(slot.wrapped);
        let opened = wrapping_cipher(&passphrase_key, &slot.salt).open_in_place(
            zero_nonce(),
            aad(repository),
            wrapped.as_mut_slice(),
        );
        if let Ok(key) = opened
            && let Ok(key) = <[u8; MasterKey::LEN]>::try_from(&*key)
        {
            return Ok((place, MasterKey::from_bytes(key)));
        }
    }
    Err(UnlockError::WrongPassword { slots: tried })
}

fn derive(
    passphrase: &Passphrase,
    config: &EncryptionConfig,
) -> Result<PassphraseKey, UnlockError> {
    let mut key = Zeroizing::new([0; 32]);
    Params::new(
        config.memory_kib,
        config.passes,
        config.lanes,
        Some(key.len()),
    )
    .and_then(|params| {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
            passphrase.as_bytes(),
            config.salt.as_bytes(),
            key.as_mut_slice(),
        )
    })
    .map_err(|source| UnlockError::Derivation {
        memory_kib: config.memory_kib,
        source,
    })?;
    Ok(key)
}

/// Returns the cipher of one slot. Its key seals one message ever, so the nonce can be zero: each
/// slot has a random salt.
fn wrapping_cipher(passphrase_key: &PassphraseKey, slot_salt: &[u8; 32]) -> LessSafeKey {
    let key = Zeroizing::new(<[u8; 32]>::from(blake3::keyed_hash(
        passphrase_key,
        slot_salt,
    )));
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice());
    LessSafeKey::new(key.expect("the key has the cipher's length"))
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aad(repository: RepositoryId) -> Aad<Vec<u8>> {
    Aad::from([repository.as_bytes().as_slice(), b"key slot"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([8; 32]);

    fn cheap() -> EncryptionConfig {
        EncryptionConfig {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
            salt: Salt::from_bytes([3; 32]),
        }
    }

    fn slot(passphrase: &str) -> Result<(MasterKey, KeySlot), UnlockError> {
        let master = MasterKey::from_bytes([9; 32]);
        let phrase = Passphrase::new(passphrase.as_bytes().to_vec());
        let slot = create_slot(
            &master,
            &phrase,
            REPOSITORY,
            &cheap(),
            "test".to_owned(),
            Timestamp::UNIX_EPOCH,
        )?;
        Ok((master, slot))
    }

    fn open(slots: &[KeySlot], text: &str, id: RepositoryId) -> Option<[u8; 32]> {
        let passphrase = Passphrase::new(text.as_bytes().to_vec());
        let (_, master) = unlock(slots, &passphrase, id, &cheap()).ok()?;
        Some(*master.as_bytes())
    }

    #[test]
    fn any_of_several_slots_opens() -> Result<(), UnlockError> {
        let (master, first) = slot("first")?;
        let (_, second) = slot("second")?;
        let mut foreign = first.clone();
        foreign.kind = "smart card".to_owned();
        let slots = [foreign, first, second];
        for passphrase in ["first", "second"] {
            assert_eq!(
                open(&slots, passphrase, REPOSITORY),
                Some(*master.as_bytes())
            );
        }
        let wrong = Passphrase::new(b"third".to_vec());
        let refused = unlock(&slots, &wrong, REPOSITORY, &cheap()).map(|_| ());
        assert_eq!(refused, Err(UnlockError::WrongPassword { slots: 2 }));
        let elsewhere = RepositoryId::from_bytes([7; 32]);
        assert_eq!(open(&slots, "first", elsewhere), None);
        Ok(())
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_detected() -> Result<(), UnlockError> {
        let (_, whole) = slot("p")?;
        for bit in 0..(32 + WRAPPED_LEN) * 8 {
            let mut slot = whole.clone();
            match bit / 8 {
                byte @ ..32 => slot.salt[byte] ^= 1 << (bit % 8),
                byte => slot.wrapped[byte - 32] ^= 1 << (bit % 8),
            }
            assert_eq!(open(&[slot], "p", REPOSITORY), None, "bit {bit}");
        }
        Ok(())
    }
}
