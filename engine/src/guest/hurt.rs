//! Which files lost bytes of disks belong to.
//!
//! Every file is read as a file system's reader reads it, and what touches lost bytes fails. Long
//! reads of what is whole need no bytes: so a file costs little more than its place on the disk.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::btrfs;
use super::open::{Area, Layout};
use super::tree::{FileId, FileKind, FileSystem, Volume};
use super::volume::SharedVolume;
use super::walk::{Event, Walk};
use crate::progress::Cancel;

/// Longer reads are content. Structures of file systems are at most as long (XFS's largest block).
const STRUCTURE_LEN_MAX: usize = 64 * 1024;

/// A file that lost bytes belong to, or that cannot be reached without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtFile {
    /// The disk and its part, as `vdap1`.
    pub area: String,
    /// The path in it; of a folder that cannot be read, all that is below is hurt as well. Empty
    /// where that is so of all of the part.
    pub path: Vec<u8>,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// A disk with the ranges of it that are lost, ascending and apart.
pub struct HurtDisk {
    /// The disk's name in the VM.
    pub target: String,
    /// Its bytes.
    pub volume: SharedVolume,
    /// What is lost of them.
    pub lost: Vec<Range<u64>>,
}

/// Hands every file that lost bytes belong to, to `found`, as far as file systems can be read;
/// stops early where that returns `false`, or someone asks to stop. Bytes of no file are nobody's.
pub fn hurt_files(disks: Vec<HurtDisk>, cancel: &Cancel, found: Sink<'_>) {
    let trace = Arc::new(Trace::default());
    let mut lost = HashMap::new();
    let mut volumes = Vec::new();
    for disk in disks {
        lost.insert(disk.target.clone(), disk.lost);
        volumes.push((disk.target, disk.volume));
    }
    let over = |target: &str, inner| -> SharedVolume {
        Arc::new(Traced {
            inner,
            lost: lost.get(target).cloned().unwrap_or_default(),
            trace: Arc::clone(&trace),
        })
    };
    let layout = Layout::read_over(volumes, over);
    for disk in layout.disks {
        for area in disk.areas {
            let name = format!("{}{}", disk.target, area.name);
            let search = Search {
                name: &name,
                trace: &trace,
                cancel,
            };
            if !search.area(area, found) {
                return;
            }
        }
    }
}

/// Takes a file, and returns whether more are wanted.
pub type Sink<'s> = &'s mut dyn FnMut(HurtFile) -> bool;

/// Whether lost bytes were touched, and whether content is read at all.
#[derive(Default)]
struct Trace {
    is_hit: AtomicBool,
    skips: AtomicBool,
}

impl Trace {
    fn take_hit(&self) -> bool {
        self.is_hit.swap(false, Ordering::Relaxed)
    }
}

/// A disk of which lost bytes cannot be read, and the content of files need not be.
struct Traced {
    inner: SharedVolume,
    lost: Vec<Range<u64>>,
    trace: Arc<Trace>,
}

impl Volume for Traced {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let first = self.lost.partition_point(|range| range.end <= offset);
        if self.lost.get(first).is_some_and(|range| range.start < end) && end > offset {
            self.trace.is_hit.store(true, Ordering::Relaxed);
            return Err(io::Error::other("these bytes are lost"));
        }
        if buf.len() > STRUCTURE_LEN_MAX
            && end <= self.size()
            && self.trace.skips.load(Ordering::Relaxed)
        {
            buf.fill(0);
            return Ok(());
        }
        self.inner.read_at(offset, buf)
    }
}

/// A look into one part of a disk.
struct Search<'s> {
    name: &'s str,
    trace: &'s Trace,
    cancel: &'s Cancel,
}

impl Search<'_> {
    fn hurt(&self, path: &[u8], is_folder: bool) -> HurtFile {
        HurtFile {
            area: self.name.to_owned(),
            path: path.to_owned(),
            is_folder,
        }
    }

    /// Looks into the part; returns whether to go on.
    fn area(&self, area: Area, found: Sink<'_>) -> bool {
        self.trace.take_hit();
        let is_unreadable = area.error().is_some();
        let file_system = match area.open() {
            Ok(file_system) => file_system,
            Err(_) if is_unreadable || self.trace.take_hit() => return found(self.hurt(b"", true)),
            Err(_) => return true,
        };
        if !self.below(&*file_system, (b"", file_system.root()), found) {
            return false;
        }
        // Subvolumes beside the default one, which is in there as well.
        match btrfs::hidden_top(&*file_system) {
            Some(top) => {
                let base = [b"/", btrfs::HIDDEN_TOP.as_bytes()].concat();
                self.below(&*file_system, (&base, top), found)
            }
            None => true,
        }
    }

    /// Walks below a folder, whose path is `base`; returns whether to go on.
    fn below(
        &self,
        file_system: &dyn FileSystem,
        (base, folder): (&[u8], FileId),
        found: Sink<'_>,
    ) -> bool {
        let mut walk = Walk::new(file_system, folder);
        while let Some(event) = walk.step() {
            if self.cancel.is_cancelled() {
                return false;
            }
            let is_hurt = match &event {
                Event::Folder(id, _) => {
                    if !base.is_empty() && *id == file_system.root() {
                        walk.skip();
                    }
                    false
                }
                Event::File(id, stat) => self.is_hurt(file_system, *id, stat.kind),
                Event::Leave => continue,
                Event::Failed(_) => self.trace.take_hit(),
            };
            self.trace.take_hit();
            let path = [base, b"/", walk.path()].concat();
            if is_hurt && !found(self.hurt(&path, matches!(event, Event::Failed(_)))) {
                return false;
            }
        }
        true
    }

    fn is_hurt(&self, file_system: &dyn FileSystem, file: FileId, kind: FileKind) -> bool {
        let content = match kind {
            FileKind::File => self.is_content_hurt(file_system, file),
            FileKind::Symlink => file_system.read_link(file).is_err() && self.trace.take_hit(),
            _ => false,
        };
        content || file_system.xattrs(file).is_err() && self.trace.take_hit()
    }

    fn is_content_hurt(&self, file_system: &dyn FileSystem, file: FileId) -> bool {
        let mut ignore = |_: u64, _: &[u8]| Ok(());
        self.trace.skips.store(true, Ordering::Relaxed);
        let read = file_system.read_file(file, &mut ignore);
        self.trace.skips.store(false, Ordering::Relaxed);
        match read {
            Ok(()) => false,
            Err(_) if self.trace.take_hit() => true,
            // Compressed content is nothing without its bytes.
            Err(_) => file_system.read_file(file, &mut ignore).is_err() && self.trace.take_hit(),
        }
    }
}
