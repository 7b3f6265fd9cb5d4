//! An incremental backup finds the very chunks that a full one finds, whatever happened between.
//!
//! Disks live through chains of backups at 4 KiB blocks and chunks of a few hundred bytes, where
//! cuts fall on block borders and segment ends all the time; at real sizes those cases hide. What
//! is compared with is a plain cut of every segment, found from the bytes alone.
//!
//! `CAIRN_SEED` replays a failure, `CAIRN_HISTORIES` says how many comparisons to make.

mod churn;
mod model;

use cairn_engine::chunker::{CutParams, Cutter, GearTable, Geometry};
use fastrand::Rng;

use churn::Churn;
use model::{Backup, Disk, Setting};

/// Backups in a chain, each an incremental of the one before.
const CHAIN: usize = 24;

#[test]
fn incremental_equals_full() {
    let histories = from_env("CAIRN_HISTORIES").unwrap_or(100_000);
    let seed = from_env("CAIRN_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut compared = 0;
    for chain in 0..histories.div_ceil(CHAIN as u64) {
        // A chain's seed alone replays it.
        let seed = seed.wrapping_add(chain);
        for step in run_chain(seed) {
            if let Err(difference) = step {
                panic!(
                    "after {compared} histories: {difference}\n\
                     replay with CAIRN_SEED={seed} CAIRN_HISTORIES={CHAIN}"
                );
            }
            compared += 1;
        }
    }
    assert!(compared >= histories, "only {compared} histories");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the seed of a test comes from the environment"
)]
fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

/// Backs one disk up again and again, and says of every incremental whether it was right.
fn run_chain(seed: u64) -> impl Iterator<Item = Result<(), String>> {
    let mut random = Rng::with_seed(seed);
    let setting = setting(&mut random);
    let mut churn = Churn::new(random, &setting);
    let mut disk = churn.first_disk();
    let mut parent = Backup::full(&setting, &disk);
    (0..CHAIN).map(move |step| {
        let (next, written) = churn.next_disk(&disk, &parent);
        let checked = setting.check_incremental(&disk, &parent, &next, &written);
        disk = next;
        let told = |difference| format!("step {step} of a chain at {setting:?}: {difference}");
        parent = checked.map_err(told)?;
        Ok(())
    })
}

fn setting(random: &mut Rng) -> Setting {
    let lens = [
        (128, 512, 2048),
        (256, 512, 2048),
        (256, 1024, 4096),
        (64, 256, 1024),
    ];
    let (min, avg, max) = lens[random.usize(..lens.len())];
    let geometry = match random.u8(..4) {
        0 => Geometry::new(4096, 16 * 1024),
        1 => Geometry::new(4096, 256 * 1024),
        2 => Geometry::new(1024, 16 * 1024),
        _ => Geometry::new(4096, 64 * 1024),
    };
    let gear = match random.bool() {
        true => GearTable::public(),
        false => GearTable::keyed(Box::new(std::array::from_fn(|_| random.u64(..)))),
    };
    Setting {
        geometry,
        cutter: Cutter::new(CutParams::new(min, avg, max), gear),
    }
}

/// What the walk asks for beyond the dirty bytes, at real sizes and where it is dearest: single
/// blocks rewritten, each far from the next.
#[test]
fn isolated_dirty_blocks_cost_little() {
    let setting = Setting {
        geometry: Geometry::DISK,
        cutter: Cutter::new(
            CutParams::new(4096, 16 * 1024, 64 * 1024),
            GearTable::public(),
        ),
    };
    let mut random = Rng::with_seed(11);
    let mut disk: Disk = vec![0; 48 << 20];
    random.fill(&mut disk);
    let parent = Backup::full(&setting, &disk);
    let mut written = Vec::new();
    let mut dirty_bytes = 0;
    let mut at = random.usize(..1 << 20) & !0xffff;
    while at < disk.len() {
        random.fill(&mut disk[at..at + 0x1_0000]);
        written.push(at as u64..at as u64 + 1);
        dirty_bytes += 0x1_0000;
        at += (random.usize(3 << 16..12 << 16)) & !0xffff;
    }
    let (incremental, clean_bytes) =
        setting.incremental(disk.len() as u64, &parent, &disk, &written);
    assert!(incremental.expect("within the rule") == Backup::full(&setting, &disk));
    let processed = (dirty_bytes + clean_bytes) as f64 / dirty_bytes as f64;
    assert!(
        processed < 1.7,
        "{processed:.3} bytes processed for each dirty byte"
    );
}
