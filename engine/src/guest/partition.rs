//! Partition tables: GPT, and MBR with the logical partitions of extended ones.
//!
//! Numbers and order are those that the kernel gives, so that `p2` is what the guest calls `vda2`.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

use std::collections::HashSet;
use std::io;

use super::checksum::crc32;
use super::fields::{le16, le32, le64};
use super::tree::Volume;

/// Lengths of a sector that disks have.
const SECTOR_LENS: [u64; 2] = [512, 4096];
/// What a guest may have of either kind, as the kernel limits it.
const PARTITIONS_MAX: u32 = 256;
/// Longest list of a GPT: four times what any tool makes.
const GPT_LIST_LEN_MAX: u64 = 64 * 1024;
const GPT_HEADER_LEN_MIN: usize = 92;
const GPT_ENTRY_LEN_MIN: usize = 128;
const MBR_SIGNATURE: u16 = 0xaa55;
const MBR_ENTRIES: usize = 446;
const MBR_ENTRY_LEN: usize = 16;
const MBR_KIND_GPT: u8 = 0xee;
const MBR_KINDS_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Types of a GPT, as they stand in its entries, that hold no files: where GRUB keeps its core,
/// what firmware of POWER starts, and what Windows sets aside.
const GPT_PURPOSES: [([u8; 16], &str); 3] = [
    (*b"Hah!IdontNeedEFI", "BIOS boot code"),
    (
        *b"\x38\x2d\x1a\x9e\x12\xc6\x16\x43\xaa\x26\x8b\x49\x52\x1e\x5a\x8b",
        PREP,
    ),
    (
        *b"\x16\xe3\xc9\xe3\x5c\x0b\xb8\x4d\x81\x7d\xf9\x2d\xf0\x02\x15\xae",
        "reserved space",
    ),
];
const MBR_KIND_PREP: u8 = 0x41;
const PREP: &str = "PReP boot code";

/// A kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
}

impl TableKind {
    /// Returns what people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Mbr => "mbr",
        }
    }
}

/// One partition. Offset and size are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the guest, from 1.
    pub number: u32,
    /// Where it begins on the disk.
    pub offset: u64,
    /// Its length.
    pub size: u64,
    /// The name that a GPT gives it.
    pub name: Option<String>,
    /// What it is for, where its type says that it never holds files.
    pub purpose: Option<&'static str>,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its kind.
    pub kind: TableKind,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
}

/// Reads the partition table of a disk, if it has one.
pub fn read(disk: &dyn Volume) -> io::Result<Option<Table>> {
    let Some(sector) = bytes(disk, 0, 512)? else {
        return Ok(None);
    };
    let Some(entries) = mbr_entries(&sector) else {
        return Ok(None);
    };
    // As the kernel has it: without an entry that guards it, a GPT is a leftover.
    if entries.iter().any(|entry| entry.kind == MBR_KIND_GPT) {
        for sector_len in SECTOR_LENS {
            if let Some(partitions) = read_gpt(disk, sector_len)? {
                let kind = TableKind::Gpt;
                return Ok(Some(Table { kind, partitions }));
            }
        }
    }
    if is_boot_sector_of_fat(&sector) || !entries.iter().any(|entry| entry.sectors != 0) {
        return Ok(None);
    }
    let sector_len = mbr_sector_len(disk, &entries)?;
    let partitions = read_mbr(disk, &entries, sector_len)?;
    let kind = TableKind::Mbr;
    Ok(Some(Table { kind, partitions }))
}

/// Reads `len` bytes if the disk has as many.
fn bytes(disk: &dyn Volume, offset: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
    let end = offset.checked_add(len).filter(|end| *end <= disk.size());
    let (Some(_), Ok(len)) = (end, usize::try_from(len)) else {
        return Ok(None);
    };
    let mut bytes = vec![0; len];
    disk.read_at(offset, &mut bytes)?;
    Ok(Some(bytes))
}

