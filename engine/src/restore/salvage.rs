//! Restore of what is left: all that is whole of a disk, and which ranges are not.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{RestoreError, RestoreOptions};
use crate::chunker::ChunkRef;
use crate::format::manifest::DiskRecord;
use crate::limits::REGION_LEN;
use crate::pool;
use crate::progress::Progress;
use crate::recipe::{NodePlace, Recipe, RecipeError, RegionChunks, Shape};
use crate::repository::{Contents, Fetcher};
use crate::target::Target;

/// What became of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Bytes that were written, each compared with its chunk's id.
    pub written_bytes: u64,
    /// The ranges of the disk that are lost, ascending and apart. Of them the target has zeros.
    pub lost: Vec<Range<u64>>,
    /// What was wrong with the first of them that was met.
    pub reason: Option<String>,
}

/// Writes all of a disk that can be read back whole to a target, which must be as large and read
/// as zeros. The target is not finished: that is the caller's, who must not call it whole unless
/// nothing is lost.
///
/// Of a lost recipe node all that is below it is lost, and what its last chunk may have held
/// beyond.
///
/// # Errors
///
/// What says nothing of stored bytes: a storage that cannot be reached, a target that fails.
pub fn salvage_disk(
    contents: &Contents,
    disk: &DiskRecord,
    target: &dyn Target,
    options: &RestoreOptions<'_>,
) -> Result<Salvaged, RestoreError> {
    let recipe_error = |source| RestoreError::Recipe {
        target: disk.target.clone(),
        source,
    };
    let shape = Shape::new(disk.size, contents.repository().chunker().window_len());
    let shape = shape.map_err(recipe_error)?;
    let recipe = Recipe::new(contents, shape, disk.recipe);
    let found = Mutex::new(Found::default());
    let note = |fault: RecipeError| found_of(&found).node(fault);
    Progress::add(&options.progress.total_bytes, disk.data_bytes);
    let regions = recipe.regions_past(&note);
    let regions = regions.map(|region| region.map_err(recipe_error));
    pool::for_each(options.threads, "salvage", regions, || {
        let mut fetcher = Fetcher::default();
        let found = &found;
        move |region: RegionChunks| {
            if options.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let (whole, bytes) = fetch(contents, &region, &mut fetcher, found)?;
            write(target, &region, &whole, &bytes, options.progress)?;
            found_of(found).written += whole.iter().map(|run| run.end - run.start).sum::<u64>();
            Ok(())
        }
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let chunk_len_max = contents.repository().chunker().cut_params().max().into();
    for place in std::mem::take(&mut found.nodes) {
        let range = around(&recipe, place, chunk_len_max).map_err(recipe_error)?;
        found.lost.push(range);
    }
    Ok(Salvaged {
        written_bytes: found.written,
        lost: joined(found.lost),
        reason: found.reason,
    })
}

/// What the threads found.
#[derive(Default)]
struct Found {
    written: u64,
    /// Ranges of lost chunks.
    lost: Vec<Range<u64>>,
    /// Lost nodes.
    nodes: Vec<NodePlace>,
    reason: Option<String>,
}

fn found_of(found: &Mutex<Found>) -> std::sync::MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Found {
    fn node(&mut self, fault: RecipeError) -> Result<(), RecipeError> {
        match fault.place().filter(|_| fault.is_damage()) {
            Some(place) => {
                self.nodes.push(place);
                self.reason.get_or_insert_with(|| fault.to_string());
                Ok(())
            }
            None => Err(fault),
        }
    }
}

/// Fetches what is whole of a region: the runs, and the region's bytes from its start on.
fn fetch(
    contents: &Contents,
    region: &RegionChunks,
    fetcher: &mut Fetcher,
    found: &Mutex<Found>,
) -> Result<(Vec<Range<u64>>, Vec<u8>), RestoreError> {
    // The target is told of all runs before the first byte: so the bytes wait until it is known
    // which are whole.
    let end = region.chunks.last().map_or(region.start, ChunkRef::end);
    let len = usize::try_from(end - region.start).expect("a region fits in memory");
    let mut bytes = vec![0; len];
    let mut whole = Vec::new();
    let mut take = |offset: u64, part: &[u8]| {
        let from = usize::try_from(offset - region.start).expect("it lies in the region");
        bytes[from..][..part.len()].copy_from_slice(part);
        whole.push(offset..offset + part.len() as u64);
        Ok::<(), RestoreError>(())
    };
    let mut miss = |chunk: &ChunkRef, error: crate::repository::RepositoryError| {
        if !error.is_damage() {
            return Err(error.into());
        }
        let mut found = found_of(found);
        found.lost.push(chunk.offset..chunk.end());
        found.reason.get_or_insert_with(|| error.to_string());
        Ok(())
    };
    contents.fetch_past(&region.chunks, fetcher, &mut take, &mut miss)?;
    Ok((joined(whole), bytes))
}

fn write(
    target: &dyn Target,
    region: &RegionChunks,
    whole: &[Range<u64>],
    bytes: &[u8],
    progress: &Progress,
) -> Result<(), RestoreError> {
    target.begin_region(region.start, whole)?;
    for run in whole {
        let at = |offset: u64| usize::try_from(offset - region.start).expect("it is in the region");
        let part = &bytes[at(run.start)..at(run.end)];
        target.write_at(run.start, part)?;
        for counter in [
            &progress.written_bytes,
            &progress.done_bytes,
            &progress.read_bytes,
        ] {
            Progress::add(counter, part.len() as u64);
        }
    }
    target.end_region(region.start);
    Ok(())
}

/// Returns what a lost node may have held: not what the chunk before it holds of its first window,
/// and what its own last chunk may have held beyond, at most up to the next chunk that is known.
fn around(
    recipe: &Recipe<'_>,
    place: NodePlace,
    chunk_len_max: u64,
) -> Result<Range<u64>, RecipeError> {
    let ignore = |fault: RecipeError| match fault.is_damage() {
        true => Ok(()),
        false => Err(fault),
    };
    let Range { mut start, mut end } = recipe.shape().bytes(place);
    if start > 0
        && let Some(before) = recipe.chunks_past(start - 1..start, &ignore).last()
    {
        start = before?.end().clamp(start, end);
    }
    if !end.is_multiple_of(REGION_LEN) {
        let reach = (end + chunk_len_max - 1).min(end.next_multiple_of(REGION_LEN));
        let reach = reach.min(recipe.shape().size()).max(end);
        let next = recipe.chunks_past(end..reach, &ignore).next().transpose()?;
        end = next.map_or(reach, |chunk| chunk.offset.clamp(end, reach));
    }
    Ok(start..end)
}

/// Sorts ranges, and joins those that touch.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}
