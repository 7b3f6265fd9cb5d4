//! Sorts more records than memory holds: sorted runs in one nameless file, then merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory for the buffers of all runs together, while they are merged.
const MERGE_MEMORY: usize = 8 << 20;

/// Records read from a run at once, at least and at most.
const BUFFER_RECORDS: std::ops::RangeInclusive<usize> = 64..=4096;

/// What is sorted: a value of fixed length.
pub trait Record: Ord + Copy {
    /// Length of the encoded form in bytes.
    const LEN: usize;

    /// Appends the encoded form.
    fn encode(&self, out: &mut Vec<u8>);

    /// Decodes what [`Record::encode`] wrote, [`Record::LEN`] bytes.
    fn decode(bytes: &[u8]) -> Self;
}

/// A private file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} a temporary file in {}", .folder.display())]
pub struct SpillError {
    /// What was tried, as a verb.
    pub op: &'static str,
    /// The folder for temporary files.
    pub folder: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

/// Takes records in any order and gives them back in theirs.
pub struct Sorter<R: Record> {
    memory: Vec<R>,
    memory_max: usize,
    temp_dir: PathBuf,
    file: Option<File>,
    /// Where each run ends in the file, in bytes.
    ends: Vec<u64>,
}

impl<R: Record> Sorter<R> {
    /// Makes an empty sorter that holds about `memory` bytes before it writes to `temp_dir`.
    pub fn new(memory: u64, temp_dir: &Path) -> Self {
        let records = memory / size_of::<R>() as u64;
        Self {
            memory: Vec::new(),
            memory_max: usize::try_from(records).unwrap_or(usize::MAX).max(1),
            temp_dir: temp_dir.to_path_buf(),
            file: None,
            ends: Vec::new(),
        }
    }

    /// Adds one record.
    pub fn push(&mut self, record: R) -> Result<(), SpillError> {
        if self.memory.len() >= self.memory_max {
            self.write_run()?;
        }
        self.memory.push(record);
        Ok(())
    }

    /// Adds records.
    pub fn add(&mut self, records: &[R]) -> Result<(), SpillError> {
        records.iter().try_for_each(|record| self.push(*record))
    }

    /// Returns whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.ends.is_empty()
    }

    /// Returns everything added so far, in order. May be asked for again.
    pub fn sorted(&mut self) -> Result<Merged<'_, R>, SpillError> {
        self.memory.sort_unstable();
        let mut merged = Merged {
            memory: self.memory.iter(),
            runs: Vec::with_capacity(self.ends.len()),
            heads: BinaryHeap::with_capacity(self.ends.len() + 1),
        };
        if let Some(file) = &self.file {
            let share = MERGE_MEMORY / R::LEN / self.ends.len().max(1);
            let records = share.clamp(*BUFFER_RECORDS.start(), *BUFFER_RECORDS.end());
            let mut at = 0;
            for &end in &self.ends {
                merged.runs.push(Run {
                    file,
                    temp_dir: &self.temp_dir,
                    at,
                    end,
                    buffer: vec![0; records * R::LEN],
                    read: 0..0,
                    of: PhantomData,
                });
                at = end;
            }
        }
        for source in 0..=merged.runs.len() {
            merged.advance(source)?;
        }
        Ok(merged)
    }

    fn write_run(&mut self) -> Result<(), SpillError> {
        let failed = |source| failed("write", &self.temp_dir, source);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(&self.temp_dir).map_err(failed)?),
        };
        self.memory.sort_unstable();
        let mut at = self.ends.last().copied().unwrap_or(0);
        let mut bytes = Vec::with_capacity(BUFFER_RECORDS.end() * R::LEN);
        for records in self.memory.chunks(*BUFFER_RECORDS.end()) {
            bytes.clear();
            records.iter().for_each(|record| record.encode(&mut bytes));
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
            .mode(0o600)
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

/// Returns a path for a private file. One of the same name may be there, left by a process that
/// died.
pub(crate) fn private_path(temp_dir: &Path) -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    temp_dir.join(format!("private-{}-{number}", std::process::id()))
}

fn failed(op: &'static str, temp_dir: &Path, source: io::Error) -> SpillError {
    SpillError {
        op,
        folder: temp_dir.to_path_buf(),
        source,
    }
}

/// Sorted records of several runs.
pub struct Merged<'s, R: Record> {
    memory: std::slice::Iter<'s, R>,
    runs: Vec<Run<'s, R>>,
    /// The next record of each run and of memory, with the number of its source.
    heads: BinaryHeap<Reverse<(R, usize)>>,
}

impl<R: Record> Merged<'_, R> {
    fn advance(&mut self, source: usize) -> Result<(), SpillError> {
        let next = match self.runs.get_mut(source) {
            Some(run) => run.next()?,
            None => self.memory.next().copied(),
        };
        if let Some(record) = next {
            self.heads.push(Reverse((record, source)));
        }
        Ok(())
    }
}

impl<R: Record> Iterator for Merged<'_, R> {
    type Item = Result<R, SpillError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((record, source)) = self.heads.pop()?;
        Some(self.advance(source).map(|()| record))
    }
}

/// A sorted stretch of the file.
struct Run<'s, R> {
    file: &'s File,
    temp_dir: &'s Path,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What of the buffer has been read from the file and not been handed out.
    read: std::ops::Range<usize>,
    of: PhantomData<R>,
}

impl<R: Record> Run<'_, R> {
    fn next(&mut self) -> Result<Option<R>, SpillError> {
        if self.read.is_empty() {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let len = left.min(self.buffer.len());
            self.file
                .read_exact_at(&mut self.buffer[..len], self.at)
                .map_err(|source| failed("read", self.temp_dir, source))?;
            self.at += len as u64;
            self.read = 0..len;
        }
        let Some(record) = self.buffer[self.read.clone()].get(..R::LEN) else {
            return Ok(None);
        };
        let record = R::decode(record);
        self.read.start += R::LEN;
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Record for (u8, u32) {
        const LEN: usize = 5;

        fn encode(&self, out: &mut Vec<u8>) {
            out.push(self.0);
            out.extend_from_slice(&self.1.to_le_bytes());
        }

        fn decode(bytes: &[u8]) -> Self {
            let (first, rest) = bytes.split_first().expect("a whole record");
            (
                *first,
                u32::from_le_bytes(rest.try_into().expect("a whole record")),
            )
        }
    }

    #[test]
    fn any_number_of_runs_comes_back_sorted_and_again() {
        let temp_dir = tempfile::tempdir().expect("the temporary folder can be written");
        let mut random = fastrand::Rng::with_seed(3);
        for count in [0, 1, 9, 10, 11, 20, 1000, 20_000] {
            // Few enough first halves that some come several times.
            let records: Vec<(u8, u32)> = (0..count).map(|n| (random.u8(..), n)).collect();
            let mut sorted = records.clone();
            sorted.sort_unstable();
            for memory in [1, 10, 7000] {
                if u64::from(count) / memory > 1000 {
                    continue;
                }
                let mut sorter = Sorter::new(memory * 8, temp_dir.path());
                assert!(sorter.is_empty());
                sorter.add(&records).expect("it can be written");
                assert_eq!(sorter.is_empty(), count == 0);
                for _ in 0..2 {
                    let merged = sorter.sorted().expect("it can be read");
                    let merged: Result<Vec<_>, _> = merged.collect();
                    assert!(
                        merged.expect("it can be read") == sorted,
                        "{count} by {memory}"
                    );
                }
            }
        }
        let left = temp_dir.path().read_dir().expect("it is there").count();
        assert_eq!(left, 0, "the file has no name");
    }
}
