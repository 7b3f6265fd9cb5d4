//! Frames of several lengths: what they save, what compressing and decompressing them costs, and
//! sealing. Data: 64 MiB of the files below `/usr`, chosen by `CAIRN_SEED`, in chunks of 16 KiB;
//! `benches/commands.sh` has what frames save on disks. Rates are of plain bytes, per second of
//! CPU, best of five; a random read is one frame, chosen at random.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use cairn_engine::compress::Decompressor;
use cairn_engine::format::{FileKind, Salt};
use cairn_engine::id::ContentId;
use cairn_engine::pack::Frame;

const FRAME_KIB: [u32; 5] = [16, 32, 64, 128, 256];
const RUNS: usize = 5;
const RANDOM_READS: u32 = 2000;

struct Data {
    bytes: Vec<u8>,
    chunks: Vec<(ContentId, u32)>,
}

impl Data {
    fn frames(&self, kib: u32) -> Vec<Frame> {
        let mut framer = support::framer(kib * 1024);
        support::frames(&mut framer, &self.chunks, &self.bytes)
    }
}

fn main() {
    // `cargo test --benches` runs this too.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let bytes = support::system_files(if is_bench { 64 << 20 } else { 1 << 20 });
    let chunks = support::chunks(&bytes, &support::keys(false));
    let data = Data { bytes, chunks };
    let usual = stored_len(&data.frames(128));
    println!("seed {}, {} bytes", support::seed(), data.bytes.len());
    for kib in FRAME_KIB {
        let frames = data.frames(kib);
        let stored = stored_len(&frames);
        let mut framer = support::framer(kib * 1024);
        let compress = best(|| {
            black_box(support::frames(&mut framer, &data.chunks, &data.bytes));
        });
        let mut decoder = Decoder::default();
        let decompress = best(|| frames.iter().for_each(|frame| decoder.decode(frame)));
        let mut random = fastrand::Rng::with_seed(support::seed());
        let read = best(|| {
            for _ in 0..RANDOM_READS {
                decoder.decode(&frames[random.usize(..frames.len())]);
            }
        });
        println!(
            "{kib:4} KiB: {:.1} % of the data ({:.3} of frames of 128 KiB), compress {}, \
             decompress {}, random read {:.0} us",
            stored as f64 * 100.0 / data.bytes.len() as f64,
            stored as f64 / usual as f64,
            rate(data.bytes.len(), compress),
            rate(data.bytes.len(), decompress),
            (read / RANDOM_READS).as_secs_f64() * 1e6,
        );
    }
    for kib in FRAME_KIB {
        sealing(&data.bytes, kib as usize * 1024);
    }
}

/// What the frames take, their entries in the footer included.
fn stored_len(frames: &[Frame]) -> usize {
    frames.iter().map(|frame| frame.stored.len() + 16).sum()
}

#[derive(Default)]
struct Decoder {
    decompressor: Decompressor,
    plain: Vec<u8>,
}

impl Decoder {
    fn decode(&mut self, frame: &Frame) {
        self.plain.clear();
        self.decompressor
            .decompress(frame.codec, &frame.stored, frame.plain_len, &mut self.plain)
            .expect("it was just compressed");
        black_box(&self.plain);
    }
}

/// Seals and opens all of the data in parts of one length.
fn sealing(bytes: &[u8], part_len: usize) {
    let seal = support::keys(true).file(FileKind::DataPack, &Salt::draw());
    let parts = || -> Vec<Vec<u8>> {
        let part = |part: &[u8]| {
            let mut sealed = Vec::with_capacity(part.len() + seal.overhead());
            sealed.extend_from_slice(part);
            sealed
        };
        bytes.chunks(part_len).map(part).collect()
    };
    let mut sealing = Duration::MAX;
    let mut opening = Duration::MAX;
    for _ in 0..RUNS {
        let mut parts = parts();
        sealing = sealing.min(support::cpu_of(|| {
            for (ordinal, part) in (0..).zip(&mut parts) {
                seal.seal(ordinal, part);
            }
        }));
        opening = opening.min(support::cpu_of(|| {
            for (ordinal, part) in (0..).zip(&mut parts) {
                seal.open(ordinal, part).expect("it was just sealed");
            }
        }));
    }
    println!(
        "{:4} KiB: seal {}, open {}",
        part_len / 1024,
        rate(bytes.len(), sealing),
        rate(bytes.len(), opening),
    );
}

fn best(mut work: impl FnMut()) -> Duration {
    let times = (0..RUNS).map(|_| support::cpu_of(&mut work));
    times.min().expect("there are runs")
}

fn rate(len: usize, cpu: Duration) -> String {
    format!("{:.0} MB/s", len as f64 / cpu.as_secs_f64() / 1e6)
}
