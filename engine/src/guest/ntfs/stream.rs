//! The values of attributes: content, indexes, lists.

use std::io;

use super::record::{Attribute, Run, Value};
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, damaged, unsupported};
use crate::guest::tree::GuestError;

/// What is handed out at once.
const RUN_LEN: u64 = 1 << 20;

/// A compressed chunk holds so much.
const CHUNK_SIZE: usize = 4096;

/// Takes runs of content with their offsets.
pub(super) type Sink<'s> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 's;

/// The whole value of an attribute.
#[derive(Debug, Clone)]
pub(super) enum Stream {
    Resident(Vec<u8>),
    Runs {
        runs: Vec<Run>,
        size: u64,
        initialized: u64,
        /// 0 where nothing is compressed.
        unit_clusters: u64,
    },
}

impl Stream {
    /// Joins the parts of an attribute; `None` where there is no such attribute.
    pub fn find(
        attributes: &[Attribute],
        kind: u32,
        name: &[u8],
    ) -> Result<Option<Self>, GuestError> {
        let mut parts = Vec::new();
        for attribute in attributes {
            if attribute.kind != kind || attribute.name != name {
                continue;
            }
            if attribute.flags & Attribute::ENCRYPTED != 0 {
                return Err(unsupported(WHAT, "an encrypted file"));
            }
            match &attribute.value {
                Value::Resident(bytes) => return Ok(Some(Self::Resident(bytes.clone()))),
                Value::Runs { first, .. } => parts.push((*first, attribute)),
            }
        }
        parts.sort_by_key(|(first, _)| *first);
        parts.dedup_by_key(|(first, _)| *first);
        let mut next: u64 = 0;
        let mut stream = None;
        for (_, attribute) in parts {
            let Value::Runs {
                first,
                runs: more,
                size,
                initialized,
                unit_clusters,
            } = &attribute.value
            else {
                continue;
            };
            if *first != next {
                return Err(damaged(WHAT, "a part of an attribute is missing"));
            }
            let more_clusters = more.iter().map(|run| run.clusters);
            next = more_clusters.fold(next, u64::saturating_add);
            match &mut stream {
                Some(Self::Runs { runs, .. }) => runs.extend_from_slice(more),
                _ => {
                    let compressed = attribute.flags & Attribute::COMPRESSED != 0;
                    stream = Some(Self::Runs {
                        runs: more.clone(),
                        size: *size,
                        initialized: *initialized,
                        unit_clusters: if compressed { *unit_clusters } else { 0 },
                    });
                }
            }
        }
        Ok(stream)
    }

    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Resident(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Runs { size, .. } => *size,
        }
    }

    /// Hands the value to `sink`, without its holes.
    pub fn read(&self, disk: &Disk, sink: &mut Sink<'_>) -> Result<(), GuestError> {
        match self {
            Self::Resident(bytes) if bytes.is_empty() => Ok(()),
            Self::Resident(bytes) => Ok(sink(0, bytes)?),
            Self::Runs {
                runs,
                size,
                initialized,
                unit_clusters: 0,
            } => read_runs(disk, runs, (*size).min(*initialized), sink),
            Self::Runs {
                runs,
                size,
                initialized,
                unit_clusters,
            } => read_compressed(disk, runs, *unit_clusters, (*size).min(*initialized), sink),
        }
    }

    /// Reads the whole value, which must not be longer than `len_max`.
    pub fn read_whole(&self, disk: &Disk, len_max: u64) -> Result<Vec<u8>, GuestError> {
        let len = usize::try_from(self.size()).unwrap_or(usize::MAX);
        if self.size() > len_max {
            return Err(damaged(WHAT, "an attribute is too long"));
        }
        let mut whole = vec![0; len];
        self.read(disk, &mut |offset, run| {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            if let Some(end) = at.checked_add(run.len())
                && let Some(place) = whole.get_mut(at..end)
            {
                place.copy_from_slice(run);
            }
            Ok(())
        })?;
        Ok(whole)
    }

    /// Fills `buf` from an offset on; holes are no part of what is read so.
    pub fn read_at(&self, disk: &Disk, offset: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let bad = || damaged(WHAT, "a record lies outside of its table");
        let Self::Runs { runs, .. } = self else {
            return Err(bad());
        };
        let len = u64::try_from(buf.len()).map_err(|_| bad())?;
        let end = offset.checked_add(len).ok_or_else(bad)?;
        let (mut start, mut done): (u64, usize) = (0, 0);
        for run in runs {
            let run_end = start.saturating_add(disk.bytes_of(run.clusters));
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            if at < run_end && at < end {
                let cluster = run.cluster.ok_or_else(bad)?;
                let want = end.min(run_end).saturating_sub(at);
                let want = usize::try_from(want).unwrap_or(usize::MAX);
                let place = buf
                    .get_mut(done..done.saturating_add(want))
                    .ok_or_else(bad)?;
                let within = at.saturating_sub(start);
                let beneath = disk.bytes_of(cluster).saturating_add(within);
                disk.volume.read_at(beneath, place)?;
                done = done.saturating_add(want);
            }
            start = run_end;
        }
        if done < buf.len() { Err(bad()) } else { Ok(()) }
    }
}

