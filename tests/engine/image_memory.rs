//! What an image keeps stays within its bound, however it is read.

use std::sync::Arc;

use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Access, Contents};

use crate::support::computed::Computed;
use crate::support::{TestRepository, backup_source, child, open_at, options_at};

const SIZE: u64 = 8 << 30;
/// What an export may take in all.
const PEAK_MAX_KIB: u64 = 256 * 1024;

/// Not a test: a process that `memory_stays_within_its_bound` starts.
#[test]
fn one_reader() {
    let Some(path) = child::told() else { return };
    let repository = open_at(&path, &options_at(&path), None).expect("opens");
    let list = repository.snapshots().expect("snapshots are listed");
    let snapshot = &list.snapshots[0];
    let access = Access::Read(vec![snapshot.id]);
    let contents = Arc::new(Contents::open(&repository, access, "test").expect("opens"));
    let disk = snapshot.disk("vda").expect("the disk was backed up");
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    let image = Image::open(contents, disk, &cache).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (image, cache) = (&image, &cache);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut buf = vec![0; 1 << 20];
                for number in 0..600 {
                    let len = if number % 4 == 0 { buf.len() } else { 4096 };
                    let offset = random.u64(0..SIZE - len as u64);
                    image.read_at(offset, &mut buf[..len]).expect("reads");
                    image.prefetch(offset..offset + (64 << 20));
                    // Each reader and worker may be about to take one frame in.
                    assert!(cache.bytes() <= CACHE_BYTES_DEFAULT + (4 << 20));
                }
            });
        }
    });
    assert!(cache.bytes() > CACHE_BYTES_DEFAULT / 2, "{}", cache.bytes());
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    eprintln!("{}", peak.expect("Linux tells the peak"));
}

#[test]
fn memory_stays_within_its_bound() {
    let repository = TestRepository::with(None, |settings| settings.pack_len = 64 << 20);
    let source = Box::new(Computed { size: SIZE });
    backup_source(&repository.open(), source, false, None, &Cancel::default()).expect("backs up");
    let started = child::start("image_memory::one_reader", repository.path().as_ref());
    let text = child::finish(started);
    let line = text.lines().find_map(|line| line.split("VmHWM:").nth(1));
    let peak = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let peak = peak.expect("the child prints its peak");
    eprintln!("peak memory: {peak} KiB");
    assert!(peak <= PEAK_MAX_KIB, "{peak} KiB");
}
