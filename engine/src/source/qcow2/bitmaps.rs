//! Persistent dirty bitmaps: which ranges the guest wrote since the bitmap was made.
//!
//! A bitmap that cannot be proven whole is refused: the caller then reads everything. What would
//! be missing from it would be missing from the backup, unseen.

use std::ops::Range;

use super::header::BitmapsExtension;
use super::image::Image;
use super::types::{Fault, HostOffset, be_u16, be_u32, be_u64};
use crate::limits::MIB;
use crate::source::SourceError;
use crate::source::file::ReadAt;

/// Most bitmaps in an image. QEMU's limit.
const COUNT_MAX: u32 = 65_535;
/// Longest bitmap directory. QEMU's limit.
const DIRECTORY_LEN_MAX: u64 = 64 * MIB;
/// Longest serialised bitmap. QEMU's limit.
const BITMAP_LEN_MAX: u64 = 512 * MIB;
/// Legal granularities, as binary logarithms. QEMU's limits.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// Bytes of a directory entry before its variable parts.
const FIXED_LEN: u64 = 24;

const FLAG_IN_USE: u32 = 1;
/// The bitmap records every write. One that does not may have missed some.
const FLAG_AUTO: u32 = 2;
/// Bit 2 (extra data may be ignored) does not matter to a reader.
const FLAGS_KNOWN: u32 = 0b111;
const TYPE_DIRTY_TRACKING: u8 = 1;

/// Bits 9 to 55 of a bitmap table entry.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 0 of an entry without an offset: all of its bits are set.
const ALL_ONES: u64 = 1;

/// Why a bitmap cannot be used: a predicate of it, or a fault of the image.
enum Refusal {
    Bitmap(&'static str),
    Image(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Refusal::Image(fault)
    }
}

/// One entry of the bitmap directory.
struct Entry {
    table: HostOffset,
    table_entries: u64,
    flags: u32,
    kind: u8,
    granularity_bits: u8,
    extra_len: u32,
    name: Vec<u8>,
}

/// A checked bitmap. Its bits stay in the file, and are read through the image's cache.
pub(super) struct DirtyBitmap {
    table: HostOffset,
    table_entries: u64,
    granularity_bits: u32,
}

/// A run of bytes that are all dirty, or all clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirtyRun {
    pub len: u64,
    pub dirty: bool,
}

impl DirtyBitmap {
    /// Finds the bitmap `name` of the active state of `image` and checks all but its bits; `None`
    /// where the image has none of that name.
    pub fn find(image: &Image, name: &str) -> Result<Option<Self>, SourceError> {
        let found = find(image, name);
        let found = found.and_then(|entry| entry.map(|entry| check(image, &entry)).transpose());
        found.map_err(|refusal| match refusal {
            Refusal::Image(fault) => fault.at(image.path()),
            Refusal::Bitmap(fault) => SourceError::Bitmap {
                path: image.path().to_path_buf(),
                name: name.to_owned(),
                fault,
            },
        })
    }

    /// Returns whether the bytes from `range.start` on are dirty, and for how long that holds: as
    /// far as one slice of the bitmap tells, at most to `range.end`. The range is not empty.
    pub fn run(&self, image: &Image, range: &Range<u64>) -> Result<DirtyRun, Fault> {
        let cluster_bits = image.geometry().cluster_len().saturating_mul(8);
        let bit = range.start.wrapping_shr(self.granularity_bits);
        let index = bit.checked_div(cluster_bits).unwrap_or(0);
        let in_cluster = bit.checked_rem(cluster_bits).unwrap_or(0);
        let (slice, at) = image.table_slice(self.table, self.table_entries, index)?;
        let entry = slice.get(at).copied().unwrap_or(0);
        let place = HostOffset(entry & OFFSET_MASK);
        let (dirty, bits) = if place.0 == 0 {
            (
                entry & ALL_ONES != 0,
                cluster_bits.saturating_sub(in_cluster),
            )
        } else {
            let words = image.geometry().cluster_len() / 8;
            let (slice, first) = image.table_slice(place, words, in_cluster / 64)?;
            run_of_bits(slice.get(first..).unwrap_or_default(), in_cluster % 64)
        };
        let end = u128::from(bit.saturating_add(bits)) << self.granularity_bits;
        let end = u64::try_from(end).unwrap_or(u64::MAX).min(range.end);
        Ok(DirtyRun {
            len: end.saturating_sub(range.start),
            dirty,
        })
    }
}