fn read_runs(disk: &Disk, runs: &[Run], end: u64, sink: &mut Sink<'_>) -> Result<(), GuestError> {
    let mut start: u64 = 0;
    let mut bytes = Vec::new();
    for run in runs {
        let run_end = start.saturating_add(disk.bytes_of(run.clusters));
        let mut at = start;
        while let Some(cluster) = run.cluster.filter(|_| at < run_end.min(end)) {
            let len = run_end.min(end).saturating_sub(at).min(RUN_LEN);
            bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
            let beneath = disk
                .bytes_of(cluster)
                .saturating_add(at.saturating_sub(start));
            disk.volume.read_at(beneath, &mut bytes)?;
            sink(at, &bytes)?;
            at = at.saturating_add(len);
        }
        start = run_end;
        if start >= end {
            return Ok(());
        }
    }
    if start < end {
        return Err(damaged(WHAT, "a file ends early"));
    }
    Ok(())
}

/// Reads unit after unit: one that has all of its clusters is as it is, one that has none is a
/// hole, any other is compressed.
fn read_compressed(
    disk: &Disk,
    runs: &[Run],
    unit_clusters: u64,
    end: u64,
    sink: &mut Sink<'_>,
) -> Result<(), GuestError> {
    let unit_len = disk.bytes_of(unit_clusters);
    if unit_len > RUN_LEN || unit_len == 0 {
        return Err(damaged(WHAT, "a file is compressed in too large units"));
    }
    let mut units = Units {
        rest: runs.iter().copied(),
        run: None,
    };
    let whole = usize::try_from(unit_len).unwrap_or(usize::MAX);
    let mut at: u64 = 0;
    while at < end {
        let holes = units.skip_holes(unit_clusters);
        at = at.saturating_add(holes.saturating_mul(unit_len));
        if at >= end {
            break;
        }
        let mut held = units.read(disk, unit_clusters)?;
        let want = usize::try_from(end.saturating_sub(at).min(unit_len)).unwrap_or(usize::MAX);
        if !held.is_empty() {
            if held.len() < whole {
                held = unpack(&held, whole)?;
            }
            held.resize(whole, 0);
            sink(at, held.get(..want).unwrap_or_default())?;
        }
        at = at.saturating_add(unit_len);
    }
    Ok(())
}

/// The clusters of a compressed file, taken by units.
struct Units<I> {
    rest: I,
    /// What is left of the run that was begun.
    run: Option<Run>,
}

impl<I: Iterator<Item = Run>> Units<I> {
    fn next_run(&mut self) -> Option<Run> {
        self.run.take().or_else(|| self.rest.next())
    }

    fn put_back(&mut self, run: Run, taken: u64) {
        let clusters = run.clusters.saturating_sub(taken);
        self.run = (clusters > 0).then(|| Run {
            cluster: run.cluster.map(|cluster| cluster.saturating_add(taken)),
            clusters,
        });
    }

