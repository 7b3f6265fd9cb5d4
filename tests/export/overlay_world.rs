//! A disk in memory to lay overlays over, and overlays in temporary folders.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::id::{NodeId, RepositoryId, SnapshotId};
use cairn_nbd_export::disk::{Disk, DiskError};
use cairn_nbd_export::overlay::{Origin, Overlay, OverlayError};

/// A disk in memory that never changes.
pub struct MemoryDisk(pub Vec<u8>);

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let start = offset as usize;
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.read_at(offset, buf).is_ok()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        Ok(vec![Extent {
            offset: range.start,
            len: range.end - range.start,
            status: ExtentStatus::Data,
        }])
    }

    fn prefetch(&self, _: Range<u64>) {}
}

pub fn random_bytes(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.u8(1..)).collect()
}

pub fn origin() -> Origin {
    Origin {
        repository: RepositoryId::from_bytes([1; 32]),
        snapshot: SnapshotId::from_bytes([2; 32]),
        target: "vda".into(),
        recipe: NodeId::from_bytes([3; 32]),
    }
}

pub fn open(path: &Path, base: &Arc<MemoryDisk>) -> Result<Overlay, OverlayError> {
    Overlay::open(path, base.clone(), &origin(), &|_| {})
}

pub fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let len = usize::try_from(disk.size()).expect("test disks fit in memory");
    let mut bytes = vec![0; len];
    disk.read_at(0, &mut bytes).expect("the disk is readable");
    bytes
}

pub fn seed() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a failed test is repeated by its seed"
    )]
    let given = std::env::var("CAIRN_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CAIRN_SEED={seed}");
    seed
}

/// A folder with room for one overlay.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("vda.overlay");
    (folder, path)
}
