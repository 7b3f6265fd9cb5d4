//! The settings of a repository, fixed at `init`. Specified in `docs/format.md`, "Config".
//!
//! A config is read in two steps: [`Config::decode`] gives what is needed to derive keys, and
//! [`Config::verify`] then checks every byte of the file under one of them. Nothing but key
//! derivation may depend on a config that is not verified yet.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cursor::in_range;
use super::json;
use super::{FormatError, Salt, Unknown};
use crate::id::RepositoryId;
use crate::limits::{
    CHUNK_AVG_DEFAULT, CHUNK_AVG_MAX, CHUNK_AVG_MIN, FRAME_LEN_DEFAULT, FRAME_LEN_RANGE, KIB,
    PACK_LEN_DEFAULT, PACK_LEN_MAX, SMALL_DOCUMENT_LEN_MAX,
};

/// The format that this Cairn reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Compression levels that can be chosen.
pub const LEVELS: std::ops::RangeInclusive<i32> = -5..=19;

const WHAT: &str = "config";
const CHUNKER: &str = "fastcdc-v2020";
const CIPHER: &str = "aes-256-gcm";
const KDF: &str = "argon2id";
/// A pack is sealed by the first frame past this length, so half of the longest pack is ample.
const PACK_LEN_SETTING_MAX: u64 = PACK_LEN_MAX / 2;
/// Keeps a hostile config from asking for hours or for all memory: 1 GiB, 64 passes.
const KDF_MEMORY_KIB_MAX: u32 = 1 << 20;
const KDF_PASSES_MAX: u32 = 64;
const KDF_LANES_MAX: u32 = 16;
const MAC_LEN: usize = 32;
/// For how long forgotten snapshots rest where nothing else is set: a week.
pub const GRACE_SECONDS_DEFAULT: u64 = 7 * 24 * 3600;
/// 100 years of 365.25 days: more would be a mistake.
pub const GRACE_SECONDS_MAX: u64 = 36_525 * 24 * 3600;

/// The settings of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The repository's identity.
    pub repository_id: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// How disks are cut.
    pub chunker: ChunkerConfig,
    /// Plain length that frames are filled to.
    pub frame_len: u32,
    /// Stored length at which packs are sealed.
    pub pack_len: u64,
    /// How frames are compressed.
    pub compression: Compression,
    /// How everything is encrypted; `None` in plain repositories.
    pub encryption: Option<EncryptionConfig>,
    /// For how long forgotten snapshots rest, in seconds; [`GRACE_SECONDS_DEFAULT`] where nothing
    /// is said.
    pub grace_seconds: Option<u64>,
    /// How much parity every pack gets, in percent of it; none where nothing is said.
    pub parity_percent: Option<u8>,
    /// Features that a reader may ignore, and need not know.
    pub compatible: Vec<String>,
    /// Members that this version does not know.
    pub unknown: Unknown,
}

/// How disks are cut into chunks: FastCDC v2020.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerConfig {
    /// Normalisation level, 0 to 3.
    pub normalization: u8,
    /// Average chunk size: a power of two. The least is a quarter of it, the largest four times.
    pub average: u32,
}

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By zstd, at a level of [`LEVELS`].
    Zstd {
        /// The level.
        level: i32,
    },
}

/// How a repository is encrypted: AES-256-GCM under a master key that is wrapped by passphrases
/// through argon2id with these parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionConfig {
    /// Memory of argon2id, in KiB.
    pub memory_kib: u32,
    /// Passes of argon2id.
    pub passes: u32,
    /// Lanes of argon2id.
    pub lanes: u32,
    /// Salt of argon2id: one for all slots, so that one run tests every slot.
    #[serde(with = "salt_hex")]
    pub salt: Salt,
}