    /// Skips the units that a hole covers, and returns how many.
    fn skip_holes(&mut self, unit_clusters: u64) -> u64 {
        let mut skipped: u64 = 0;
        while let Some(run) = self.next_run() {
            let units = run.clusters.checked_div(unit_clusters).unwrap_or_default();
            if run.cluster.is_some() || units == 0 {
                self.put_back(run, 0);
                break;
            }
            self.put_back(run, units.saturating_mul(unit_clusters));
            skipped = skipped.saturating_add(units);
        }
        skipped
    }

    /// Reads what clusters the next unit has.
    fn read(&mut self, disk: &Disk, unit_clusters: u64) -> Result<Vec<u8>, GuestError> {
        let (mut held, mut left) = (Vec::new(), unit_clusters);
        while let Some(run) = (left > 0).then(|| self.next_run()).flatten() {
            let taken = run.clusters.min(left);
            if let Some(cluster) = run.cluster {
                let len = usize::try_from(disk.bytes_of(taken)).unwrap_or(usize::MAX);
                let before = held.len();
                held.resize(before.saturating_add(len), 0);
                let place = held.get_mut(before..).unwrap_or_default();
                disk.volume.read_at(disk.bytes_of(cluster), place)?;
            }
            left = left.saturating_sub(taken);
            self.put_back(run, taken);
        }
        if left == unit_clusters {
            return Err(damaged(WHAT, "a file ends early"));
        }
        Ok(held)
    }
}

/// Unpacks LZNT1, at most `len` bytes.
fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, GuestError> {
    let mut fields = Fields::new(WHAT, packed);
    let mut out: Vec<u8> = Vec::with_capacity(len);
    while out.len() < len && fields.bytes().len() >= 2 {
        let head = fields.le16(0)?;
        if head == 0 {
            break;
        }
        let chunk_len = usize::from(head & 0xfff).saturating_add(1);
        let chunk = fields.get(2, chunk_len)?;
        let start = out.len();
        if head & 0x8000 == 0 {
            out.extend_from_slice(chunk);
        } else {
            unpack_chunk(chunk, &mut out)?;
        }
        // A chunk that ends early stands for a whole one.
        if out.len() < len && out.len().saturating_sub(start) < CHUNK_SIZE {
            out.resize(start.saturating_add(CHUNK_SIZE), 0);
        }
        fields = fields.from(chunk_len.saturating_add(2))?;
    }
    out.truncate(len);
    Ok(out)
}

fn unpack_chunk(chunk: &[u8], out: &mut Vec<u8>) -> Result<(), GuestError> {
    let bad = || damaged(WHAT, "a compressed file cannot be unpacked");
    let start = out.len();
    let mut bytes = chunk.iter().copied();
    while let Some(tags) = bytes.next() {
        for bit in 0..8_u32 {
            let Some(low) = bytes.next() else {
                return Ok(());
            };
            if tags.checked_shr(bit).unwrap_or_default() & 1 == 0 {
                out.push(low);
                continue;
            }
            let phrase = u16::from_le_bytes([low, bytes.next().ok_or_else(bad)?]);
            let done = out.len().saturating_sub(start);
            // The further in the chunk, the more bits tell how far back, the fewer how much.
            let far_bits = done
                .saturating_sub(1)
                .checked_ilog2()
                .map_or(4, |log| log.saturating_add(1).clamp(4, 12));
            let len_bits = 16_u32.saturating_sub(far_bits);
            let back = usize::from(phrase.checked_shr(len_bits).unwrap_or_default());
            let mask = 0xffff_u16.checked_shr(far_bits).unwrap_or_default();
            let len = usize::from(phrase & mask).saturating_add(3);
            let back = back.saturating_add(1);
            if back > done || done.saturating_add(len) > CHUNK_SIZE {
                return Err(bad());
            }
            for _ in 0..len {
                let from = out.len().saturating_sub(back);
                out.push(out.get(from).copied().unwrap_or_default());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_unpacks() {
        // [MS-XCA] 3.3, decompression of LZNT1.
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2,
            0x47, 0x01, 0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0,
            0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58,
            0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01,
            0x18, 0x90, 0x00,
        ];
        let expected = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E \
                        F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let out = unpack(&packed, expected.len()).expect("well formed");
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
