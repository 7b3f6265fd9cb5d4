//! The disk in an image: the image's chain, seen through a bitmap where one is asked for.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::{self, Chain};
use super::marks::Marks;
use super::types::GuestOffset;
use super::{Qcow2Options, snapshots};
use crate::extent::{Extent, ExtentStatus, push_extent};
use crate::source::file::{DiskFile, Identity, ReadAt};
use crate::source::watched::{self, Watched};
use crate::source::{Source, SourceError};

/// A disk in a qcow2 image.
pub struct Qcow2Source {
    chain: Chain,
    /// Where present, clean ranges are unchanged.
    marks: Option<Marks>,
    /// All files that are read, but for an image that is none.
    files: Vec<Arc<Watched>>,
}

impl Qcow2Source {
    /// Opens the image at `path` and, where allowed and needed, the files that it names.
    ///
    /// # Errors
    ///
    /// [`SourceError::InUse`] where a QEMU process may write to one of the files;
    /// [`SourceError::Malformed`], [`SourceError::Unsupported`], [`SourceError::Encrypted`];
    /// [`SourceError::NotAllowed`] and its like for what the image names; [`SourceError::Bitmap`]
    /// where the bitmap cannot be relied on, upon which the caller may do without it.
    pub fn open(path: &Path, options: &Qcow2Options) -> Result<Self, SourceError> {
        let file = DiskFile::open(path, chain::access(options), options.may_be_written)?;
        let (identity, watched) = (file.identity(), Arc::clone(file.watched()));
        let mut source = Qcow2Source::from_parts(path, Arc::new(file), Some(identity), options)?;
        source.files.push(watched);
        Ok(source)
    }

    /// Opens an image that need not be a file; `name` stands for its path in messages, and names
    /// in it are relative to the folder of that.
    ///
    /// # Errors
    ///
    /// As [`Qcow2Source::open`].
    pub fn from_reader(
        name: &Path,
        image: Arc<dyn ReadAt>,
        options: &Qcow2Options,
    ) -> Result<Self, SourceError> {
        Qcow2Source::from_parts(name, image, None, options)
    }

    fn from_parts(
        path: &Path,
        file: Arc<dyn ReadAt>,
        identity: Option<Identity>,
        options: &Qcow2Options,
    ) -> Result<Self, SourceError> {
        let states = [
            options.snapshot.is_some(),
            options.bitmap.is_some(),
            options.delta,
        ];
        assert!(
            states.into_iter().filter(|&used| used).count() <= 1,
            "a snapshot, a bitmap and a delta exclude each other"
        );
        let (mut chain, header) = Chain::open(path, Arc::clone(&file), identity, options)?;
        if let Some(name) = &options.snapshot {
            let state = snapshots::find(&*file, &header, name).map_err(|fault| fault.at(path))?;
            let state = state.ok_or_else(|| SourceError::NoInternalSnapshot {
                path: path.to_path_buf(),
                name: name.clone(),
            })?;
            chain.top_mut().show(state);
        }
        let marks = (options.bitmap.as_deref())
            .map(|name| Marks::open(&chain, name, options.origin.as_ref()))
            .transpose()?;
        let files = chain.take_watched();
        Ok(Qcow2Source {
            chain,
            marks,
            files,
        })
    }

    /// Returns the backing and data files that are read beside the image.
    pub fn named_files(&self) -> &[PathBuf] {
        self.chain.named_files()
    }

    /// Lists `range` by the bitmaps: what is dirty is as the chain has it.
    fn dirty_extents(
        &self,
        marks: &Marks,
        mut range: Range<u64>,
        extents: &mut Vec<Extent>,
    ) -> Result<(), SourceError> {
        while !range.is_empty() {
            let run = marks.run(&self.chain, &range)?;
            let end = GuestOffset(range.start).plus(run.len).0;
            if run.dirty {
                self.chain.extents(range.start..end, extents)?;
            } else {
                push_extent(extents, range.start, run.len, ExtentStatus::Unchanged);
            }
            range.start = end;
        }
        Ok(())
    }
}

impl Source for Qcow2Source {
    fn size(&self) -> u64 {
        self.chain.top().size()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        assert!(range.end <= self.size(), "the range lies within the disk");
        let mut extents = Vec::new();
        match &self.marks {
            None => self.chain.extents(range, &mut extents)?,
            Some(marks) => self.dirty_extents(marks, range, &mut extents)?,
        }
        Ok(extents)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.size()),
            "the range lies within the disk"
        );
        self.chain.read(GuestOffset(offset), buf)
    }

    fn has_unchanged(&self) -> bool {
        self.marks.is_some()
    }

    fn settle(&self) {
        watched::settle(&self.files);
    }

    fn written(&self) -> Option<String> {
        watched::written(&self.files)
    }
}
