//! Finding where a disk differs from its snapshot, and writing that to an overlay.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::qemu::Info;
use super::{InPlaceError, InPlaceOptions, Result, Work};
use crate::chunker::is_zero;
use crate::extent::{Extent, ExtentStatus};
use crate::format::domain::DomainRecord;
use crate::image::{Image, ImageCache};
use crate::pool;
use crate::progress::Progress;
use crate::repository::Contents;
use crate::source::libvirt::xml::DiskSource;
use crate::source::qcow2::{Qcow2Options, Qcow2Source};
use crate::source::raw::RawSource;
use crate::source::{Origin, Source, SourceError};
use crate::target::{Below, Overlay};

/// What one thread compares at a time.
const STEP: u64 = 1 << 20;
const BLOCK: u64 = Overlay::BLOCK_LEN;

/// What was found.
pub(super) struct Compared {
    /// Bytes that were looked at.
    pub(super) compared_bytes: u64,
    /// Bytes that differed, in whole blocks.
    pub(super) changed_bytes: u64,
    /// Length of the overlay; 0 where nothing differed.
    pub(super) overlay_bytes: u64,
    /// Why no bitmap was relied on.
    pub(super) doubt: Option<String>,
}

/// Returns the bitmap that counts changes since the snapshot, or why there is none to rely on.
pub(super) fn trusted_bitmap(
    domain: &DomainRecord,
    work: &Work<'_>,
    info: &Info,
) -> std::result::Result<String, String> {
    let doubt = |reason: &str| Err(reason.to_owned());
    let (record, disk) = (work.record, work.disk);
    let identity = record.identity.as_ref();
    let Some((identity, bitmap)) = identity.and_then(|of| Some((of, of.bitmap.as_ref()?))) else {
        return doubt("the snapshot left no bitmap");
    };
    let DiskSource::File(path) = &disk.source else {
        return doubt("it is not a file");
    };
    let inode = std::fs::metadata(path).ok().map(|found| found.ino());
    if domain.checkpoint.as_ref() != Some(bitmap) {
        return doubt("its bitmap is not that of the snapshot's checkpoint");
    }
    if path.to_string_lossy() != identity.path || disk.format != identity.format {
        return doubt("it was another image then");
    }
    if identity.inode.is_none() || identity.inode != inode {
        return doubt("its file was replaced since");
    }
    if info.has_snapshots {
        // Going back to one of them changes the disk, and marks nothing.
        return doubt("its image has libvirt snapshots inside");
    }
    match info.bitmaps.contains(bitmap) {
        true => Ok(bitmap.clone()),
        false => doubt("its bitmap is gone"),
    }
}

/// Compares a disk with its snapshot, and writes an overlay of what differs, if anything does.
pub(super) fn write_overlay(
    contents: &Arc<Contents>,
    work: &Work<'_>,
    trust: std::result::Result<String, String>,
    options: &InPlaceOptions<'_>,
) -> Result<Compared> {
    let image = Image::open(
        Arc::clone(contents),
        work.record,
        &ImageCache::new(options.cache_bytes),
    )?;
    let (mut source, mut doubt) = open(work, trust)?;
    if doubt.is_none()
        && let Some(offset) = mismatch_at_end(&*source, &image)?
    {
        let found = format!("at {offset} it differs from what its bitmap says: it was shrunk once");
        (source, doubt) = open(work, Err(found))?;
    }
    let wanted = work.record.size;
    let size = source.size();
    if size > wanted {
        return Err(InPlaceError::Larger {
            target: work.record.target.clone(),
            size,
            wanted,
        });
    }
    let below = Below {
        path: work.names.base.clone(),
        format: match &*work.disk.format {
            "qcow2" => "qcow2",
            _ => "raw",
        },
    };
    let compare = Compare {
        image,
        source: &*source,
        overlay: Overlay::create(&work.names.overlay, wanted, below)?,
        compared: AtomicU64::new(0),
        changed: AtomicU64::new(0),
        options,
    };
    Progress::add(&options.restore.progress.total_bytes, wanted);
    let steps = (0..wanted.div_ceil(STEP)).map(|number| {
        let start = number * STEP;
        Ok::<_, InPlaceError>(start..(start + STEP).min(wanted))
    });
    pool::for_each(options.restore.threads, "compare", steps, || {
        |range| compare.step(range)
    })?;
    let changed_bytes = compare.changed.into_inner();
    // A disk that only grew is committed as well.
    let overlay_bytes = match changed_bytes > 0 || size < wanted {
        true => compare.overlay.finish()?,
        false => 0,
    };
    Ok(Compared {
        compared_bytes: compare.compared.into_inner(),
        changed_bytes,
        overlay_bytes,
        doubt,
    })
}

/// Opens the disk as it is, by a bitmap where one can be relied on.
fn open(
    work: &Work<'_>,
    trust: std::result::Result<String, String>,
) -> Result<(Box<dyn Source>, Option<String>)> {
    let path = &work.names.disk;
    if work.disk.format == "raw" {
        let doubt = trust.err();
        return Ok((Box::new(RawSource::open(path)?), doubt));
    }
    // libvirt opens what these images name as well.
    let mut qcow2 = Qcow2Options {
        allow_backing: true,
        allow_data_file: true,
        ..Qcow2Options::default()
    };
    let doubt = match trust {
        Err(doubt) => doubt,
        Ok(bitmap) => {
            qcow2.bitmap = Some(bitmap);
            qcow2.origin = Some(Origin {
                path: path.clone(),
                inode: None,
            });
            match Qcow2Source::open(path, &qcow2) {
                // Its size is the bitmap's only while it is the snapshot's.
                Ok(source) if source.size() == work.record.size => {
                    return Ok((Box::new(source), None));
                }
                Ok(_) => "its size changed since".to_owned(),
                Err(error @ SourceError::Bitmap { .. }) => error.to_string(),
                Err(error) => return Err(error.into()),
            }
        }
    };
    qcow2.bitmap = None;
    Ok((Box::new(Qcow2Source::open(path, &qcow2)?), Some(doubt)))
}

