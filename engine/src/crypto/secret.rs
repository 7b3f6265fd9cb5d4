//! Secrets: wiped when dropped, and printed by nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::format::Salt;

/// Fills an array with random bytes of the system.
///
/// # Panics
///
/// Panics if the system has none to give: nothing can be sealed without them.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Salts drawn by this process.
static SALTS_DRAWN: AtomicU64 = AtomicU64::new(0);

impl Salt {
    /// Draws a new salt. Every attempt to write a file draws its own, retries included.
    ///
    /// The clock is mixed in for clones of a running machine, whose kernels may give out the same
    /// random bytes for a while; see `docs/format.md`, "Why no nonce repeats".
    ///
    /// # Panics
    ///
    /// Panics if the system has no random bytes to give.
    pub fn draw() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let count = SALTS_DRAWN.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new_derive_key("cairn 1 salt");
        hasher.update(&random::<32>());
        hasher.update(&now.map_or(0, |now| now.as_nanos()).to_le_bytes());
        hasher.update(&count.to_le_bytes());
        Self::from_bytes(hasher.finalize().into())
    }
}

/// The key that all keys of an encrypted repository come from.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; Self::LEN]>);

impl MasterKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Draws the key of a new repository.
    ///
    /// # Panics
    ///
    /// Panics if the system has no random bytes to give.
    pub fn draw() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// Wraps the bytes of a key.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// A passphrase: its bytes as they were typed, without the end of the line.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes over the bytes, which are wiped when the passphrase is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let key = MasterKey::from_bytes([0x41; 32]);
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
        let passphrase = Passphrase::new(b"AAAA".to_vec());
        assert_eq!(format!("{passphrase:?}"), "Passphrase(..)");
    }

    #[test]
    fn salts_differ() {
        assert_ne!(Salt::draw(), Salt::draw());
    }
}
