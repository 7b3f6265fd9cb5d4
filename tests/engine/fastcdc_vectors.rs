//! Where fixed inputs are cut. Cuts are part of the format: other cuts find no chunk again.
//!
//! `tests/vectors/fastcdc/README.md` says what the inputs are and how the lists were made.

use std::iter;
use std::path::Path;

use cairn_engine::chunker::{ChunkerSettings, Cutter, GearTable};
use fastcdc::v2020::{FastCDC, MASKS, Normalization, get_gear_with_seed};

/// Seed of the keyed gear table.
const KEYED_GEAR_SEED: u64 = 0x6765_6172;

/// Inputs by name: seed and length.
const INPUTS: [(&str, u64, usize); 2] = [("random", 1, 2 << 20), ("mixed", 2, (2 << 20) - 3)];

const AVERAGES: [u32; 2] = [16 * 1024, 64 * 1024];

#[test]
fn cuts_are_those_on_record() {
    for_each_vector(|gear, name, average, input| {
        let cutter = cutter(gear, average);
        let ends = ends(input, |rest| cutter.cut(rest));
        let file = format!(
            "../tests/vectors/fastcdc/{gear}-{}k-{name}.txt",
            average / 1024
        );
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let recorded: Vec<usize> = lines.map(|line| line.parse().expect("an offset")).collect();
        assert_eq!(ends, recorded, "{file}");
        assert!(ends.len() > 15, "{file} cuts often enough to tell anything");
    });
}

#[test]
fn cuts_are_those_of_a_plain_implementation() {
    for_each_vector(|gear, name, average, input| {
        let cutter = cutter(gear, average);
        let found = ends(input, |rest| cutter.cut(rest));
        let plain = ends(input, |rest| {
            plain_cut(rest, average as usize, &gear_of(gear))
        });
        assert_eq!(found, plain, "{gear} {average} {name}");
    });
}

#[test]
fn public_cuts_are_those_of_the_crates_own_iterator() {
    for_each_vector(|gear, name, average, input| {
        if gear == "public" {
            let cutter = cutter(gear, average);
            let (min, avg, max) = (average as usize / 4, average as usize, average as usize * 4);
            let level = Normalization::Level2;
            let chunks = FastCDC::with_level(input, min, avg, max, level);
            let theirs: Vec<usize> = chunks.map(|chunk| chunk.offset + chunk.length).collect();
            assert_eq!(
                ends(input, |rest| cutter.cut(rest)),
                theirs,
                "{average} {name}"
            );
        }
    });
}

fn for_each_vector(mut check: impl FnMut(&str, &str, u32, &[u8])) {
    for (name, seed, len) in INPUTS {
        let input = if name == "random" {
            random(seed, len)
        } else {
            mixed(seed, len)
        };
        for average in AVERAGES {
            for gear in ["public", "keyed"] {
                check(gear, name, average, &input);
            }
        }
    }
}

fn cutter(gear: &str, average: u32) -> Cutter {
    let settings = ChunkerSettings::new(average).expect("a power of two in range");
    let table = match gear {
        "public" => GearTable::public(),
        _ => GearTable::keyed(Box::new(gear_of(gear))),
    };
    Cutter::new(settings.cut_params(), table)
}

fn gear_of(gear: &str) -> [u64; 256] {
    let mut keyed = splitmix64(KEYED_GEAR_SEED);
    let (public, _) = get_gear_with_seed(0);
    std::array::from_fn(|byte| {
        if gear == "public" {
            public[byte]
        } else {
            keyed()
        }
    })
}

fn ends(input: &[u8], cut: impl Fn(&[u8]) -> usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < input.len() {
        at += cut(&input[at..]);
        ends.push(at);
    }
    ends
}

/// FastCDC with normalised chunking as its authors describe it (2020, section 3), one byte at a
/// time: skip to the least length, ask for more zero bits before the average than after it, stop
/// at the greatest. That two bytes are rolled at a time shows in one thing alone: a last byte that
/// has no partner is not asked.
fn plain_cut(bytes: &[u8], average: usize, gear: &[u64; 256]) -> usize {
    let (least, most) = (average / 4, bytes.len().min(average * 4));
    let bits = average.ilog2() as usize;
    let mut hash = 0u64;
    for at in least..most - most % 2 {
        hash = (hash << 1).wrapping_add(gear[bytes[at] as usize]);
        let mask = if at < average {
            MASKS[bits + 2]
        } else {
            MASKS[bits - 2]
        };
        if hash & mask == 0 {
            return at;
        }
    }
    most
}

fn splitmix64(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut next = splitmix64(seed);
    let mut bytes: Vec<u8> = iter::repeat_with(|| next().to_le_bytes())
        .take(len.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}

/// Runs of 1 to 65 536 bytes; each random, or one byte, or a tile of up to 64 or 8192 bytes.
fn mixed(seed: u64, len: usize) -> Vec<u8> {
    let mut next = splitmix64(seed);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let (kind, run) = (next() % 4, (next() % 65_536 + 1) as usize);
        let tile = match kind {
            0 => run,
            1 => 1,
            2 => (next() % 64 + 1) as usize,
            _ => (next() % 8192 + 1) as usize,
        };
        let tile = random(next(), tile);
        bytes.extend(tile.iter().cycle().take(run));
    }
    bytes.truncate(len);
    bytes
}
