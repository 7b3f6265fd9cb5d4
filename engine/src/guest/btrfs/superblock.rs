//! The superblock.

use super::WHAT;
use crate::guest::checksum::crc32c;
use crate::guest::fields::{Fields, damaged, unsupported};
use crate::guest::tree::{GuestError, Volume};

/// Where the first superblock is; the kernel mounts by it alone.
const OFFSET: u64 = 64 << 10;
const SIZE: usize = 4096;
const MAGIC_OFFSET: usize = 64;
const MAGIC: &[u8] = b"_BHRfS_M";

/// Features that change nothing for a reader, or that are read here, by their bits.
const FEATURES: u64 = 0xfff & !FEATURE_RAID56 | 1 << 16;
const FEATURE_RAID56: u64 = 1 << 7;
const FEATURE_NAMES: [(u64, &str); 6] = [
    (FEATURE_RAID56, "RAID 5 or 6"),
    (1 << 12, "zones"),
    (1 << 13, "extent tree v2"),
    (1 << 14, "a RAID stripe tree"),
    (1 << 17, "a remap tree"),
    (0, "an unknown feature"),
];

/// What of the superblock matters to a reader.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Whether checksums are CRC-32C, the one kind that is checked here.
    pub crc32c: bool,
    pub root: u64,
    pub chunk_root: u64,
    /// Not 0 where files were synced since the last full commit.
    pub log_root: u64,
    pub sector_size: usize,
    pub node_size: usize,
    pub device: u64,
    /// Keys and chunks that lead to the tree of chunks.
    pub system_chunks: Vec<u8>,
}

/// Returns whether bytes from the start of a volume on hold the mark of btrfs.
pub(super) fn is(start: &[u8]) -> bool {
    let at = usize::try_from(OFFSET).unwrap_or(usize::MAX);
    let mark = start.get(at.saturating_add(MAGIC_OFFSET)..);
    mark.is_some_and(|mark| mark.starts_with(MAGIC))
}

/// Reads and checks the superblock.
pub(super) fn read(volume: &dyn Volume) -> Result<Superblock, GuestError> {
    let mut bytes = vec![0; SIZE];
    volume.read_at(OFFSET, &mut bytes)?;
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Result<Superblock, GuestError> {
    let fields = Fields::new(WHAT, bytes);
    if fields.get(MAGIC_OFFSET, MAGIC.len())? != MAGIC {
        return Err(damaged(WHAT, "it has no superblock"));
    }
    let crc = fields.le16(196)? == 0;
    if crc && fields.le32(0)? != !crc32c(!0, fields.from(32)?.bytes()) {
        return Err(damaged(WHAT, "the superblock fails its checksum"));
    }
    let unknown = fields.le64(188)? & !FEATURES;
    if unknown != 0 {
        let name = FEATURE_NAMES
            .iter()
            .find(|(bit, _)| unknown & bit != 0 || *bit == 0);
        return Err(unsupported(
            WHAT,
            name.map_or("an unknown feature", |(_, name)| name),
        ));
    }
    let size = |at: usize| -> Result<usize, GuestError> {
        let size = fields.le32(at)?;
        if !size.is_power_of_two() || !(4096..=65536).contains(&size) {
            return Err(damaged(WHAT, "the superblock's sizes are impossible"));
        }
        usize::try_from(size).map_err(|_| damaged(WHAT, "the superblock's sizes are impossible"))
    };
    let chunks_len = usize::try_from(fields.le32(160)?).unwrap_or(usize::MAX);
    if chunks_len > 2048 {
        return Err(damaged(WHAT, "the superblock's sizes are impossible"));
    }
    Ok(Superblock {
        crc32c: crc,
        root: fields.le64(80)?,
        chunk_root: fields.le64(88)?,
        log_root: fields.le64(96)?,
        sector_size: size(144)?,
        node_size: size(148)?,
        device: fields.le64(201)?,
        system_chunks: fields.get(811, chunks_len)?.to_vec(),
    })
}
