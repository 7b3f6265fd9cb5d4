//! Cutting disks into chunks: the zero test, cuts alone, and cuts with hashes.
//!
//! `cargo bench -p cairn-engine --bench chunking --profile release`; `CAIRN_SEED` changes the data.

use std::convert::Infallible;
use std::hint::black_box;

use cairn_engine::chunker::{
    BlockSet, ChunkerSettings, Cutter, GearTable, Geometry, Piece, Region, RegionBuffer, is_zero,
    walk_region,
};
use divan::Bencher;
use divan::counter::BytesCount;

const AVERAGES: [u32; 4] = [16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024];

fn main() {
    divan::main();
}

/// One region of random bytes: what data looks like to FastCDC after compression or encryption,
/// and no kinder to it than other data.
#[expect(
    clippy::disallowed_methods,
    reason = "the seed of a bench comes from the environment"
)]
fn region() -> Vec<u8> {
    let seed = std::env::var("CAIRN_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut bytes = vec![0; Geometry::DISK.region_len() as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn cutter(average: u32) -> Cutter {
    let settings = ChunkerSettings::new(average).expect("an average in range");
    Cutter::new(settings.cut_params(), GearTable::public())
}

/// A hole of this many bytes, tested again and again.
#[divan::bench(args = [64 << 10, 16 << 20])]
fn zero_test(bencher: Bencher<'_, '_>, len: usize) {
    let bytes = vec![0; len];
    bencher
        .counter(BytesCount::new(len))
        .bench(|| is_zero(black_box(&bytes)));
}

/// The least that a walk can cost: FastCDC over the bytes, and nothing else.
#[divan::bench(args = AVERAGES)]
fn cut(bencher: Bencher<'_, '_>, average: u32) {
    let (bytes, cutter) = (region(), cutter(average));
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        let mut at = 0;
        while at < bytes.len() {
            at += cutter.cut(&bytes[at..]);
        }
        at
    });
}

/// A whole region without a parent, zero test included.
#[divan::bench(args = AVERAGES)]
fn walk(bencher: Bencher<'_, '_>, average: u32) {
    let (bytes, cutter) = (region(), cutter(average));
    let count = BytesCount::new(bytes.len());
    bencher
        .counter(count)
        .bench(|| walk_whole(&cutter, &bytes, |chunk| chunk.len()));
}

/// A whole region with the hash of every chunk.
#[divan::bench(args = AVERAGES)]
fn walk_and_hash(bencher: Bencher<'_, '_>, average: u32) {
    let (bytes, cutter) = (region(), cutter(average));
    let key = [7; 32];
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        walk_whole(&cutter, &bytes, |chunk| {
            usize::from(blake3::keyed_hash(&key, chunk).as_bytes()[0])
        })
    });
}

fn walk_whole(cutter: &Cutter, bytes: &[u8], mut chunk: impl FnMut(&[u8]) -> usize) -> usize {
    let range = 0..bytes.len() as u64;
    let dirty = BlockSet::all(Geometry::DISK, &range);
    let holes = BlockSet::of_zeros(Geometry::DISK, bytes);
    let region = Region {
        range,
        parent: &[],
        dirty: &dirty,
        holes: &holes,
    };
    let mut sum = 0;
    let mut buffer = RegionBuffer::new(0, bytes);
    let walked: Result<(), Infallible> =
        walk_region(cutter, Geometry::DISK, &region, &mut buffer, |piece| {
            if let Piece::Cut { bytes, .. } = piece {
                sum += chunk(bytes);
            }
            Ok(())
        });
    let Ok(()) = walked;
    sum
}