/// Returns the partition if it begins on the disk, cut where the disk ends.
fn partition(
    disk: &dyn Volume,
    number: u32,
    sectors: (u64, u64),
    sector_len: u64,
) -> Option<Partition> {
    let offset = sectors.0.checked_mul(sector_len)?;
    let left = disk.size().checked_sub(offset).filter(|left| *left > 0)?;
    let size = sectors.1.checked_mul(sector_len)?.min(left);
    Some(Partition {
        number,
        offset,
        size,
        name: None,
        purpose: None,
    })
}

fn read_gpt(disk: &dyn Volume, sector_len: u64) -> io::Result<Option<Vec<Partition>>> {
    let count = disk.size().checked_div(sector_len).unwrap_or_default();
    // The copy at the end counts where the first is damaged.
    for header_at in [1, count.saturating_sub(1)] {
        let Some(at) = header_at.checked_mul(sector_len) else {
            continue;
        };
        let Some(header) = bytes(disk, at, sector_len)? else {
            continue;
        };
        let Some(list) = GptList::decode(&header, header_at) else {
            continue;
        };
        let Some(offset) = list.sector.checked_mul(sector_len) else {
            continue;
        };
        let Some(entries) = bytes(disk, offset, list.len)? else {
            continue;
        };
        if !crc32(u32::MAX, &entries) == list.checksum {
            return Ok(Some(gpt_partitions(disk, sector_len, &list, &entries)));
        }
    }
    Ok(None)
}

/// Where a GPT keeps its list of partitions.
struct GptList {
    sector: u64,
    len: u64,
    entry_len: usize,
    checksum: u32,
}

impl GptList {
    /// Decodes a header that stands in the sector of this number.
    fn decode(header: &[u8], sector: u64) -> Option<Self> {
        let len = usize::try_from(le32(header, 12)?).ok()?;
        if !header.starts_with(b"EFI PART") || len < GPT_HEADER_LEN_MIN {
            return None;
        }
        let mut covered = header.get(..len)?.to_vec();
        covered.get_mut(16..20)?.fill(0);
        if !crc32(u32::MAX, &covered) != le32(header, 16)? || le64(header, 24)? != sector {
            return None;
        }
        let count = u64::from(le32(header, 80)?);
        let entry_len = usize::try_from(le32(header, 84)?).ok()?;
        let list = Self {
            sector: le64(header, 72)?,
            len: count.checked_mul(u64::try_from(entry_len).ok()?)?,
            entry_len,
            checksum: le32(header, 88)?,
        };
        let is_sound = entry_len >= GPT_ENTRY_LEN_MIN && list.len <= GPT_LIST_LEN_MAX;
        is_sound.then_some(list)
    }
}

fn gpt_partitions(
    disk: &dyn Volume,
    sector_len: u64,
    list: &GptList,
    entries: &[u8],
) -> Vec<Partition> {
    let entry = |(number, entry): (u32, &[u8])| {
        let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
        // An entry whose type is zero is not used.
        let kind = entry.get(..16)?;
        if kind.iter().all(|byte| *byte == 0) {
            return None;
        }
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        let purpose = GPT_PURPOSES.iter().find(|(known, _)| known == kind);
        Some(Partition {
            name: gpt_name(entry.get(56..128)?),
            purpose: purpose.map(|(_, purpose)| *purpose),
            ..partition(disk, number, (first, sectors), sector_len)?
        })
    };
    let numbered = (1..=PARTITIONS_MAX).zip(entries.chunks_exact(list.entry_len));
    numbered.filter_map(entry).collect()
}

fn gpt_name(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).filter_map(|unit| le16(unit, 0));
    let units = units.take_while(|unit| *unit != 0);
    let name: String = char::decode_utf16(units)
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    (!name.is_empty()).then_some(name)
}

#[derive(Debug, Clone, Copy)]
struct MbrEntry {
    kind: u8,
    /// First sector, relative to what depends on the kind.
    start: u32,
    sectors: u32,
}

impl MbrEntry {
    fn is_extended(&self) -> bool {
        MBR_KINDS_EXTENDED.contains(&self.kind)
    }
}

