//! Whether a file was written to while it was read.
//!
//! A regular file tells by its size, by when it was written to and by when anything about it was
//! changed, which no program can set back. A block device tells by how much the kernel has written
//! to it. What neither tells is in `docs/sources.md`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::SourceError;
use crate::image_lock::{self, Held};

/// How coarse the times of files are: what is written to within one such step looks the same.
const TICK: Duration = Duration::from_millis(20);
/// The same where a file system counts whole seconds.
const SECOND: Duration = Duration::from_secs(2);
/// Fields of a device's `stat` that count the sectors that were written and discarded.
const WRITES: [usize; 2] = [6, 13];

/// What a file was at some moment: another file, or one that was written to, differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// Device and inode.
    file: (u64, u64),
    size: u64,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Regular {
        /// Seconds and nanoseconds.
        written: (i64, i64),
        changed: (i64, i64),
    },
    Device {
        /// What was written to it, if the kernel counts that.
        writes: Option<[u64; WRITES.len()]>,
    },
}

impl FileState {
    /// Looks at the file at `path`.
    pub fn of(path: &Path) -> io::Result<Self> {
        Self::of_opened(&open(path)?)
    }

    /// Looks at an opened file.
    pub(super) fn of_opened(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let is_device = metadata.file_type().is_block_device();
        let (size, kind) = if is_device {
            // What others wrote is counted once it is on its way. One that cannot be flushed is
            // read all the same.
            let _flushed = rustix::fs::fdatasync(file);
            let device = device(metadata.rdev());
            let size = read_numbers(&device.join("size")).and_then(|size| size.first().copied());
            let writes = writes(&device);
            (size.unwrap_or_default(), Kind::Device { writes })
        } else {
            let written = (metadata.mtime(), metadata.mtime_nsec());
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            (metadata.len(), Kind::Regular { written, changed })
        };
        Ok(Self {
            file: (metadata.dev(), metadata.ino()),
            size,
            kind,
        })
    }

    /// Returns whether it tells that somebody writes: not every device does.
    pub fn is_telling(&self) -> bool {
        !matches!(self.kind, Kind::Device { writes: None })
    }

    /// Returns how a later look differs.
    pub fn difference(&self, later: &Self) -> Option<&'static str> {
        if self == later {
            None
        } else if self.file != later.file {
            Some("was replaced by another file")
        } else if self.size < later.size {
            Some("has grown")
        } else if self.size > later.size {
            Some("has become shorter")
        } else {
            match (&self.kind, &later.kind) {
                (Kind::Regular { written: a, .. }, Kind::Regular { written: b, .. }) if a == b => {
                    Some("was changed, or its times were set")
                }
                _ => Some("was written to"),
            }
        }
    }

    /// Returns how long it takes until a write is sure to be told from what was before.
    fn is_fresh_for(&self) -> Duration {
        let Kind::Regular { written, changed } = &self.kind else {
            return Duration::ZERO;
        };
        let tick = if changed.1 == 0 { SECOND } else { TICK };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let left = |(seconds, nanos): &(i64, i64)| {
            let seconds = u64::try_from(*seconds).unwrap_or_default();
            let nanos = u32::try_from(*nanos).unwrap_or_default();
            tick.saturating_sub(Duration::new(seconds, nanos).abs_diff(now))
        };
        left(written).max(left(changed))
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without this a pipe would wait for its writer; files and block devices do not care.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).expect("the flag is a small int");
    (OpenOptions::new().read(true).custom_flags(nonblock)).open(path)
}

/// The folder in which the kernel tells of a block device.
fn device(number: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

fn read_numbers(path: &Path) -> Option<Vec<u64>> {
    let text = fs::read_to_string(path).ok()?;
    text.split_ascii_whitespace()
        .map(|number| number.parse().ok())
        .collect()
}

/// Returns how much was written to a device, if that is counted.
fn writes(device: &Path) -> Option<[u64; WRITES.len()]> {
    // A partition's is that of its disk.
    let counts = read_numbers(&device.join("queue/iostats"));
    let counts = counts.or_else(|| read_numbers(&device.join("../queue/iostats")))?;
    if counts != [1] {
        return None;
    }
    let counted = read_numbers(&device.join("stat"))?;
    // Older kernels do not count what is discarded.
    let field = |at: usize| counted.get(at).copied();
    field(WRITES[0])?;
    Some(WRITES.map(|at| field(at).unwrap_or_default()))
}

/// An opened file, and what it was then.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    pub(super) file: File,
    before: FileState,
    /// Who could write to it by then.
    writer: Option<Held>,
}

impl Watched {
    /// Opens a file. `may_be_written` lets it be open for writing elsewhere.
    pub(super) fn open(path: &Path, may_be_written: bool) -> Result<Self, SourceError> {
        let failed = |op| {
            move |source| SourceError::Io {
                op,
                path: path.to_path_buf(),
                source,
            }
        };
        let file = open(path).map_err(failed("open"))?;
        let before = FileState::of_opened(&file).map_err(failed("examine"))?;
        let writer = image_lock::writer(&file);
        if let (Some(Held { by }), false) = (&writer, may_be_written) {
            return Err(SourceError::InUse {
                path: path.to_path_buf(),
                by: by.clone(),
            });
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            before,
            writer,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sees to it that whatever is written from now on is seen.
    pub(super) fn settle(&self) {
        // What a program wrote to memory that shows the file is noted page by page, when a page
        // that is clean is written to. So all are made clean. One that cannot be is read as well.
        let _synced = rustix::fs::fdatasync(&self.file);
        // A write within the same tick of the clock as the last would look like that one.
        let mut left = self.before.is_fresh_for();
        while !left.is_zero() {
            thread::park_timeout(left);
            left = self.before.is_fresh_for();
        }
    }

    /// Returns what happened to the file since it was opened, if that is more than being read.
    pub(super) fn written(&self) -> Option<String> {
        let path = self.path.display();
        if let Some(Held { by }) = &self.writer {
            return Some(format!("{path} was open for writing in {by}"));
        }
        // By its path: a file system in a network then asks the server.
        let now = match FileState::of(&self.path) {
            Ok(now) => now,
            Err(error) => return Some(format!("{path} cannot be looked at again: {error}")),
        };
        if let Some(difference) = self.before.difference(&now) {
            return Some(format!("{path} {difference}"));
        }
        let writer = image_lock::writer(&self.file).filter(|_| !now.is_telling());
        writer.map(|Held { by }| format!("{path} is open for writing in {by}"))
    }
}

/// Has several files looked at.
pub(super) fn settle(files: &[Arc<Watched>]) {
    files.iter().for_each(|file| file.settle());
}

/// Returns what happened to the first of several files to which anything did.
pub(super) fn written(files: &[Arc<Watched>]) -> Option<String> {
    files.iter().find_map(|file| file.written())
}
