//! The document of one snapshot. Specified in `docs/format.md`, "Manifest".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cursor::at_most;
use super::domain::{self, DiskIdentity, DomainRecord};
use super::json;
use super::{FormatError, Unknown};
use crate::id::{NodeId, SnapshotId};
use crate::limits::{DISK_LEN_MAX, MANIFEST_LEN_MAX};

/// Version of manifests.
pub const MANIFEST_VERSION: u32 = 1;
/// Greatest ordinal of a snapshot: every reader of JSON gets it right.
pub const ORDINAL_MAX: u64 = 1 << 53;
/// Longest name of a VM or target, in bytes: longer ones are no file names.
pub const NAME_LEN_MAX: usize = 255;

const WHAT: &str = "manifest";

/// One finished backup of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The VM's name.
    pub vm: String,
    /// The point in time that the disks show.
    #[serde(with = "json::timestamp")]
    pub time: Timestamp,
    /// Its place among the snapshots of the VM: one more than all that its writer saw there, and 0
    /// where the writer counted none. Clocks may say otherwise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ordinal: u64,
    /// The snapshot that this one was computed against.
    pub parent: Option<SnapshotId>,
    /// The host that made the backup.
    pub host: String,
    /// The program that made the backup, with its version.
    pub program: String,
    /// What the user says about the snapshot.
    pub tags: BTreeMap<String, String>,
    /// The VM's disks.
    pub disks: Vec<DiskRecord>,
    /// What the source says about the VM, such as its domain XML.
    pub metadata: BTreeMap<String, String>,
    /// What belongs to the VM beside its disks and is no text, such as its NVRAM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRecord>,
    /// The domain that was backed up, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainRecord>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// The disk's name in the VM, such as `vda`. Unique in the manifest.
    pub target: String,
    /// Size in bytes.
    pub size: u64,
    /// Root of the disk's recipe.
    pub recipe: NodeId,
    /// Bytes that are not in holes.
    pub data_bytes: u64,
    /// Chunk references of the recipe.
    pub chunks: u64,
    /// How the disk was read.
    pub mode: DiskMode,
    /// Where it was read from.
    pub source: SourceRecord,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes that the source called changed since the parent.
    pub dirty_bytes: u64,
    /// Bytes whose chunks were there before.
    pub reused_bytes: u64,
    /// Chunks stored by this backup.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// What storing them took.
    pub stored_bytes: u64,
    /// What the disk was to its hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<DiskIdentity>,
    /// Why it was not read by its changes alone, where that was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// That it was written to while it was read, and how that was seen: it is of no one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A file of a snapshot. Its bytes have a recipe, as a disk's have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// What it is called. Unique among the files of the manifest.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Root of the file's recipe.
    pub recipe: NodeId,
    /// Bytes that are not in holes.
    pub data_bytes: u64,
    /// Chunk references of the recipe.
    pub chunks: u64,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A recipe that a manifest names, with whose it is.
#[derive(Debug, Clone, Copy)]
pub struct RecipeOf<'m> {
    /// The disk's target, or the file's name.
    pub name: &'m str,
    /// Whether it is a file's.
    pub is_file: bool,
    /// Size in bytes of what it reproduces.
    pub size: u64,
    /// Its root.
    pub root: NodeId,
    /// Bytes that are not in holes.
    pub data_bytes: u64,
}

/// How a disk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskMode {
    /// Everything allocated, without a parent.
    Full,
    /// What the source called changed, against the parent.
    Incremental,
    /// Everything allocated, against the parent, since the changes were not known.
    Scan,
}

/// Where a disk was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The kind of source: `raw`, `qcow2`, `nbd`.
    pub kind: String,
    /// The path or URI.
    pub location: String,
    /// The dirty bitmap that said what changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitmap: Option<String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl fmt::Display for RecipeOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_file { "file" } else { "disk" };
        write!(f, "{kind} {}", self.name)
    }
}

impl Manifest {
    /// Encodes the manifest, unsealed.
    ///
    /// # Errors
    ///
    /// A manifest that breaks a rule or limit of the format.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        json::check_version(WHAT, self.version.into(), MANIFEST_VERSION)?;
        self.check()?;
        json::encode_bounded(WHAT, self, MANIFEST_LEN_MAX)
    }

    /// Decodes an unsealed manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let decoded = json::decode_versioned(WHAT, bytes, MANIFEST_LEN_MAX, MANIFEST_VERSION);
        let manifest: Self = decoded.map_err(|error| match error {
            FormatError::BadDocument { .. } => domain::unsupported(bytes).unwrap_or(error),
            error => error,
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns every recipe that the snapshot consists of: those of its disks, then those of its
    /// files. Whoever asks what a snapshot needs must follow all of them.
    pub fn recipes(&self) -> impl Iterator<Item = RecipeOf<'_>> {
        let disks = self.disks.iter().map(|disk| RecipeOf {
            name: &disk.target,
            is_file: false,
            size: disk.size,
            root: disk.recipe,
            data_bytes: disk.data_bytes,
        });
        let files = self.files.iter().map(|file| RecipeOf {
            name: &file.name,
            is_file: true,
            size: file.size,
            root: file.recipe,
            data_bytes: file.data_bytes,
        });
        disks.chain(files)
    }

    fn check(&self) -> Result<(), FormatError> {
        check_name(&self.vm)?;
        at_most("ordinal of a snapshot", self.ordinal, ORDINAL_MAX)?;
        let mut targets = BTreeSet::new();
        for disk in &self.disks {
            check_name(&disk.target)?;
            if !targets.insert(&disk.target) {
                return Err(FormatError::Malformed {
                    rule: "the targets of a manifest must differ",
                });
            }
            at_most("size of a disk", disk.size, DISK_LEN_MAX)?;
            at_most("data bytes of a disk", disk.data_bytes, disk.size)?;
            at_most("chunks of a disk", disk.chunks, disk.data_bytes)?;
        }
        let mut names = BTreeSet::new();
        for file in &self.files {
            check_file_name(&file.name)?;
            if !names.insert(&file.name) {
                return Err(FormatError::Malformed {
                    rule: "the names of a manifest's files must differ",
                });
            }
            at_most("size of a file", file.size, DISK_LEN_MAX)?;
            at_most("data bytes of a file", file.data_bytes, file.size)?;
            at_most("chunks of a file", file.chunks, file.data_bytes)?;
        }
        self.domain.as_ref().map_or(Ok(()), DomainRecord::check)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Checks the name of a file in a manifest: it is restored under that name.
pub fn check_file_name(name: &str) -> Result<(), FormatError> {
    check_name(name)?;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.chars().all(is_fit) {
        let rule = "the name of a file must consist of letters, digits, `-`, `_` and `.`";
        return Err(FormatError::Malformed { rule });
    }
    Ok(())
}

/// Checks the name of a VM or of a target: it stands in file names, in export names and before
/// `@` and `:` on the command line.
pub fn check_name(name: &str) -> Result<(), FormatError> {
    at_most("length of a name", name.len() as u64, NAME_LEN_MAX as u64)?;
    let rule = if name.is_empty() || name == "." || name == ".." {
        "a name must not be empty, `.` or `..`"
    } else if name.contains(['/', '@', ':']) {
        "a name must not contain `/`, `@` or `:`"
    } else if name.contains(char::is_control) {
        "a name must not contain control characters"
    } else {
        return Ok(());
    };
    Err(FormatError::Malformed { rule })
}

#[cfg(test)]
mod tests;
