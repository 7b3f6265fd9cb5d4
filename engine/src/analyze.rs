//! Analyze: what chunk size would do for given disks, without a repository.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::chunker::{
    BlockSet, ChunkerSettings, Cutter, GearTable, Geometry, Piece, Region, RegionBuffer,
    walk_region,
};
use crate::compress::{Compression, Compressor};
use crate::extent::{Extent, ExtentStatus};
use crate::limits::REGION_LEN;
use crate::pool::{self, NoThread};
use crate::progress::{Cancel, Progress};
use crate::source::{Source, SourceError};

/// One frame in so many is compressed, to estimate what all would come to.
const SAMPLE: u64 = 8;
/// Stored bytes that every chunk costs beside its data: footer entry and recipe reference.
const CHUNK_OVERHEAD: u64 = 36 + 40;

/// A failure to analyze.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalyzeError {
    /// A disk could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

/// What one chunk size does. Bytes throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnalyzeRow {
    /// Average chunk size, as `init` takes it.
    pub chunk_size: u32,
    /// Chunks that the disks are made of.
    pub chunks: u64,
    /// Distinct ones among them.
    pub unique_chunks: u64,
    /// Bytes of the disks that are not holes.
    pub logical_bytes: u64,
    /// Bytes of the distinct chunks.
    pub unique_bytes: u64,
    /// Estimate of what a repository would hold: frames compressed by sample, and overhead.
    pub stored_bytes: u64,
}

impl AnalyzeRow {
    /// Returns how many times a distinct byte is used.
    pub fn dedup_ratio(&self) -> f64 {
        if self.unique_bytes == 0 {
            return 1.0;
        }
        self.logical_bytes as f64 / self.unique_bytes as f64
    }
}

/// How an analysis runs.
pub struct AnalyzeOptions<'o> {
    /// Plain length that frames are filled to.
    pub frame_len: u32,
    /// How frames are compressed.
    pub compression: Compression,
    /// Threads that read and cut; at least 1.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked between regions.
    pub cancel: &'o Cancel,
}

/// Cuts all disks at every chunk size of `sizes`, reading them once.
pub fn analyze(
    sources: &[Box<dyn Source>],
    sizes: &[ChunkerSettings],
    options: &AnalyzeOptions<'_>,
) -> Result<Vec<AnalyzeRow>, AnalyzeError> {
    let trials: Vec<Trial> = sizes.iter().map(|size| Trial::new(*size)).collect();
    for source in sources {
        Progress::add(&options.progress.total_bytes, source.size());
    }
    let regions = sources.iter().flat_map(|source| {
        let starts = (0..source.size()).step_by(REGION_LEN as usize);
        starts.map(move |start| Ok::<_, AnalyzeError>((&**source, start)))
    });
    pool::for_each(options.threads, "analyze", regions, || {
        let mut worker = Worker::new(&trials, options);
        move |(source, start)| worker.region(source, start)
    })?;
    Ok(trials.into_iter().map(Trial::into_row).collect())
}

/// One chunk size, and what was found of it.
struct Trial {
    settings: ChunkerSettings,
    cutter: Cutter,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// First half of each distinct chunk's hash: of 2^32 chunks two agree by chance once in 2^65.
    ids: HashSet<[u8; 16]>,
    chunks: u64,
    logical_bytes: u64,
    unique_bytes: u64,
    sampled_bytes: u64,
    sampled_stored: u64,
}

impl Trial {
    fn new(settings: ChunkerSettings) -> Self {
        let cutter = Cutter::new(settings.cut_params(), GearTable::public());
        Self {
            settings,
            cutter,
            found: Mutex::default(),
        }
    }

    fn into_row(self) -> AnalyzeRow {
        let found = self
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let unique_chunks = found.ids.len() as u64;
        let share = match found.sampled_bytes {
            0 => 1.0,
            bytes => found.sampled_stored as f64 / bytes as f64,
        };
        let data = (found.unique_bytes as f64 * share) as u64;
        AnalyzeRow {
            chunk_size: self.settings.average(),
            chunks: found.chunks,
            unique_chunks,
            logical_bytes: found.logical_bytes,
            unique_bytes: found.unique_bytes,
            stored_bytes: data + unique_chunks * CHUNK_OVERHEAD,
        }
    }
}