/// Returns the four entries of a sector that looks like one of a partition table.
fn mbr_entries(sector: &[u8]) -> Option<[MbrEntry; 4]> {
    if le16(sector, 510)? != MBR_SIGNATURE {
        return None;
    }
    let mut entries = sector.get(MBR_ENTRIES..510)?.chunks_exact(MBR_ENTRY_LEN);
    let mut entry = || {
        let entry = entries.next()?;
        // Whatever else stands in a boot sector has other values here.
        if !matches!(entry.first()?, 0 | 0x80) {
            return None;
        }
        Some(MbrEntry {
            kind: *entry.get(4)?,
            start: le32(entry, 8)?,
            sectors: le32(entry, 12)?,
        })
    };
    Some([entry()?, entry()?, entry()?, entry()?])
}

/// Returns whether the sector is the first of a FAT or NTFS, whose bytes may look like entries.
fn is_boot_sector_of_fat(sector: &[u8]) -> bool {
    let has = |at: usize, text: &[u8]| sector.get(at..).is_some_and(|rest| rest.starts_with(text));
    has(3, b"NTFS    ") || has(3, b"EXFAT   ") || has(54, b"FAT1") || has(82, b"FAT32   ")
}

/// An MBR counts in sectors without saying how long they are. They are 512 bytes unless that puts
/// a partition beyond the end of nothing but zeros and 4096 do not: what decides is where the
/// first partition holds something.
fn mbr_sector_len(disk: &dyn Volume, entries: &[MbrEntry; 4]) -> io::Result<u64> {
    let used = entries
        .iter()
        .find(|entry| entry.sectors != 0 && !entry.is_extended());
    let Some(used) = used else {
        return Ok(512);
    };
    for sector_len in SECTOR_LENS {
        let offset = u64::from(used.start).saturating_mul(sector_len);
        // Superblocks of all kinds that partitions of such disks hold lie in this range.
        let found = bytes(disk, offset, 72 * 1024)?;
        if found.is_some_and(|found| found.iter().any(|byte| *byte != 0)) {
            return Ok(sector_len);
        }
    }
    Ok(512)
}

fn read_mbr(
    disk: &dyn Volume,
    entries: &[MbrEntry; 4],
    sector_len: u64,
) -> io::Result<Vec<Partition>> {
    let mut found = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(entries) {
        if entry.sectors == 0 {
            continue;
        }
        if entry.is_extended() {
            extended = extended.or(Some(u64::from(entry.start)));
            continue;
        }
        let sectors = (u64::from(entry.start), u64::from(entry.sectors));
        found.extend(
            partition(disk, number, sectors, sector_len).map(|found| Partition {
                purpose: (entry.kind == MBR_KIND_PREP).then_some(PREP),
                ..found
            }),
        );
    }
    if let Some(first) = extended {
        read_logical(disk, first, sector_len, &mut found)?;
    }
    Ok(found)
}

/// Follows the chain of sectors that each describe one logical partition and name the next.
fn read_logical(
    disk: &dyn Volume,
    extended: u64,
    sector_len: u64,
    found: &mut Vec<Partition>,
) -> io::Result<()> {
    let mut next = Some(extended);
    let mut seen = HashSet::new();
    let mut number = 5;
    while let Some(sector) = next.take() {
        // A chain that comes back to itself, or is longer than the kernel follows, ends here.
        if number > PARTITIONS_MAX || !seen.insert(sector) {
            break;
        }
        let Some(offset) = sector.checked_mul(sector_len) else {
            break;
        };
        let Some(bytes) = bytes(disk, offset, 512)? else {
            break;
        };
        let Some(entries) = mbr_entries(&bytes) else {
            break;
        };
        for entry in entries.iter().filter(|entry| entry.sectors != 0) {
            if entry.is_extended() {
                next = next.or(extended.checked_add(u64::from(entry.start)));
                continue;
            }
            let start = sector.saturating_add(u64::from(entry.start));
            let sectors = (start, u64::from(entry.sectors));
            found.extend(partition(disk, number, sectors, sector_len));
            number = number.saturating_add(1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
