//! Speed of the index: taking packs in, opening, finding what is there and what is not.
//!
//! `CAIRN_BENCH_KEYS` sets the number of chunks (2 000 000 by default; 20 000 000 is what a
//! terabyte of disks at four to one comes to), `TMPDIR` the place. Rates are per second of CPU, of
//! the asking thread for look-ups and of all threads for the rest, so that they hold on a busy
//! machine.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod support;

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_engine::id::{ContentId, PackId, RepositoryId};
use cairn_engine::index::{Index, IndexOptions, PackFooters, PackPrefix, Place};

/// What a pack of 64 MiB of chunks of 16 KiB holds.
const PACK_CHUNKS: u64 = 4096;
const LOOK_UPS: usize = 1_000_000;

struct Footers;

impl PackFooters for Footers {
    type Error = Infallible;

    fn places(&self, pack: PackId) -> Result<Vec<(ContentId, Place)>, Infallible> {
        let (number, _) = pack
            .as_bytes()
            .split_first_chunk()
            .expect("32 are more than 8");
        let first = u64::from_be_bytes(*number).reverse_bits() * PACK_CHUNKS;
        let place = |slot: u64| Place {
            pack: PackPrefix::of(pack),
            frame: u16::try_from(slot / 8).expect("4096 / 8"),
            slot: u16::try_from(slot % 8).expect("less than 8"),
            len: 16 * 1024,
        };
        Ok((0..PACK_CHUNKS)
            .map(|slot| (chunk(first + slot), place(slot)))
            .collect())
    }
}

fn chunk(number: u64) -> ContentId {
    let mut bytes = [0; 32];
    fastrand::Rng::with_seed(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill(&mut bytes);
    ContentId::from_bytes(bytes)
}

fn pack(number: u64) -> PackId {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&number.reverse_bits().to_be_bytes());
    PackId::from_bytes(bytes)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark has no command line of its own"
)]
fn main() {
    // `cargo test --benches` runs this too.
    let keys = match std::env::var("CAIRN_BENCH_KEYS") {
        Ok(keys) => keys.parse().expect("CAIRN_BENCH_KEYS is a number"),
        Err(_) if std::env::args().any(|arg| arg == "--bench") => 2_000_000,
        Err(_) => 20_000,
    };
    opening(20_000);
    opening(keys);
    taking_in_and_finding(keys);
}

fn packs_of(keys: u64) -> Vec<PackId> {
    (0..keys.div_ceil(PACK_CHUNKS)).map(pack).collect()
}

fn options(folder: &Path) -> IndexOptions {
    let repository = RepositoryId::from_bytes([1; 32]);
    IndexOptions::new(folder.join("index"), folder.to_path_buf(), repository)
}

fn open(folder: &Path, packs: &[PackId]) -> Index {
    let (index, report) = Index::open(options(folder), packs, &Footers).expect("it can be opened");
    assert!(report.not_kept.is_none());
    index
}

fn opening(keys: u64) {
    let folder = tempfile::tempdir().expect("TMPDIR can be written");
    let packs = packs_of(keys);
    drop(open(folder.path(), &packs));
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            let index = open(folder.path(), &packs);
            let time = begun.elapsed();
            drop(index);
            time
        })
        .collect();
    times.sort();
    println!(
        "open, {keys} keys: best {:.1?}, median {:.1?}",
        times[0], times[4]
    );
}

fn taking_in_and_finding(keys: u64) {
    let folder = tempfile::tempdir().expect("TMPDIR can be written");
    let packs = packs_of(keys);
    let begun = Instant::now();
    let cpu = process_cpu();
    let index = open(folder.path(), &packs);
    let cpu = process_cpu() - cpu;
    println!(
        "take in and ingest: {:.0} k/s of CPU, {:.1?} CPU, {:.1?} in all, {} MiB on disk, {}",
        keys as f64 / cpu.as_secs_f64() / 1e3,
        cpu,
        begun.elapsed(),
        folder_len(&folder.path().join("index/db")) >> 20,
        peak_memory(),
    );

    let mut random = fastrand::Rng::with_seed(1);
    let hits: Vec<_> = (0..LOOK_UPS).map(|_| chunk(random.u64(..keys))).collect();
    let misses: Vec<_> = (0..LOOK_UPS as u64)
        .map(|n| chunk(keys * 2 + PACK_CHUNKS + n))
        .collect();
    for (what, ids, there) in [("hit", &hits, true), ("miss", &misses, false)] {
        for batch in [1, 128, 1024] {
            // Single hits are slow.
            let ids = &ids[..if batch == 1 { LOOK_UPS / 5 } else { LOOK_UPS }];
            look_up(&index, what, ids, batch, there);
        }
    }

    let more = keys / 20 + PACK_CHUNKS;
    let first = packs.len() as u64;
    for pack in (first..first + more.div_ceil(PACK_CHUNKS)).map(pack) {
        let places = Footers.places(pack).expect("it is computed");
        index
            .add_pack(pack, &places)
            .expect("TMPDIR can be written");
    }
    let begun = Instant::now();
    let cpu = process_cpu();
    assert_eq!(
        index.ingest().expect("it is sound"),
        cairn_engine::index::Ingest::Done
    );
    let cpu = process_cpu() - cpu;
    println!(
        "ingest {more} more: {:.0} k/s of CPU, {:.1?} in all, {}",
        more as f64 / cpu.as_secs_f64() / 1e3,
        begun.elapsed(),
        peak_memory(),
    );
}

fn look_up(index: &Index, what: &str, ids: &[ContentId], batch: usize, there: bool) {
    let cpu = support::thread_cpu();
    for ids in ids.chunks(batch) {
        let found = index.find(ids).expect("it can be read");
        assert!(found.iter().all(|place| place.is_some() == there));
    }
    let cpu = (support::thread_cpu() - cpu).as_secs_f64();
    println!(
        "{what}, {batch} at a time: {:.0} k/s of CPU, {:.2} us each",
        ids.len() as f64 / cpu / 1e3,
        cpu * 1e6 / ids.len() as f64,
    );
}

/// CPU time of all threads that are or were.
fn process_cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").expect("Linux keeps it");
    let (_, fields) = text.rsplit_once(") ").expect("the name stands in brackets");
    let ticks = |field| {
        fields
            .split(' ')
            .nth(field)
            .and_then(|ticks: &str| ticks.parse().ok())
    };
    let user: u64 = ticks(11).expect("a number");
    let system: u64 = ticks(12).expect("a number");
    // Linux shows hundredths of a second on every architecture that matters here.
    Duration::from_millis((user + system) * 10)
}

fn peak_memory() -> String {
    let text = fs::read_to_string("/proc/self/status").expect("Linux keeps it");
    let line = text.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).unwrap_or(0);
    format!("peak memory {} MiB", kib >> 10)
}

fn folder_len(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("it is there");
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|data| data.len())
        .sum()
}
