//! Positioned reads of one file or block device, and where it has holes.
//!
//! Reads are `pread`, not a mapping: a file that is cut short while it is read gives an error
//! here, where a mapping would kill the process (`docs/decisions/0001-pread-for-sources.md`).

use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Advice;
use rustix::io::Errno;

use super::SourceError;
use super::watched::Watched;

/// Bytes that can be read at any place: a file, or memory in tests and fuzzing.
pub trait ReadAt: Send + Sync {
    /// Returns the number of bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset`; fewer are an error.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Returns the first run of allocated bytes that begins at or after `offset`, clipped to begin
    /// there; `None` where only a hole follows. Holes read as zeros.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < self.size()).then(|| offset..self.size()))
    }

    /// Returns whether asking for holes is worth the while.
    fn is_sparse(&self) -> bool {
        false
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        u64::try_from(self.len()).expect("no slice is longer than 2^64 bytes")
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// How a file is about to be read; tells the kernel how far to read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// From one end to the other.
    Sequential,
    /// A few ranges only.
    Scattered,
}

/// What makes two paths the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Returns what the file at `path` is told from others by, if there is one.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Returns its inode.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

/// An image file or block device, opened for reading.
#[derive(Debug)]
pub(super) struct DiskFile {
    watched: Arc<Watched>,
    size: u64,
    identity: Identity,
    /// Whether holes can be asked for.
    seekable: bool,
    sparse: bool,
}

/// A file whose blocks fall short of its size by less than this is not worth asking for holes.
const SPARSE_SLACK: u64 = 1024 * 1024;

impl DiskFile {
    /// Opens `path` for reading. `may_be_written` lets it be open for writing elsewhere.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotADisk`] for anything but a regular file or block device,
    /// [`SourceError::InUse`] where a QEMU process may write to it, or what the system says.
    pub fn open(path: &Path, access: Access, may_be_written: bool) -> Result<Self, SourceError> {
        let failed = |op| {
            move |source| SourceError::Io {
                op,
                path: path.to_path_buf(),
                source,
            }
        };
        let watched = Watched::open(path, may_be_written)?;
        let mut file = &watched.file;
        let metadata = file.metadata().map_err(failed("examine"))?;
        let kind = metadata.file_type();
        let size = if kind.is_file() {
            metadata.len()
        } else if kind.is_block_device() {
            file.seek(SeekFrom::End(0)).map_err(failed("measure"))?
        } else {
            return Err(SourceError::NotADisk {
                path: path.to_path_buf(),
                kind: kind_name(kind),
            });
        };
        if access == Access::Sequential {
            // Advice only: a file system that knows none of it reads all the same.
            let _advised = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
        }
        let allocated = metadata.blocks().saturating_mul(512);
        Ok(DiskFile {
            size,
            identity: Identity {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            seekable: kind.is_file(),
            sparse: kind.is_file() && allocated.saturating_add(SPARSE_SLACK) < size,
            watched: Arc::new(watched),
        })
    }

    /// Returns the path it was opened by.
    pub fn path(&self) -> &Path {
        self.watched.path()
    }

    /// Returns what tells whether it is written to.
    pub fn watched(&self) -> &Arc<Watched> {
        &self.watched
    }

    /// Returns what tells it from other files.
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

impl ReadAt for DiskFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.watched.file.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.size {
            return Ok(None);
        }
        if !self.seekable {
            return Ok(Some(offset..self.size));
        }
        let start = match rustix::fs::seek(&self.watched.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start.max(offset),
            // Only a hole follows — unless the file has been cut short since it was opened.
            Err(Errno::NXIO) if self.watched.file.metadata()?.len() >= self.size => {
                return Ok(None);
            }
            Err(Errno::NXIO) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..self.size)),
            Err(errno) => return Err(errno.into()),
        };
        if start >= self.size {
            return Ok(None);
        }
        let end = match rustix::fs::seek(&self.watched.file, rustix::fs::SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(self.size),
            _ => self.size,
        };
        Ok(Some(start..end))
    }

    fn is_sparse(&self) -> bool {
        self.sparse
    }
}

fn kind_name(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a special file"
    }
}
