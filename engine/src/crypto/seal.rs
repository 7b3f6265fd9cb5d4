//! Sealing of files and documents. Specified in `docs/format.md`, "Sealing".
//!
//! A file's key comes from its random salt, and a nonce is the ordinal of a part in its file: a
//! nonce repeats under a key only if one [`FileSeal`] seals two parts under one ordinal. Whoever
//! writes a file must therefore draw a salt for it, count the parts, and on any failure throw the
//! salt away with the file.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::keys::Keys;
use crate::format::{FILE_VERSION, FileKind, FormatError, Salt, SealedHeader};
use crate::id::RepositoryId;

/// Length of the tag that sealing appends.
pub const TAG_LEN: usize = 16;

/// Seals and opens the parts of one file. Shared by threads; the key schedule is made once.
pub struct FileSeal {
    kind: FileKind,
    cipher: Option<Cipher>,
}

struct Cipher {
    key: LessSafeKey,
    repository: RepositoryId,
}

impl FileSeal {
    /// The ordinal of a pack's footer. Frames count from zero.
    pub const FOOTER: u64 = u64::MAX;
    /// The ordinal of a document: its one part.
    const DOCUMENT: u64 = 0;

    pub(super) fn plain(kind: FileKind) -> Self {
        Self { kind, cipher: None }
    }

    pub(super) fn sealed(repository: RepositoryId, kind: FileKind, key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length");
        let cipher = Cipher {
            key: LessSafeKey::new(key),
            repository,
        };
        Self {
            kind,
            cipher: Some(cipher),
        }
    }

    /// Returns how many bytes sealing adds to each part.
    pub fn overhead(&self) -> usize {
        self.cipher.as_ref().map_or(0, |_| TAG_LEN)
    }

    /// Seals a part in place and appends the tag. Does nothing in plain repositories.
    ///
    /// No two parts of a file may have one `ordinal`: that would give away both, and let others
    /// forge parts of the file.
    pub fn seal(&self, ordinal: u64, bytes: &mut Vec<u8>) {
        self.seal_from(ordinal, bytes, 0);
    }

    /// Seals what follows the first `start` bytes.
    fn seal_from(&self, ordinal: u64, bytes: &mut Vec<u8>, start: usize) {
        let Some(cipher) = &self.cipher else { return };
        let (_, part) = bytes.split_at_mut(start);
        let tag = cipher
            .key
            .seal_in_place_separate_tag(nonce(ordinal), cipher.aad(self.kind, ordinal), part)
            .expect("parts are far shorter than the cipher's limit of 64 GiB");
        bytes.extend_from_slice(tag.as_ref());
    }

    /// Checks and opens a part in place, and returns its bytes without the tag. Returns all of
    /// `bytes` in plain repositories.
    ///
    /// # Errors
    ///
    /// [`FormatError::AuthenticationFailed`]: not what this repository's writer sealed at this
    /// place of this file. What `bytes` then holds must not be used.
    pub fn open<'a>(&self, ordinal: u64, bytes: &'a mut [u8]) -> Result<&'a mut [u8], FormatError> {
        let Some(cipher) = &self.cipher else {
            return Ok(bytes);
        };
        cipher
            .key
            .open_in_place(nonce(ordinal), cipher.aad(self.kind, ordinal), bytes)
            .map_err(|_| FormatError::AuthenticationFailed {
                what: self.kind.name(),
            })
    }
}

impl Cipher {
    fn aad(&self, kind: FileKind, ordinal: u64) -> Aad<Vec<u8>> {
        let mut aad = Vec::with_capacity(RepositoryId::LEN.saturating_add(11));
        aad.extend_from_slice(self.repository.as_bytes());
        aad.push(kind.code());
        aad.extend_from_slice(&FILE_VERSION.to_le_bytes());
        aad.extend_from_slice(&ordinal.to_le_bytes());
        Aad::from(aad)
    }
}

fn nonce(ordinal: u64) -> Nonce {
    let [o0, o1, o2, o3, o4, o5, o6, o7] = ordinal.to_le_bytes();
    Nonce::assume_unique_for_key([o0, o1, o2, o3, o4, o5, o6, o7, 0, 0, 0, 0])
}

impl fmt::Debug for FileSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSeal")
            .field("kind", &self.kind)
            .field("is_sealed", &self.cipher.is_some())
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Seals a document under a salt of its own. Returns it as it is in plain repositories.
    ///
    /// # Panics
    ///
    /// Panics if the system has no random bytes to give.
    pub fn seal_document(&self, kind: FileKind, document: Vec<u8>) -> Vec<u8> {
        if !self.is_sealed() {
            return document;
        }
        let salt = Salt::draw();
        let mut bytes = SealedHeader { kind, salt }.encode();
        bytes.extend_from_slice(&document);
        self.file(kind, &salt)
            .seal_from(FileSeal::DOCUMENT, &mut bytes, SealedHeader::LEN);
        bytes
    }

    /// Opens a stored document. Returns it as it is in plain repositories.
    ///
    /// # Errors
    ///
    /// A document that is not sealed, or not by this repository's keys as one of this kind.
    pub fn open_document(
        &self,
        kind: FileKind,
        mut stored: Vec<u8>,
    ) -> Result<Vec<u8>, FormatError> {
        if !self.is_sealed() {
            return Ok(stored);
        }
        let header = SealedHeader::decode(kind, &stored)?;
        let (_, part) = stored.split_at_mut(SealedHeader::LEN);
        let document = self
            .file(kind, &header.salt)
            .open(FileSeal::DOCUMENT, part)?;
        let end = SealedHeader::LEN.saturating_add(document.len());
        stored.truncate(end);
        stored.drain(..SealedHeader::LEN);
        Ok(stored)
    }
}

#[cfg(test)]
mod tests;
