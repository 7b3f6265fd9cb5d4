//! What all stored files share: their kinds and their salts. See `docs/format.md`, "Sealing".

use super::FormatError;
use super::cursor::Cursor;

/// A kind of stored file, as it enters the file's key and its authenticated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// A pack of disk data.
    DataPack = 1,
    /// A pack of recipe nodes.
    NodePack = 2,
    /// A manifest.
    Manifest = 3,
    /// A note about a snapshot.
    Note = 4,
    /// The plan of a collection.
    GcPlan = 5,
}

impl FileKind {
    /// Returns the byte that stands for this kind.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the kind's name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataPack => "data pack",
            Self::NodePack => "node pack",
            Self::Manifest => "manifest",
            Self::Note => "note",
            Self::GcPlan => "gc plan",
        }
    }
}

/// The random number at the head of a file. No two files ever written share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salt([u8; Self::LEN]);

impl Salt {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps bytes that were read from a file. New salts come from `Salt::draw`.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// Version of the head of packs and of sealed documents.
pub const FILE_VERSION: u16 = 1;

/// Takes the version of a file, which must be [`FILE_VERSION`].
pub(crate) fn take_version(cursor: &mut Cursor<'_>, what: &'static str) -> Result<(), FormatError> {
    match cursor.u16()? {
        FILE_VERSION => Ok(()),
        found => Err(FormatError::UnsupportedVersion {
            what,
            found: found.into(),
            supported: FILE_VERSION.into(),
        }),
    }
}

/// The head of a sealed document: everything before its ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedHeader {
    /// What the document is.
    pub kind: FileKind,
    /// The document's salt.
    pub salt: Salt,
}

impl SealedHeader {
    /// Length in bytes.
    pub const LEN: usize = 48;
    const MAGIC: &[u8; 8] = b"CAIRNDOC";

    /// Encodes the head.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(Self::MAGIC);
        bytes.extend_from_slice(&FILE_VERSION.to_le_bytes());
        bytes.push(self.kind.code());
        bytes.extend_from_slice(&[0; 5]);
        bytes.extend_from_slice(self.salt.as_bytes());
        bytes
    }

    /// Decodes the head of a document, which must be of the kind that its place demands.
    pub fn decode(kind: FileKind, bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "sealed document";
        let mut cursor = Cursor::new(what, bytes);
        cursor.magic(Self::MAGIC)?;
        take_version(&mut cursor, what)?;
        if cursor.u8()? != kind.code() {
            return Err(FormatError::Malformed {
                rule: "a sealed document must be of the kind that its place demands",
            });
        }
        cursor.reserved::<5>()?;
        let salt = Salt(cursor.array()?);
        Ok(Self { kind, salt })
    }
}