impl Config {
    /// Returns the default settings for a new repository. `salt` makes it an encrypted one.
    pub fn new(repository_id: RepositoryId, created: Timestamp, salt: Option<Salt>) -> Self {
        Self {
            repository_id,
            created,
            chunker: ChunkerConfig {
                normalization: 2,
                average: CHUNK_AVG_DEFAULT,
            },
            frame_len: FRAME_LEN_DEFAULT,
            pack_len: PACK_LEN_DEFAULT,
            compression: Compression::Zstd { level: 1 },
            encryption: salt.map(EncryptionConfig::new),
            grace_seconds: None,
            parity_percent: None,
            compatible: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    /// Encodes the config. `mac` is `Keys::config_mac` of the repository's keys.
    ///
    /// # Errors
    ///
    /// A setting outside its limits.
    pub fn encode(&self, mac: impl FnOnce(&[u8]) -> [u8; MAC_LEN]) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let mut document = Document::from_config(self);
        // The MAC covers the whole file with zeros in its own place.
        let zeroed = json::encode_bounded(WHAT, &document, SMALL_DOCUMENT_LEN_MAX)?;
        document.mac = mac(&zeroed);
        Ok(json::encode(&document))
    }

    /// Decodes a config, without its MAC being checked. Call [`Config::verify`] next.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u64,
            #[serde(default)]
            incompatible: Vec<String>,
        }
        let head: Versioned = json::decode(WHAT, bytes, SMALL_DOCUMENT_LEN_MAX)?;
        json::check_version("repository format", head.format, FORMAT_VERSION)?;
        if let Some(feature) = head.incompatible.into_iter().next() {
            return Err(FormatError::UnsupportedFeature { feature });
        }
        let document: Document = json::decode(WHAT, bytes, SMALL_DOCUMENT_LEN_MAX)?;
        let config = document.into_config()?;
        config.check()?;
        Ok(config)
    }

    /// Checks every byte of an encoded config under its MAC.
    ///
    /// # Errors
    ///
    /// [`FormatError::AuthenticationFailed`]: damaged, or not written with these keys.
    pub fn verify(
        bytes: &[u8],
        mac: impl FnOnce(&[u8]) -> [u8; MAC_LEN],
    ) -> Result<(), FormatError> {
        #[derive(Deserialize)]
        struct Authenticated {
            #[serde(with = "json::hex_bytes")]
            mac: [u8; MAC_LEN],
        }
        let found: Authenticated = json::decode(WHAT, bytes, SMALL_DOCUMENT_LEN_MAX)?;
        let failed = FormatError::AuthenticationFailed { what: WHAT };
        let zeroed = json::zeroed(bytes, found.mac).ok_or_else(|| failed.clone())?;
        // Compared in constant time.
        if blake3::Hash::from_bytes(mac(zeroed.as_bytes())) == found.mac {
            Ok(())
        } else {
            Err(failed)
        }
    }

    fn check(&self) -> Result<(), FormatError> {
        let ChunkerConfig {
            normalization,
            average,
        } = self.chunker;
        in_range("normalization", normalization.into(), 0, 3)?;
        in_range(
            "average chunk size",
            average.into(),
            CHUNK_AVG_MIN.into(),
            CHUNK_AVG_MAX.into(),
        )?;
        if !average.is_power_of_two() {
            return Err(FormatError::Malformed {
                rule: "the average chunk size must be a power of two",
            });
        }
        let (least, most) = (*FRAME_LEN_RANGE.start(), *FRAME_LEN_RANGE.end());
        in_range(
            "frame length",
            self.frame_len.into(),
            least.into(),
            most.into(),
        )?;
        in_range("pack length", self.pack_len, 4 * KIB, PACK_LEN_SETTING_MAX)?;
        if let Compression::Zstd { level } = self.compression
            && !LEVELS.contains(&level)
        {
            return Err(FormatError::Malformed {
                rule: "the compression level must be from -5 to 19",
            });
        }
        let grace = self.grace_seconds.unwrap_or_default();
        in_range("grace_seconds", grace, 0, GRACE_SECONDS_MAX)?;
        let parity = self.parity_percent.unwrap_or(1);
        in_range("parity_percent", parity.into(), 1, 100)?;
        self.encryption
            .as_ref()
            .map_or(Ok(()), EncryptionConfig::check)
    }
}

impl EncryptionConfig {
    fn new(salt: Salt) -> Self {
        Self {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 1,
            salt,
        }
    }

    fn check(&self) -> Result<(), FormatError> {
        in_range("lanes", self.lanes.into(), 1, KDF_LANES_MAX.into())?;
        // argon2 itself demands eight blocks of 1 KiB for each lane.
        let memory_min = u64::from(self.lanes).saturating_mul(8);
        in_range(
            "memory_kib",
            self.memory_kib.into(),
            memory_min,
            KDF_MEMORY_KIB_MAX.into(),
        )?;
        in_range("passes", self.passes.into(), 1, KDF_PASSES_MAX.into())
    }
}

