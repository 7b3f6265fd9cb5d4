//! From disk offsets to places in the image: L1, L2 and subclusters.

use super::image::Image;
use super::types::{Fault, GuestOffset, HostOffset, SUBCLUSTERS, malformed};
use crate::source::SourceError;

/// Bits 9 to 55 of L1 and L2 entries.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry.
const COMPRESSED: u64 = 1 << 62;
/// Bit 63 of an L2 entry: referenced once. With a data file it tells offset 0 from no offset.
const COPIED: u64 = 1 << 63;
/// Bit 0 of a standard L2 entry: reads as zeros.
const ZERO: u64 = 1;

/// Where a compressed cluster's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompressedPlace {
    pub host: HostOffset,
    /// Bytes that may belong to it; the last ones may not.
    pub len: u64,
}

/// What an image has for a run of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Nothing: ask the backing file.
    Unallocated,
    /// It reads as zeros, whatever the backing file says.
    Zero,
    /// The bytes as they are, from there on.
    Data(HostOffset),
    /// Part of one compressed cluster.
    Compressed(CompressedPlace),
}

/// A mapping and how far it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub len: u64,
    pub mapping: Mapping,
}

/// A run of units (clusters or subclusters) of one L2 entry.
struct Piece {
    units: u32,
    mapping: Mapping,
}

impl Image {
    /// Returns what the image has from `offset` on, for at most `len` bytes and at least one.
    ///
    /// `len` is at least 1. Runs end where a slice of an L2 table does, or with the status.
    pub(super) fn map(&self, offset: GuestOffset, len: u64) -> Result<Run, SourceError> {
        (self.map_run(offset, len)).map_err(|fault| self.fault_at(fault, offset))
    }

    fn map_run(&self, offset: GuestOffset, len: u64) -> Result<Run, Fault> {
        let geometry = self.geometry();
        let index = geometry.l1_index(offset);
        let (skipped, table) = self.next_l2_table(index, offset, len)?;
        if skipped > 0 {
            let end = index
                .saturating_add(skipped)
                .saturating_mul(geometry.l2_span());
            return Ok(Run {
                len: end.saturating_sub(offset.0).min(len),
                mapping: Mapping::Unallocated,
            });
        }
        let Some(table) = table else {
            return Ok(Run {
                len,
                mapping: Mapping::Unallocated,
            });
        };
        self.map_in_table(table, offset, len)
    }

    /// Returns how many L1 entries from `index` on are empty, as far as `len` bytes reach and one
    /// slice tells, or the L2 table of the first one.
    fn next_l2_table(
        &self,
        index: u64,
        offset: GuestOffset,
        len: u64,
    ) -> Result<(u64, Option<HostOffset>), Fault> {
        let geometry = self.geometry();
        let (l1, entries) = self.l1();
        if index >= entries {
            return Ok((0, None));
        }
        let last = geometry.l1_index(offset.plus(len.saturating_sub(1)));
        let (slice, first) = self.table_slice(l1, entries, index)?;
        let wanted = last.saturating_sub(index).saturating_add(1);
        let empty = (slice.iter().skip(first))
            .take(usize::try_from(wanted).unwrap_or(usize::MAX))
            .take_while(|&&entry| entry & OFFSET_MASK == 0)
            .count();
        if empty > 0 {
            return Ok((u64::try_from(empty).unwrap_or(u64::MAX), None));
        }
        let entry = slice.get(first).copied().unwrap_or(0);
        let table = HostOffset(entry & OFFSET_MASK);
        if !geometry.is_aligned(table) {
            return malformed(format!(
                "L2 table {index} begins within a cluster, at {}",
                table.0
            ));
        }
        if table.plus(geometry.cluster_len()).0 > self.file_len() {
            return malformed(format!(
                "L2 table {index} at {} lies outside the file",
                table.0
            ));
        }
        Ok((0, Some(table)))
    }

    /// Maps from `offset` on, as far as one slice of its L2 table reaches and the mapping goes on.
    fn map_in_table(&self, table: HostOffset, offset: GuestOffset, len: u64) -> Result<Run, Fault> {
        let geometry = self.geometry();
        let words = geometry.l2_entry_words();
        let table_words = geometry.cluster_len() / 8;
        let word = geometry.l2_index(offset).saturating_mul(words);
        let (slice, first) = self.table_slice(table, table_words, word)?;
        let unit_len = geometry.unit_len();
        let in_cluster = geometry.in_cluster(offset.0);
        let mut cluster = GuestOffset(offset.0.saturating_sub(in_cluster));
        let mut unit = u32::try_from(in_cluster.checked_div(unit_len).unwrap_or(0)).unwrap_or(0);
        let mut run: Option<Run> = None;
        let entry_words = if geometry.extended_l2() { 2 } else { 1 };
        for entry in slice
            .get(first..)
            .unwrap_or_default()
            .chunks_exact(entry_words)
        {
            let (entry, bitmap) = match *entry {
                [entry, bitmap] => (entry, Some(bitmap)),
                [entry] => (entry, None),
                _ => break,
            };
            let units = if bitmap.is_some() { SUBCLUSTERS } else { 1 };
            while unit < units {
                let piece = match self.piece(entry, bitmap, unit, cluster) {
                    // The run up to here is sound; the next one will fail where it begins.
                    Err(_) if run.is_some() => return Ok(clip(run, in_cluster, unit_len, len)),
                    piece => piece?,
                };
                let piece_len = u64::from(piece.units).saturating_mul(unit_len);
                if !extend(&mut run, piece.mapping, piece_len) {
                    return Ok(clip(run, in_cluster, unit_len, len));
                }
                unit = unit.saturating_add(piece.units);
            }
            unit = 0;
            cluster = cluster.plus(geometry.cluster_len());
            if run.is_some_and(|run| run.len.saturating_sub(unit_len) >= len) {
                break;
            }
        }
        Ok(clip(run, in_cluster, unit_len, len))
    }