/// Looks whether a disk was shrunk and grown back, which marks nothing: it reads as zeros from
/// somewhere on, up to its end. The last block that is called unchanged and was more than zeros in
/// the snapshot decides it. Returns where it is, if it is not as it was.
fn mismatch_at_end(source: &dyn Source, image: &Image) -> Result<Option<u64>> {
    let size = source.size().min(image.size());
    let (mut now, mut then) = (Vec::new(), Vec::new());
    for step in (0..size.div_ceil(STEP)).rev() {
        let range = step * STEP..((step + 1) * STEP).min(size);
        let extents = source.extents(range.clone())?;
        if !(extents.iter()).any(|extent| extent.status == ExtentStatus::Unchanged) {
            continue;
        }
        let before = image.extents(range.clone())?;
        for block in (0..(range.end - range.start).div_ceil(BLOCK)).rev() {
            let start = range.start + block * BLOCK;
            let block = start..(start + BLOCK).min(range.end);
            if status_of(&extents, &block) != ExtentStatus::Unchanged
                || status_of(&before, &block) == ExtentStatus::Zero
            {
                continue;
            }
            let len = usize::try_from(block.end - block.start).unwrap_or_default();
            now.resize(len, 0);
            then.resize(len, 0);
            source.read_at(block.start, &mut now)?;
            image.read_at(block.start, &mut then)?;
            if now != then {
                return Ok(Some(block.start));
            }
            if !is_zero(&then) {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

struct Compare<'c> {
    image: Image,
    source: &'c dyn Source,
    overlay: Overlay,
    compared: AtomicU64,
    changed: AtomicU64,
    options: &'c InPlaceOptions<'c>,
}

impl Compare<'_> {
    fn step(&self, range: Range<u64>) -> Result<()> {
        let restore = &self.options.restore;
        if restore.cancel.is_cancelled() {
            return Err(InPlaceError::Cancelled);
        }
        let here = range.start..range.end.min(self.source.size()).max(range.start);
        let now = match here.is_empty() {
            true => Vec::new(),
            false => self.source.extents(here)?,
        };
        let mut then = None;
        let mut at = range.start;
        while at < range.end {
            let block = at..(at + BLOCK).min(range.end);
            at = block.end;
            let status = status_of(&now, &block);
            if status == ExtentStatus::Unchanged {
                continue;
            }
            if then.is_none() {
                then = Some(self.image.extents(range.clone())?);
            }
            let is_hole = status_of(then.as_deref().unwrap_or_default(), &block);
            self.block(block, status, is_hole == ExtentStatus::Zero)?;
        }
        Progress::add(&restore.progress.done_bytes, range.end - range.start);
        Ok(())
    }

    fn block(&self, block: Range<u64>, status: ExtentStatus, is_hole: bool) -> Result<()> {
        let len = block.end - block.start;
        self.compared.fetch_add(len, Ordering::Relaxed);
        let is_zero = status == ExtentStatus::Zero;
        if is_zero && is_hole {
            return Ok(());
        }
        let len = usize::try_from(len).unwrap_or_default();
        let (mut now, mut then) = (vec![0; len], vec![0; len]);
        if !is_zero {
            // What lies beyond the end of a smaller disk reads as zeros once it has grown.
            let there = self
                .source
                .size()
                .saturating_sub(block.start)
                .min(len as u64);
            let there = usize::try_from(there).unwrap_or_default();
            self.source.read_at(block.start, &mut now[..there])?;
        }
        if !is_hole {
            self.image.read_at(block.start, &mut then)?;
        }
        if now == then {
            return Ok(());
        }
        let progress = self.options.restore.progress;
        self.changed.fetch_add(len as u64, Ordering::Relaxed);
        match then.iter().all(|byte| *byte == 0) {
            true => self.overlay.zero_block(block.start),
            false => self.overlay.write_block(block.start, &then)?,
        }
        Progress::add(&progress.written_bytes, len as u64);
        Ok(())
    }
}

/// Returns what is known of a block: nothing better than what all of it is. What no extent covers
/// reads as zeros.
fn status_of(extents: &[Extent], block: &Range<u64>) -> ExtentStatus {
    let touches = |extent: &&Extent| extent.offset < block.end && extent.range().end > block.start;
    let mut found = extents.iter().filter(touches).map(|extent| extent.status);
    let first = found.next().unwrap_or(ExtentStatus::Zero);
    match found.all(|status| status == first) {
        true => first,
        false => ExtentStatus::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_all_of_it_is() {
        let extent = |offset, len, status| Extent {
            offset,
            len,
            status,
        };
        let extents = [
            extent(0, 100, ExtentStatus::Unchanged),
            extent(100, 50, ExtentStatus::Zero),
            extent(150, 50, ExtentStatus::Data),
        ];
        assert_eq!(status_of(&extents, &(0..100)), ExtentStatus::Unchanged);
        assert_eq!(status_of(&extents, &(90..110)), ExtentStatus::Data);
        assert_eq!(status_of(&extents, &(100..150)), ExtentStatus::Zero);
        assert_eq!(status_of(&extents, &(300..400)), ExtentStatus::Zero);
    }
}
