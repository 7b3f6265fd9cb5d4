//! Sorts more places than memory holds: sorted runs in one nameless file, then merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::place::Place;
use super::{IndexError, private_path};
use crate::id::ContentId;

/// Bytes of one record in a run.
const RECORD_LEN: usize = ContentId::LEN + Place::LEN;

/// Bytes of memory for the buffers of all runs together, while they are merged.
const MERGE_MEMORY: usize = 8 << 20;

/// Records read from a run at once, at least and at most.
const BUFFER_RECORDS: std::ops::RangeInclusive<usize> = 64..=4096;

/// Takes places in any order and gives them back in the order of their ids.
pub(super) struct Sorter {
    memory: Vec<(ContentId, Place)>,
    memory_max: usize,
    temp_dir: PathBuf,
    file: Option<File>,
    /// Where each run ends in the file, in bytes.
    ends: Vec<u64>,
}

impl Sorter {
    /// Makes an empty sorter that holds about `memory` bytes before it writes to `temp_dir`.
    pub(super) fn new(memory: u64, temp_dir: &Path) -> Self {
        let records = memory / size_of::<(ContentId, Place)>() as u64;
        Self {
            memory: Vec::new(),
            memory_max: usize::try_from(records).unwrap_or(usize::MAX).max(1),
            temp_dir: temp_dir.to_path_buf(),
            file: None,
            ends: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, places: &[(ContentId, Place)]) -> Result<(), IndexError> {
        for place in places {
            if self.memory.len() >= self.memory_max {
                self.write_run()?;
            }
            self.memory.push(*place);
        }
        Ok(())
    }

    /// Returns everything added so far, in order.
    pub(super) fn places(&mut self) -> Result<Merged<'_>, IndexError> {
        self.memory.sort_unstable();
        let mut merged = Merged {
            memory: self.memory.iter(),
            runs: Vec::with_capacity(self.ends.len()),
            heads: BinaryHeap::with_capacity(self.ends.len() + 1),
        };
        if let Some(file) = &self.file {
            let share = MERGE_MEMORY / RECORD_LEN / self.ends.len().max(1);
            let records = share.clamp(*BUFFER_RECORDS.start(), *BUFFER_RECORDS.end());
            let mut at = 0;
            for &end in &self.ends {
                merged.runs.push(Run {
                    file,
                    temp_dir: &self.temp_dir,
                    at,
                    end,
                    buffer: vec![0; records * RECORD_LEN],
                    read: 0..0,
                });
                at = end;
            }
        }
        for source in 0..=merged.runs.len() {
            merged.advance(source)?;
        }
        Ok(merged)
    }

    fn write_run(&mut self) -> Result<(), IndexError> {
        let failed = |source| failed("write", &self.temp_dir, source);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(&self.temp_dir).map_err(failed)?),
        };
        self.memory.sort_unstable();
        let mut at = self.ends.last().copied().unwrap_or(0);
        let mut bytes = Vec::with_capacity(BUFFER_RECORDS.end() * RECORD_LEN);
        for records in self.memory.chunks(*BUFFER_RECORDS.end()) {
            bytes.clear();
            for (id, place) in records {
                bytes.extend_from_slice(id.as_bytes());
                bytes.extend_from_slice(&place.to_bytes());
            }
            file.write_all_at(&bytes, at).map_err(failed)?;
            at += bytes.len() as u64;
        }
        self.ends.push(at);
        self.memory.clear();
        Ok(())
    }
}

/// Makes a file that goes when it is closed, whatever becomes of this process.
fn nameless(temp_dir: &Path) -> io::Result<File> {
    loop {
        let path = private_path(temp_dir);
        match File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
        {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(source),
        }
    }
}

fn failed(op: &'static str, temp_dir: &Path, source: io::Error) -> IndexError {
    IndexError::Io {
        op,
        path: temp_dir.to_path_buf(),
        source,
    }
}

/// Sorted places of several runs.
pub(super) struct Merged<'s> {
    memory: std::slice::Iter<'s, (ContentId, Place)>,
    runs: Vec<Run<'s>>,
    /// The next place of each run and of memory, with the number of its source.
    heads: BinaryHeap<Reverse<(ContentId, Place, usize)>>,
}

impl Merged<'_> {
    fn advance(&mut self, source: usize) -> Result<(), IndexError> {
        let next = match self.runs.get_mut(source) {
            Some(run) => run.next()?,
            None => self.memory.next().copied(),
        };
        if let Some((id, place)) = next {
            self.heads.push(Reverse((id, place, source)));
        }
        Ok(())
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<(ContentId, Place), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((id, place, source)) = self.heads.pop()?;
        Some(self.advance(source).map(|()| (id, place)))
    }
}

/// A sorted stretch of the file.
struct Run<'s> {
    file: &'s File,
    temp_dir: &'s Path,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What of the buffer has been read from the file and not been handed out.
    read: std::ops::Range<usize>,
}

impl Run<'_> {
    fn next(&mut self) -> Result<Option<(ContentId, Place)>, IndexError> {
        if self.read.is_empty() {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let len = left.min(self.buffer.len());
            self.file
                .read_exact_at(&mut self.buffer[..len], self.at)
                .map_err(|source| failed("read", self.temp_dir, source))?;
            self.at += len as u64;
            self.read = 0..len;
        }
        let Some((id, rest)) = self.buffer[self.read.clone()].split_first_chunk() else {
            return Ok(None);
        };
        let place = Place::from_bytes(&rest[..Place::LEN]).expect("a record holds a place");
        self.read.start += RECORD_LEN;
        Ok(Some((ContentId::from_bytes(*id), place)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::PackPrefix;
    use super::*;
    use crate::id::PackId;

    fn places(random: &mut fastrand::Rng, count: usize) -> Vec<(ContentId, Place)> {
        let mut place = |number: usize| {
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            // Few enough ids that some come several times.
            let id = ContentId::from_bytes([bytes[0]; 32]);
            let place = Place {
                pack: PackPrefix::of(PackId::from_bytes(bytes)),
                frame: 0,
                slot: 0,
                len: u32::try_from(number).expect("small"),
            };
            (id, place)
        };
        (0..count).map(&mut place).collect()
    }

    #[test]
    fn any_number_of_runs_comes_back_sorted_and_again() {
        let temp_dir = tempfile::tempdir().expect("the temporary folder can be written");
        let mut random = fastrand::Rng::with_seed(3);
        for count in [0, 1, 9, 10, 11, 20, 1000, 20_000] {
            let places = places(&mut random, count);
            let mut sorted = places.clone();
            sorted.sort_unstable();
            for records in [1, 10, 7000] {
                if count as u64 / records > 1000 {
                    continue;
                }
                let mut sorter = Sorter::new(records * 48, temp_dir.path());
                sorter.add(&places).expect("it can be written");
                for _ in 0..2 {
                    let merged = sorter.places().expect("it can be read");
                    let merged: Result<Vec<_>, _> = merged.collect();
                    assert!(
                        merged.expect("it can be read") == sorted,
                        "{count} by {records}"
                    );
                }
            }
        }
        let left = temp_dir.path().read_dir().expect("it is there").count();
        assert_eq!(left, 0, "the file has no name");
    }
}