/// Returns the bit `first` of `words` and how many bits from there on are like it. Words come from
/// big-endian; the bits of a bitmap are numbered in little-endian.
fn run_of_bits(words: &[u64], first: u64) -> (bool, u64) {
    let mut words = words.iter().map(|word| word.swap_bytes());
    let shift = u32::try_from(first % 64).unwrap_or(0);
    let word = words.next().unwrap_or(0).wrapping_shr(shift);
    let dirty = word & 1 == 1;
    let same = |word: u64| {
        if dirty {
            word.trailing_ones()
        } else {
            word.trailing_zeros()
        }
    };
    let in_word = 64_u32.saturating_sub(shift);
    let mut bits = u64::from(same(word).min(in_word));
    if bits == u64::from(in_word) {
        for word in words {
            bits = bits.saturating_add(u64::from(same(word)));
            if same(word) < 64 {
                break;
            }
        }
    }
    (dirty, bits)
}

fn find(image: &Image, name: &str) -> Result<Option<Entry>, Refusal> {
    let Some((extension, is_valid)) = image.bitmaps() else {
        return Ok(None);
    };
    if !is_valid {
        return Err(Refusal::Bitmap(
            "is not valid: something that knows no bitmaps wrote to the image",
        ));
    }
    check_directory(image, &extension)?;
    let end = extension.directory.plus(extension.directory_len);
    let mut place = extension.directory;
    let mut found = None;
    for _ in 0..extension.count {
        let (entry, len) = read_entry(image.file(), place, end)?;
        place = place.plus(len);
        if entry.name == name.as_bytes() {
            if found.is_some() {
                return Err(Refusal::Bitmap("is there twice"));
            }
            found = Some(entry);
        }
    }
    Ok(found)
}

fn check_directory(image: &Image, extension: &BitmapsExtension) -> Result<(), Fault> {
    let len = extension.directory_len;
    let fault = if extension.count > COUNT_MAX || len > DIRECTORY_LEN_MAX {
        "its bitmap directory is too long"
    } else if !image.geometry().is_aligned(extension.directory) {
        "its bitmap directory begins within a cluster"
    } else if extension.directory.plus(len).0 > image.file_len() {
        "its bitmap directory lies outside the file"
    } else {
        return Ok(());
    };
    Err(Fault::Malformed(fault.to_owned()))
}

/// Reads the directory entry at `place` and returns it with its padded length.
fn read_entry(
    file: &dyn ReadAt,
    place: HostOffset,
    end: HostOffset,
) -> Result<(Entry, u64), Fault> {
    let fixed = read(file, place, FIXED_LEN, end)?;
    let name_len = u64::from(be_u16(&fixed, 18).unwrap_or(0));
    let extra_len = be_u32(&fixed, 20).unwrap_or(0);
    let before_name = FIXED_LEN.saturating_add(u64::from(extra_len));
    let entry = Entry {
        table: HostOffset(be_u64(&fixed, 0).unwrap_or(0)),
        table_entries: u64::from(be_u32(&fixed, 8).unwrap_or(0)),
        flags: be_u32(&fixed, 12).unwrap_or(0),
        kind: fixed.get(16).copied().unwrap_or(0),
        granularity_bits: fixed.get(17).copied().unwrap_or(0),
        extra_len,
        name: read(file, place.plus(before_name), name_len, end)?,
    };
    Ok((
        entry,
        before_name.saturating_add(name_len).next_multiple_of(8),
    ))
}