/// One thread's tools.
struct Worker<'w> {
    trials: &'w [Trial],
    options: &'w AnalyzeOptions<'w>,
    compressor: Compressor,
    buffer: Vec<u8>,
    /// New chunks of the trial at hand that wait to be a frame.
    frame: Vec<u8>,
    frames: u64,
}

impl<'w> Worker<'w> {
    fn new(trials: &'w [Trial], options: &'w AnalyzeOptions<'w>) -> Self {
        let compressor = Compressor::new(options.compression);
        Self {
            trials,
            options,
            compressor,
            buffer: Vec::new(),
            frame: Vec::new(),
            frames: 0,
        }
    }

    fn region(&mut self, source: &dyn Source, start: u64) -> Result<(), AnalyzeError> {
        if self.options.cancel.is_cancelled() {
            return Err(AnalyzeError::Cancelled);
        }
        let range = start..(start + REGION_LEN).min(source.size());
        let extents = source.extents(range.clone())?;
        let len = range.end - range.start;
        Progress::add(&self.options.progress.done_bytes, len);
        if extents
            .iter()
            .all(|extent| extent.status == ExtentStatus::Zero)
        {
            return Ok(());
        }
        self.read(source, start, len, &extents)?;
        let buffer = std::mem::take(&mut self.buffer);
        let all = BlockSet::all(Geometry::DISK, &range);
        let holes = BlockSet::of_zeros(Geometry::DISK, &buffer);
        let region = Region {
            range,
            parent: &[],
            dirty: &all,
            holes: &holes,
        };
        for trial in self.trials {
            self.cut(trial, &region, &buffer);
        }
        self.buffer = buffer;
        Ok(())
    }

    fn read(
        &mut self,
        source: &dyn Source,
        start: u64,
        len: u64,
        extents: &[Extent],
    ) -> Result<(), AnalyzeError> {
        self.buffer.clear();
        self.buffer
            .resize(usize::try_from(len).expect("a region fits in memory"), 0);
        for extent in extents
            .iter()
            .filter(|extent| extent.status != ExtentStatus::Zero)
        {
            let at = usize::try_from(extent.offset - start).expect("a region fits in memory");
            let end = at + usize::try_from(extent.len).expect("a region fits in memory");
            source.read_at(extent.offset, &mut self.buffer[at..end])?;
            Progress::add(&self.options.progress.read_bytes, extent.len);
        }
        Ok(())
    }

    fn cut(&mut self, trial: &Trial, region: &Region<'_>, buffer: &[u8]) {
        let mut pieces: Vec<([u8; 16], &[u8])> = Vec::new();
        let mut bytes = RegionBuffer::new(region.range.start, buffer);
        let walked: Result<(), std::convert::Infallible> =
            walk_region(&trial.cutter, Geometry::DISK, region, &mut bytes, |piece| {
                if let Piece::Cut { offset, bytes } = piece {
                    let hash = blake3::hash(bytes);
                    let (half, _) = hash
                        .as_bytes()
                        .split_first_chunk()
                        .expect("32 bytes have 16");
                    let at = usize::try_from(offset - region.range.start);
                    let at = at.expect("a region fits in memory");
                    pieces.push((*half, &buffer[at..at + bytes.len()]));
                }
                Ok(())
            });
        let Ok(()) = walked;
        let mut found = trial.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.chunks += pieces.len() as u64;
        let mut new = Vec::new();
        for (id, bytes) in pieces {
            found.logical_bytes += bytes.len() as u64;
            if found.ids.insert(id) {
                found.unique_bytes += bytes.len() as u64;
                new.push(bytes);
            }
        }
        drop(found);
        self.sample(trial, &new);
    }

    /// Compresses one in [`SAMPLE`] of the frames that the new chunks make.
    fn sample(&mut self, trial: &Trial, new: &[&[u8]]) {
        let mut rest = new.iter().peekable();
        while rest.peek().is_some() {
            self.frame.clear();
            while let Some(chunk) = rest.next_if(|chunk| {
                let len = self.frame.len() + chunk.len();
                self.frame.is_empty() || len <= self.options.frame_len as usize
            }) {
                self.frame.extend_from_slice(chunk);
            }
            self.frames += 1;
            if !self.frames.is_multiple_of(SAMPLE) {
                continue;
            }
            let mut stored = Vec::new();
            self.compressor.compress(&self.frame, &mut stored);
            let mut found = trial.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.sampled_bytes += self.frame.len() as u64;
            found.sampled_stored += stored.len() as u64;
        }
    }
}
