//! Restore: writes a snapshot's disk to a target, every chunk compared with its id on the way.

use crate::format::manifest::DiskRecord;
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
            Self::Recipe { source, .. } => source.is_damage(),
            _ => false,
        }
    }
}

/// How a restore runs.
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