fn read(file: &dyn ReadAt, at: HostOffset, len: u64, end: HostOffset) -> Result<Vec<u8>, Fault> {
    if at.plus(len) > end {
        return Err(Fault::Malformed(
            "its bitmap directory is cut short".to_owned(),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(at.0, &mut bytes)?;
    Ok(bytes)
}

fn check(image: &Image, entry: &Entry) -> Result<DirtyBitmap, Refusal> {
    if entry.flags & FLAG_IN_USE != 0 {
        return Err(Refusal::Bitmap(
            "is inconsistent: whoever had the image open did not store it (in use)",
        ));
    }
    if entry.flags & FLAG_AUTO == 0 {
        return Err(Refusal::Bitmap(
            "is disabled, and has missed what was written meanwhile",
        ));
    }
    if entry.flags & !FLAGS_KNOWN != 0 {
        return Err(Refusal::Bitmap("has flags that are not known"));
    }
    if entry.kind != TYPE_DIRTY_TRACKING {
        return Err(Refusal::Bitmap("is of a type that is not known"));
    }
    if entry.extra_len != 0 {
        return Err(Refusal::Bitmap("has extra data that is not known"));
    }
    if !GRANULARITY_BITS.contains(&entry.granularity_bits) {
        return Err(Refusal::Bitmap("has an illegal granularity"));
    }
    let granularity_bits = u32::from(entry.granularity_bits);
    let cluster_len = image.geometry().cluster_len();
    let bits = image
        .size()
        .div_ceil(1_u64.wrapping_shl(granularity_bits).max(1));
    let clusters = bits.div_ceil(8).div_ceil(cluster_len.max(1));
    if clusters != entry.table_entries {
        return Err(Refusal::Bitmap("does not have the length of the disk"));
    }
    if clusters.saturating_mul(cluster_len) > BITMAP_LEN_MAX.max(cluster_len) {
        return Err(Refusal::Bitmap("is too long"));
    }
    let table_end = entry.table.plus(clusters.saturating_mul(8));
    if !image.geometry().is_aligned(entry.table) || table_end.0 > image.file_len() {
        return Err(Refusal::Bitmap(
            "has a table outside the file or within a cluster",
        ));
    }
    let bitmap = DirtyBitmap {
        table: entry.table,
        table_entries: clusters,
        granularity_bits,
    };
    check_table(image, &bitmap)?;
    Ok(bitmap)
}

/// Checks every entry of the table, so that a broken bitmap is refused before anything is read.
fn check_table(image: &Image, bitmap: &DirtyBitmap) -> Result<(), Refusal> {
    let mut index = 0;
    while index < bitmap.table_entries {
        let (slice, _) = image.table_slice(bitmap.table, bitmap.table_entries, index)?;
        for &entry in &*slice {
            let place = HostOffset(entry & OFFSET_MASK);
            let reserved = entry & !OFFSET_MASK & !ALL_ONES;
            let end = place.plus(image.geometry().cluster_len());
            let is_sound = if place.0 == 0 {
                reserved == 0
            } else {
                entry & !OFFSET_MASK == 0
                    && image.geometry().is_aligned(place)
                    && end.0 <= image.file_len()
            };
            if !is_sound {
                return Err(Refusal::Bitmap(
                    "has a table entry that breaks the format's rules",
                ));
            }
        }
        index = index.saturating_add(u64::try_from(slice.len()).unwrap_or(u64::MAX).max(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_are_those_of_a_list_of_booleans() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2000 {
            let mut bits = Vec::new();
            while bits.len() < 256 {
                let value = random.bool();
                bits.extend(std::iter::repeat_n(value, random.usize(1..150)));
            }
            bits.truncate(256);
            let mut bytes = [0_u8; 32];
            for (n, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                bytes[n / 8] |= 1 << (n % 8);
            }
            let words: Vec<u64> = (bytes.as_chunks::<8>().0.iter())
                .map(|&word| u64::from_be_bytes(word))
                .collect();
            let first = random.usize(0..256);
            let same = bits[first..]
                .iter()
                .take_while(|&&bit| bit == bits[first])
                .count();
            let run = run_of_bits(&words[first / 64..], first as u64 % 64);
            assert_eq!(run, (bits[first], same as u64), "seed {seed}");
        }
    }
}
