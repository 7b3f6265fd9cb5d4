//! Statuses told by servers against a model of every byte.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "numbers of a test are its own"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test takes its seed from the environment"
)]

use super::*;

#[test]
fn granules_are_of_one_status_or_data() {
    use ExtentStatus::{Data, Unchanged, Zero};
    let mut granules = Granules::new(0..40_000);
    for (len, status) in [
        (4096, Zero),
        (100, Zero),
        (3996, Unchanged),
        (1, Zero),
        (4095, Zero),
        (10_000, Unchanged),
        (2288, Zero),
        (15_424, Zero),
    ] {
        granules.push(len, status);
    }
    let told: Vec<_> = (granules.extents.iter())
        .map(|extent| (extent.offset, extent.len, extent.status))
        .collect();
    assert_eq!(
        told,
        [
            (0, 4096, Zero),
            (4096, 4096, Data),
            (8192, 4096, Zero),
            (12_288, 8192, Unchanged),
            (20_480, 4096, Data),
            (24_576, 15_424, Zero),
        ]
    );
}

/// A disk of which every byte has flags of its own in both contexts, and a server for it.
struct Model {
    zero: Vec<u64>,
    dirty: Vec<u64>,
    random: fastrand::Rng,
}

impl Model {
    fn new(seed: u64, len: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut flags = |bit: u64| {
            let mut flags = Vec::new();
            while flags.len() < len {
                let run = match random.u8(..4) {
                    0 => 4096 * random.usize(1..4) - flags.len() % 4096,
                    _ => random.usize(1..9000),
                };
                let value = bit * random.u64(..2);
                flags.resize(len.min(flags.len() + run), value);
            }
            flags
        };
        let (zero, dirty) = (flags(state::ZERO), flags(state::DIRTY));
        Self {
            zero,
            dirty,
            random,
        }
    }

    fn status(&self, at: usize) -> ExtentStatus {
        match (self.dirty[at], self.zero[at]) {
            (0, _) => ExtentStatus::Unchanged,
            (_, 0) => ExtentStatus::Data,
            _ => ExtentStatus::Zero,
        }
    }

    /// Tells of `len` bytes, in runs that are cut where nothing changes too.
    fn answer(random: &mut fastrand::Rng, flags: &[u64], len: usize) -> Vec<StatusRun> {
        let mut runs = Vec::new();
        let mut rest = &flags[..len];
        while let Some(&first) = rest.first() {
            let same = rest.iter().take_while(|flags| **flags == first).count();
            let cut = if random.bool() {
                same
            } else {
                random.usize(1..=same)
            };
            let (len, flags) = (cut as u64, first);
            runs.push(StatusRun { len, flags });
            rest = &rest[cut..];
        }
        runs
    }

    /// Asks for a range until all of it is told. Answers have at least `shortest` bytes, and
    /// may go beyond what is asked for.
    fn ask(&mut self, range: Range<u64>, block_min: u64, shortest: usize) -> Vec<Extent> {
        let mut granules = Granules::new(range);
        while granules.at < granules.end {
            let before = granules.at;
            let start = before - before % block_min;
            let left = self.zero.len() - start as usize;
            let mut told = |flags: &[u64]| {
                let longest = if self.random.bool() { 700 } else { 9000 };
                let len = self.random.usize(1..longest).max(shortest).min(left);
                Self::answer(&mut self.random, &flags[start as usize..], len)
            };
            let (allocation, dirty) = (told(&self.zero), told(&self.dirty));
            merge(
                start,
                block_min,
                Some(allocation),
                Some(dirty),
                &mut granules,
            );
            assert!(granules.at > before, "each answer gets further");
        }
        granules.extents
    }
}

/// Asserts that extents tile the range, and say of no byte what is not so of its whole granule;
/// where `all` is told, they say all there is to say.
fn check(model: &Model, range: &Range<u64>, extents: &[Extent], all: bool) {
    let mut at = range.start;
    for extent in extents {
        assert_eq!(extent.offset, at);
        at = extent.range().end;
        assert!(at.is_multiple_of(GRANULE_LEN) || at == range.end);
        for byte in extent.range() {
            let start = (byte - byte % GRANULE_LEN).max(range.start);
            if byte != start {
                continue;
            }
            let end = (byte - byte % GRANULE_LEN + GRANULE_LEN).min(range.end);
            let first = model.status(start as usize);
            let is_one = (start..end).all(|byte| model.status(byte as usize) == first);
            let expected = if is_one { first } else { ExtentStatus::Data };
            let is_right = extent.status == expected || !all && extent.status == ExtentStatus::Data;
            assert!(is_right, "{byte}: {:?}, not {expected:?}", extent.status);
        }
    }
    assert_eq!(at, range.end);
}

#[test]
fn extents_say_what_is_so_of_every_byte() {
    let seed = std::env::var("CAIRN_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CAIRN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..400 {
        let len = random.usize(1..60_000);
        let mut model = Model::new(seed.wrapping_add(round), len);
        let start = random.u64(..len as u64);
        let range = start..random.u64(start + 1..=len as u64);
        for (block_min, shortest, all) in [(1, 1, true), (512, 512, true), (512, 1, false)] {
            let extents = model.ask(range.clone(), block_min, shortest);
            check(&model, &range, &extents, all);
        }
    }
}

#[test]
fn an_answer_that_ends_before_the_question_moves_nothing() {
    let run = |len, flags| vec![StatusRun { len, flags }];
    let mut granules = Granules::new(300..8192);
    merge(0, 512, None, Some(run(100, state::DIRTY)), &mut granules);
    assert_eq!(granules.at, 512);
    merge(512, 512, None, Some(run(3584, state::DIRTY)), &mut granules);
    merge(4096, 512, None, Some(run(9000, 0)), &mut granules);
    let told: Vec<_> = (granules.extents.iter())
        .map(|extent| (extent.range(), extent.status))
        .collect();
    let expected = [
        (300..4096, ExtentStatus::Data),
        (4096..8192, ExtentStatus::Unchanged),
    ];
    assert_eq!(told, expected);
}