/// The config as JSON has it.
#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    repository_id: RepositoryId,
    #[serde(with = "json::timestamp")]
    created: Timestamp,
    chunker: Named<ChunkerConfig>,
    frame_len: u32,
    pack_len: u64,
    compression: CompressionDocument,
    encryption: Option<Ciphered>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parity_percent: Option<u8>,
    incompatible: Vec<String>,
    compatible: Vec<String>,
    #[serde(with = "json::hex_bytes")]
    mac: [u8; MAC_LEN],
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Serialize, Deserialize)]
struct Named<T> {
    algorithm: String,
    #[serde(flatten)]
    settings: T,
}

#[derive(Serialize, Deserialize)]
struct CompressionDocument {
    codec: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<i32>,
}

#[derive(Serialize, Deserialize)]
struct Ciphered {
    cipher: String,
    kdf: String,
    #[serde(flatten)]
    settings: EncryptionConfig,
}

impl Document {
    fn from_config(config: &Config) -> Self {
        let (codec, level) = match config.compression {
            Compression::None => ("none", None),
            Compression::Zstd { level } => ("zstd", Some(level)),
        };
        Self {
            format: FORMAT_VERSION,
            repository_id: config.repository_id,
            created: config.created,
            chunker: Named {
                algorithm: CHUNKER.to_owned(),
                settings: config.chunker,
            },
            frame_len: config.frame_len,
            pack_len: config.pack_len,
            compression: CompressionDocument {
                codec: codec.to_owned(),
                level,
            },
            encryption: config.encryption.map(|settings| Ciphered {
                cipher: CIPHER.to_owned(),
                kdf: KDF.to_owned(),
                settings,
            }),
            grace_seconds: config.grace_seconds,
            parity_percent: config.parity_percent,
            incompatible: Vec::new(),
            compatible: config.compatible.clone(),
            mac: [0; MAC_LEN],
            unknown: config.unknown.clone(),
        }
    }

    fn into_config(self) -> Result<Config, FormatError> {
        known(&self.chunker.algorithm, CHUNKER)?;
        let compression = match (self.compression.codec.as_str(), self.compression.level) {
            ("none", None) => Compression::None,
            ("zstd", Some(level)) => Compression::Zstd { level },
            ("none" | "zstd", _) => {
                return Err(FormatError::Malformed {
                    rule: "compression by zstd must have a level, and none must not",
                });
            }
            (other, _) => {
                return Err(FormatError::UnsupportedFeature {
                    feature: other.to_owned(),
                });
            }
        };
        if let Some(encryption) = &self.encryption {
            known(&encryption.cipher, CIPHER)?;
            known(&encryption.kdf, KDF)?;
        }
        Ok(Config {
            repository_id: self.repository_id,
            created: self.created,
            chunker: self.chunker.settings,
            frame_len: self.frame_len,
            pack_len: self.pack_len,
            compression,
            encryption: self.encryption.map(|encryption| encryption.settings),
            grace_seconds: self.grace_seconds,
            parity_percent: self.parity_percent,
            compatible: self.compatible,
            unknown: self.unknown,
        })
    }
}

fn known(found: &str, supported: &str) -> Result<(), FormatError> {
    if found == supported {
        return Ok(());
    }
    Err(FormatError::UnsupportedFeature {
        feature: found.to_owned(),
    })
}

/// Returned when a text is not a way to compress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression must be `none` or `zstd:LEVEL` with a level from -5 to 19")]
pub struct ParseCompressionError;

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(text: &str) -> Result<Self, ParseCompressionError> {
        if text == "none" {
            return Ok(Self::None);
        }
        let level = text.strip_prefix("zstd:").ok_or(ParseCompressionError)?;
        let level = level.parse().map_err(|_| ParseCompressionError)?;
        if LEVELS.contains(&level) {
            Ok(Self::Zstd { level })
        } else {
            Err(ParseCompressionError)
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

mod salt_hex {
    use serde::{Deserializer, Serializer};

    use crate::format::{Salt, json};

    pub(super) fn serialize<S: Serializer>(salt: &Salt, out: S) -> Result<S::Ok, S::Error> {
        json::hex_bytes::serialize(salt.as_bytes(), out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Salt, D::Error> {
        json::hex_bytes::deserialize(from).map(Salt::from_bytes)
    }
}

#[cfg(test)]
mod tests;
