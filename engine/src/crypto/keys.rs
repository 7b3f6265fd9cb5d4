//! The keys of a repository. Specified in `docs/format.md`, "Keys".

use std::fmt;

use zeroize::Zeroizing;

use super::seal::FileSeal;
use super::secret::MasterKey;
use crate::format::pack::PackKind;
use crate::format::{FileKind, Salt};
use crate::id::{ChunkId, ContentId, NodeId, RepositoryId};

type Subkey = Zeroizing<[u8; 32]>;

/// The keys of one repository: secret in an encrypted one, public in a plain one.
///
/// Made once when a repository is opened and shared by its threads.
pub struct Keys {
    repository: RepositoryId,
    chunk_ids: Subkey,
    node_ids: Subkey,
    config_mac: Subkey,
    /// Keys that plain repositories do not have.
    sealed: Option<SealedKeys>,
}

struct SealedKeys {
    gear: Subkey,
    file_keys: Subkey,
}

impl Keys {
    /// Returns the public keys of a plain repository. Ids then need no secret; nothing is sealed.
    pub fn plain(repository: RepositoryId) -> Self {
        Self {
            repository,
            chunk_ids: subkey("cairn 1 chunk ids", b""),
            node_ids: subkey("cairn 1 node ids", b""),
            config_mac: subkey("cairn 1 config mac", b""),
            sealed: None,
        }
    }

    /// Returns the keys of an encrypted repository.
    pub fn sealed(repository: RepositoryId, master: &MasterKey) -> Self {
        let master = master.as_bytes();
        Self {
            repository,
            chunk_ids: subkey("cairn 1 chunk ids", master),
            node_ids: subkey("cairn 1 node ids", master),
            config_mac: subkey("cairn 1 config mac", master),
            sealed: Some(SealedKeys {
                gear: subkey("cairn 1 gear", master),
                file_keys: subkey("cairn 1 file keys", master),
            }),
        }
    }

    /// Returns whether the repository is an encrypted one.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Returns the id of a chunk from its plain bytes.
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId::from_bytes(blake3::keyed_hash(&self.chunk_ids, plain).into())
    }

    /// Returns the id of a recipe node from its encoded bytes.
    pub fn node_id(&self, encoded: &[u8]) -> NodeId {
        NodeId::from_bytes(blake3::keyed_hash(&self.node_ids, encoded).into())
    }

    /// Returns the id of content, by the kind of pack that holds it.
    pub fn content_id(&self, kind: PackKind, plain: &[u8]) -> ContentId {
        match kind {
            PackKind::Data => self.chunk_id(plain).into(),
            PackKind::Nodes => self.node_id(plain).into(),
        }
    }

    /// Returns the chunker's gear table, or `None` in plain repositories: they use the public one.
    pub fn gear(&self) -> Option<Box<[u64; 256]>> {
        let key = &self.sealed.as_ref()?.gear;
        let mut stream = blake3::Hasher::new_keyed(key).finalize_xof();
        let mut table = Box::new([0; 256]);
        for word in table.iter_mut() {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
        Some(table)
    }

    /// Returns the MAC of a config; see `format::config`. In plain repositories it is a checksum.
    pub fn config_mac(&self, config: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.config_mac, config).into()
    }

    /// Returns what seals and opens the parts of one file. Does nothing in plain repositories.
    pub fn file(&self, kind: FileKind, salt: &Salt) -> FileSeal {
        let Some(keys) = &self.sealed else {
            return FileSeal::plain(kind);
        };
        let mut hasher = blake3::Hasher::new_keyed(&keys.file_keys);
        hasher.update(&[kind.code()]);
        hasher.update(salt.as_bytes());
        let key = Zeroizing::new(<[u8; 32]>::from(hasher.finalize()));
        FileSeal::sealed(self.repository, kind, &key)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("repository", &self.repository)
            .field("is_sealed", &self.is_sealed())
            .finish_non_exhaustive()
    }
}

fn subkey(context: &str, master: &[u8]) -> Subkey {
    Zeroizing::new(blake3::derive_key(context, master))
}
