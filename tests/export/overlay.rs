//! Overlays in real files: what is written is read, by everyone, and is there when it is opened
//! again.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;

use cairn_engine::extent::ExtentStatus;
use cairn_nbd_export::disk::{Disk, WriteDisk};
use cairn_nbd_export::overlay::{Opened, Overlay};

use crate::overlay_world::{MemoryDisk, open, random_bytes, read_all, scratch, seed};

/// Not a multiple of anything.
const SIZE: usize = 3 * 1024 * 1024 + 777;

fn change(overlay: &Overlay, random: &mut fastrand::Rng, model: &mut [u8]) {
    let start = random.usize(0..model.len());
    let longest = [2, 600, 9000, 300_000][random.usize(0..4)];
    let len = random.usize(0..longest);
    let end = (start + len).min(model.len());
    let range = start as u64..end as u64;
    match random.u8(0..6) {
        0 => overlay.write_zeroes(range, true).expect("zeroes"),
        1 => overlay.write_zeroes(range, false).expect("zeroes"),
        2 => overlay.trim(range).expect("trims"),
        _ => {
            let bytes = random_bytes(random, end - start);
            overlay.write_at(range.start, &bytes).expect("writes");
            model[start..end].copy_from_slice(&bytes);
            return;
        }
    }
    model[start..end].fill(0);
}

#[test]
fn a_file_reads_as_its_model() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = random_bytes(&mut random, SIZE);
    let base = Arc::new(MemoryDisk(model.clone()));
    let (_folder, path) = scratch();
    let mut overlay = open(&path, &base).expect("is made");
    assert_eq!(overlay.opened(), Opened::New);
    for step in 0..300 {
        change(&overlay, &mut random, &mut model);
        match random.u8(0..20) {
            0 => overlay.flush().expect("flushes"),
            1 => {
                drop(overlay);
                overlay = open(&path, &base).expect("opens again");
                assert_eq!(overlay.opened(), Opened::Whole);
            }
            _ => {}
        }
        assert!(read_all(&overlay) == model, "seed {seed}, step {step}");
        for extent in overlay.extents(0..SIZE as u64).expect("known") {
            let bytes = &model[extent.offset as usize..extent.range().end as usize];
            let is_zero = bytes.iter().all(|byte| *byte == 0);
            assert!(
                is_zero || extent.status == ExtentStatus::Data,
                "seed {seed}"
            );
        }
        let mut at = 0;
        for range in overlay.written(0..SIZE as u64).expect("known") {
            let before = at as usize..range.start as usize;
            assert!(model[before.clone()] == base.0[before], "seed {seed}");
            at = range.end;
        }
        assert!(model[at as usize..] == base.0[at as usize..], "seed {seed}");
    }
}

#[test]
fn neighbours_in_a_block_are_never_lost() {
    let base = Arc::new(MemoryDisk(vec![9; 64 * 1024]));
    let (_folder, path) = scratch();
    let overlay = open(&path, &base).expect("is made");
    // Eight threads write the bytes of every block in turns, each its own.
    thread::scope(|scope| {
        for number in 0..8_u8 {
            let overlay = &overlay;
            scope.spawn(move || {
                for at in (u64::from(number)..64 * 1024).step_by(8) {
                    overlay.write_at(at, &[number]).expect("writes");
                }
            });
        }
    });
    let expected: Vec<u8> = (0..64 * 1024).map(|at| (at % 8) as u8).collect();
    assert!(read_all(&overlay) == expected);
}

#[test]
fn a_reader_sees_a_sector_before_or_after_a_write() {
    let base = Arc::new(MemoryDisk(vec![0; 8192]));
    let (_folder, path) = scratch();
    let overlay = open(&path, &base).expect("is made");
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for byte in (1..=255).cycle().take(20_000) {
                overlay.write_at(1024, &[byte; 4096]).expect("writes");
            }
        });
        while !writer.is_finished() {
            let mut sectors = [0; 4096];
            overlay.read_at(1024, &mut sectors).expect("reads");
            for sector in sectors.as_chunks::<512>().0 {
                assert_eq!(*sector, [sector[0]; 512]);
            }
        }
    });
}

