//! Overlays that somebody changed: opened, or refused with a reason, and if opened then read and
//! written without a panic. An input of `r` is the file; any other says which bytes of a good one
//! are changed, each by two bytes of place and one to be added by exclusive or.
#![no_main]

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::id::{NodeId, RepositoryId, SnapshotId};
use cairn_nbd_export::disk::{Disk, DiskError, WriteDisk};
use cairn_nbd_export::overlay::{Origin, Overlay};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 100_000;

/// A disk of sevens.
struct Sevens;

impl Disk for Sevens {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        buf.fill(7);
        Ok(())
    }

    fn try_read_at(&self, _: u64, _: &mut [u8]) -> bool {
        false
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

fn open(path: &PathBuf) -> Option<Overlay> {
    let origin = Origin {
        repository: RepositoryId::from_bytes([1; 32]),
        snapshot: SnapshotId::from_bytes([2; 32]),
        target: "vda".into(),
        recipe: NodeId::from_bytes([3; 32]),
    };
    Overlay::open(path, Arc::new(Sevens), &origin, &|_| {}).ok()
}

static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    PathBuf::from(format!(
        "/dev/shm/cairn-fuzz-overlay-{}",
        std::process::id()
    ))
});

/// A good overlay, with blocks in both maps.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let overlay = open(&PATH).expect("is made");
    overlay.write_at(0, &[1; 5000]).expect("is written");
    overlay.flush().expect("is flushed");
    overlay.write_at(50_000, &[2; 100]).expect("is written");
    let bytes = fs::read(&*PATH).expect("is there");
    drop(overlay);
    bytes
});

fuzz_target!(|input: &[u8]| {
    let mut file = GOOD.clone();
    match input.split_first() {
        Some((b'r', bytes)) => file = bytes.to_vec(),
        _ => {
            for change in input.chunks_exact(3) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
                file[at] ^= change[2];
            }
        }
    }
    fs::write(&*PATH, file).expect("there is space");
    let opened = open(&PATH);
    // The name goes at once: a run that ends leaves nothing.
    fs::remove_file(&*PATH).expect("it is ours");
    let Some(overlay) = opened else {
        return;
    };
    let mut bytes = vec![0; SIZE as usize];
    overlay
        .read_at(0, &mut bytes)
        .expect("every byte is somewhere");
    let written = overlay.written(0..SIZE).expect("known");
    assert!(written.iter().all(|range| range.end <= SIZE));
    overlay.write_at(40_000, &[3; 20_000]).expect("is written");
    overlay.flush().expect("is flushed");
    overlay
        .read_at(0, &mut bytes)
        .expect("every byte is somewhere");
    assert!(bytes[40_000..60_000].iter().all(|byte| *byte == 3));
});
