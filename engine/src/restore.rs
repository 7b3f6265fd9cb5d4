//! Restore: writes a snapshot's disk to a target, or one of its files to a writer, every chunk
//! compared with its id on the way.

mod salvage;

use std::io::{self, Write};

pub use salvage::{Salvaged, salvage_disk};

use crate::chunker::ChunkRef;
use crate::format::manifest::{DiskRecord, FileRecord};
use crate::pool::{self, NoThread};
use crate::progress::{Cancel, Progress};
use crate::recipe::{Recipe, RecipeError, RegionChunks, Shape};
use crate::repository::{Contents, Fetcher, RepositoryError};
use crate::target::{Target, TargetError};

/// A restore failure. The target is not finished then, and says what that means for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The disk's recipe cannot be read.
    #[error("cannot read the recipe of disk {target}")]
    Recipe {
        /// The disk.
        target: String,
        /// The recipe's reason.
        source: RecipeError,
    },
    /// A file's recipe cannot be read.
    #[error("cannot read the recipe of file {name}")]
    FileRecipe {
        /// The file.
        name: String,
        /// The recipe's reason.
        source: RecipeError,
    },
    /// A file's bytes could not be written where they were wanted.
    #[error("cannot write file {name}")]
    Write {
        /// The file.
        name: String,
        /// The writer's reason.
        source: io::Error,
    },
    /// The target failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl RestoreError {
    /// Returns whether stored bytes are damaged or missing, as against out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Repository(error) => error.is_damage(),
            Self::Recipe { source, .. } | Self::FileRecipe { source, .. } => source.is_damage(),
            _ => false,
        }
    }
}

/// How a restore runs.
#[derive(Clone)]
pub struct RestoreOptions<'o> {
    /// Threads that read, decode and write; at least 1.
    pub threads: usize,
    /// Where counters go.
    pub progress: &'o Progress,
    /// Asked between regions.
    pub cancel: &'o Cancel,
}

/// Writes one disk's bytes to a target, which must be as large and read as zeros. The target is
/// not finished: that is the caller's, once all disks are written.
///
/// Returns how many bytes were written.
pub fn restore_disk(
    contents: &Contents,
    disk: &DiskRecord,
    target: &dyn Target,
    options: &RestoreOptions<'_>,
) -> Result<u64, RestoreError> {
    let recipe_error = |source| RestoreError::Recipe {
        target: disk.target.clone(),
        source,
    };
    let shape = Shape::new(disk.size, contents.repository().chunker().window_len());
    let recipe = Recipe::new(contents, shape.map_err(recipe_error)?, disk.recipe);
    let Progress {
        total_bytes,
        read_bytes,
        written_bytes,
        done_bytes,
        ..
    } = options.progress;
    Progress::add(total_bytes, disk.data_bytes);
    let regions = recipe.regions().map(|region| region.map_err(recipe_error));
    pool::for_each(options.threads, "restore", regions, || {
        let mut fetcher = Fetcher::default();
        move |region: RegionChunks| {
            if options.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let runs = region.data_runs();
            target.begin_region(region.start, &runs)?;
            contents.fetch(&region.chunks, &mut fetcher, &mut |offset, bytes| {
                target.write_at(offset, bytes)?;
                Progress::add(written_bytes, bytes.len() as u64);
                Progress::add(done_bytes, bytes.len() as u64);
                Progress::add(read_bytes, bytes.len() as u64);
                Ok::<(), RestoreError>(())
            })?;
            target.end_region(region.start);
            Ok(())
        }
    })?;
    Ok(disk.data_bytes)
}

/// Writes one file's bytes, in their order, with its holes as zeros. The writer is not flushed.
///
/// Bytes that were checked may have been written before a failure: whoever must not have part of a
/// file writes it to memory, or to a file of another name.
pub fn restore_file(
    contents: &Contents,
    file: &FileRecord,
    out: &mut dyn Write,
) -> Result<(), RestoreError> {
    let recipe_error = |source| RestoreError::FileRecipe {
        name: file.name.clone(),
        source,
    };
    let mut out = Sequential {
        out,
        at: 0,
        name: &file.name,
    };
    let shape = Shape::new(file.size, contents.repository().chunker().window_len());
    let recipe = Recipe::new(contents, shape.map_err(recipe_error)?, file.recipe);
    let mut fetcher = Fetcher::default();
    for region in recipe.regions() {
        let region = region.map_err(recipe_error)?;
        // A region is fetched in the order of its packs; it is written in the order of the file.
        let end = region.chunks.last().map_or(region.start, ChunkRef::end);
        let len = usize::try_from(end - region.start).expect("a region fits in memory");
        let mut bytes = vec![0; len];
        contents.fetch(&region.chunks, &mut fetcher, &mut |offset, part| {
            let from = usize::try_from(offset - region.start).expect("it lies in the region");
            bytes[from..][..part.len()].copy_from_slice(part);
            Ok::<(), RestoreError>(())
        })?;
        out.zeros_until(region.start)?;
        out.write(&bytes)?;
    }
    out.zeros_until(file.size)
}

/// Writes in order, and knows where it is.
struct Sequential<'w> {
    out: &'w mut dyn Write,
    at: u64,
    name: &'w str,
}

impl Sequential<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.at += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(|source| RestoreError::Write {
                name: self.name.to_owned(),
                source,
            })
    }

    fn zeros_until(&mut self, end: u64) -> Result<(), RestoreError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < end {
            let len = (end - self.at).min(ZEROS.len() as u64) as usize;
            self.write(&ZEROS[..len])?;
        }
        Ok(())
    }
}