#[test]
fn a_flush_of_one_waits_for_no_other_and_covers_all() {
    let base = Arc::new(MemoryDisk(vec![0; 1024 * 1024]));
    let (_folder, path) = scratch();
    let overlay = open(&path, &base).expect("is made");
    thread::scope(|scope| {
        for number in 0..4_u64 {
            let overlay = &overlay;
            scope.spawn(move || {
                for round in 0..50 {
                    let at = (number * 50 + round) * 4096;
                    overlay.write_at(at, &[1; 4096]).expect("writes");
                    overlay.flush().expect("flushes");
                }
            });
        }
    });
    assert_eq!(
        overlay.written(0..1024 * 1024).expect("known"),
        vec![0..819_200]
    );
}

#[test]
fn what_is_given_up_takes_no_space() {
    let base = Arc::new(MemoryDisk(vec![7; 8 << 20]));
    let (_folder, path) = scratch();
    let overlay = open(&path, &base).expect("is made");
    let used = || std::fs::metadata(&path).expect("is there").blocks() * 512;
    assert!(used() < 64 * 1024, "{} bytes for an empty overlay", used());
    overlay.write_at(0, &vec![1; 8 << 20]).expect("writes");
    overlay.flush().expect("flushes");
    assert!(used() >= 8 << 20);
    overlay.trim(0..8 << 20).expect("trims");
    overlay.flush().expect("flushes");
    assert!(
        used() < 128 * 1024,
        "{} bytes after all was trimmed",
        used()
    );
    assert!(read_all(&overlay).iter().all(|byte| *byte == 0));
    overlay.write_zeroes(0..8 << 20, true).expect("zeroes");
    overlay.flush().expect("flushes");
    assert!(used() >= 8 << 20, "space is kept where that is asked for");
    let extents = overlay.extents(0..8 << 20).expect("known");
    assert_eq!(extents.len(), 1);
    assert_eq!(extents[0].status, ExtentStatus::Zero);
}

#[test]
fn a_temporary_one_leaves_nothing() {
    let base = Arc::new(MemoryDisk(vec![7; 100_000]));
    let (folder, _) = scratch();
    let overlay = Overlay::temporary(folder.path(), base).expect("is made");
    let entries = std::fs::read_dir(folder.path()).expect("is there");
    assert_eq!(entries.count(), 0);
    overlay.write_at(4000, &[1; 200]).expect("writes");
    overlay.trim(50_000..100_000).expect("trims");
    overlay.flush().expect("flushes");
    let mut expected = vec![7; 100_000];
    expected[4000..4200].fill(1);
    expected[50_000..].fill(0);
    assert!(read_all(&overlay) == expected);
}

#[test]
fn a_disk_of_a_tebibyte_is_laid_over_at_once() {
    /// A disk of zeros.
    struct Huge;
    impl Disk for Huge {
        fn size(&self) -> u64 {
            1 << 40
        }
        fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<(), cairn_nbd_export::disk::DiskError> {
            buf.fill(0);
            Ok(())
        }
        fn try_read_at(&self, _: u64, _: &mut [u8]) -> bool {
            false
        }
        fn extents(
            &self,
            _: std::ops::Range<u64>,
        ) -> Result<Vec<cairn_engine::extent::Extent>, cairn_nbd_export::disk::DiskError> {
            Ok(Vec::new())
        }
        fn prefetch(&self, _: std::ops::Range<u64>) {}
    }

    let (_folder, path) = scratch();
    let origin = crate::overlay_world::origin();
    let open = || Overlay::open(&path, Arc::new(Huge), &origin, &|_| {}).expect("opens");
    let overlay = open();
    overlay.write_at((1 << 40) - 10, &[5; 10]).expect("writes");
    drop(overlay);
    let overlay = open();
    let mut found = [0; 10];
    overlay.read_at((1 << 40) - 10, &mut found).expect("reads");
    assert_eq!(found, [5; 10]);
    let used = std::fs::metadata(&path).expect("is there").blocks() * 512;
    assert!(used < 64 * 1024, "{used} bytes for one block");
}