    /// Returns what an L2 entry says of the units of `cluster` from `unit` on that are alike.
    fn piece(
        &self,
        entry: u64,
        bitmap: Option<u64>,
        unit: u32,
        cluster: GuestOffset,
    ) -> Result<Piece, Fault> {
        if entry & COMPRESSED != 0 {
            return self.compressed_piece(entry, bitmap, unit);
        }
        let host = HostOffset(entry & OFFSET_MASK);
        let allocated = host.0 != 0 || (self.has_data_file() && entry & COPIED != 0);
        if allocated && !self.geometry().is_aligned(host) {
            return malformed(format!("a cluster begins within another, at {}", host.0));
        }
        let Some(bitmap) = bitmap else {
            let mapping = match (entry & ZERO != 0, allocated) {
                (true, _) if !self.knows_zero_clusters() => {
                    return malformed("a version 2 image has a zero cluster");
                }
                (true, _) => Mapping::Zero,
                (false, true) => Mapping::Data(self.checked_host(host, cluster)?),
                (false, false) => Mapping::Unallocated,
            };
            return Ok(Piece { units: 1, mapping });
        };
        let alloc = bitmap & u64::from(u32::MAX);
        let zero = bitmap.wrapping_shr(32);
        if alloc & zero != 0 || (alloc != 0 && !allocated) {
            return malformed("subclusters are both zero and allocated, or in no cluster");
        }
        let (zero, alloc) = (zero.wrapping_shr(unit), alloc.wrapping_shr(unit));
        let left = SUBCLUSTERS.saturating_sub(unit);
        let (units, mapping) = if zero & 1 == 1 {
            (zero.trailing_ones(), Mapping::Zero)
        } else if alloc & 1 == 1 {
            let start = u64::from(unit).saturating_mul(self.geometry().unit_len());
            let host = self.checked_host(host, cluster)?.plus(start);
            (alloc.trailing_ones(), Mapping::Data(host))
        } else {
            ((zero | alloc).trailing_zeros(), Mapping::Unallocated)
        };
        Ok(Piece {
            units: units.min(left),
            mapping,
        })
    }

    fn compressed_piece(&self, entry: u64, bitmap: Option<u64>, unit: u32) -> Result<Piece, Fault> {
        if self.has_data_file() {
            return malformed("a compressed cluster in an image with an external data file");
        }
        // The specification's x: below it the offset, from it on the count of 512-byte sectors.
        let x = 70_u32.saturating_sub(self.geometry().cluster_bits());
        let host = entry & 1_u64.wrapping_shl(x).wrapping_sub(1);
        let further_sectors = (entry & COMPRESSED.wrapping_sub(1)).wrapping_shr(x);
        let len = further_sectors.saturating_add(1).saturating_mul(512);
        let mapping = Mapping::Compressed(CompressedPlace {
            host: HostOffset(host),
            len: len.saturating_sub(host & 511),
        });
        let units = if bitmap.is_some() {
            SUBCLUSTERS.saturating_sub(unit)
        } else {
            1
        };
        Ok(Piece { units, mapping })
    }

    /// In a data file, every cluster lies where the guest has it: QEMU insists on it as well.
    fn checked_host(&self, host: HostOffset, cluster: GuestOffset) -> Result<HostOffset, Fault> {
        if self.has_data_file() && host.0 != cluster.0 {
            return malformed(format!(
                "the cluster of disk offset {} lies elsewhere in the data file, at {}",
                cluster.0, host.0
            ));
        }
        Ok(host)
    }
}

/// Lengthens `run` by a piece, and returns whether that was possible.
fn extend(run: &mut Option<Run>, mapping: Mapping, len: u64) -> bool {
    let Some(current) = run else {
        *run = Some(Run { len, mapping });
        return true;
    };
    let joins = match (current.mapping, mapping) {
        (Mapping::Unallocated, Mapping::Unallocated) | (Mapping::Zero, Mapping::Zero) => true,
        (Mapping::Data(start), Mapping::Data(next)) => start.plus(current.len) == next,
        _ => false,
    };
    if joins {
        current.len = current.len.saturating_add(len);
    }
    joins
}

/// Cuts a run that begins with a unit to begin `in_cluster` bytes into its cluster, which is
/// within that unit, and to have at most `len` bytes.
fn clip(run: Option<Run>, in_cluster: u64, unit_len: u64, len: u64) -> Run {
    let run = run.unwrap_or(Run {
        len: u64::MAX,
        mapping: Mapping::Unallocated,
    });
    let skip = in_cluster.checked_rem(unit_len).unwrap_or(0);
    let mapping = match run.mapping {
        Mapping::Data(host) => Mapping::Data(host.plus(skip)),
        other => other,
    };
    Run {
        len: run.len.saturating_sub(skip).min(len),
        mapping,
    }
}
