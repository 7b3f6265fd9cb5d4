//! The index answers as a plain map over the packs present would, whatever has happened to them.

use cairn_engine::id::PackId;
use cairn_engine::index::{Index, IndexOptions, Ingest};

use crate::index_world::{World, footer, pack};

#[expect(
    clippy::disallowed_methods,
    reason = "tests are set by the environment"
)]
fn seed() -> u64 {
    match std::env::var("CAIRN_SEED") {
        Ok(seed) => seed.parse().expect("CAIRN_SEED is a number"),
        Err(_) => fastrand::u64(..),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests are set by the environment"
)]
fn histories() -> u64 {
    let count = std::env::var("CAIRN_HISTORIES").unwrap_or_else(|_| "12".to_owned());
    count.parse().expect("CAIRN_HISTORIES is a number")
}

struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with CAIRN_SEED={}", self.0);
        }
    }
}

#[test]
fn random_histories_agree_with_a_map() {
    let first = seed();
    for seed in (0..histories()).map(|history| first.wrapping_add(history)) {
        let _seed = SeedOnPanic(seed);
        random_history(&mut fastrand::Rng::with_seed(seed));
    }
}

fn random_history(random: &mut fastrand::Rng) {
    let mut world = World::new();
    // From a run of seven entries, by one that seldom spills, to one that never does.
    world.overlay_memory = [800, 50_000, 64 << 20][random.usize(..3)];
    // Rarely vanishing packs leave stale entries in place; often vanishing ones force rebuilds.
    let vanishing = random.u8(1..4);
    let mut index = Some(world.open().0);
    for step in 0..40 {
        let what = format!("step {step}");
        match random.u8(..10) {
            0..3 => {
                let number = world.packs.len() as u64;
                let pack = pack(number);
                let chunks: Vec<_> = (0..random.u64(1..200)).map(|_| random.u64(..600)).collect();
                let places = footer(pack, chunks);
                world.packs.insert(pack, places.clone());
                world.present.insert(pack);
                match &index {
                    Some(index) if random.bool() => {
                        index
                            .add_pack(pack, &places)
                            .expect("private files can be written");
                    }
                    // Another process wrote it: only the next to open the index sees it.
                    _ => index = None,
                }
            }
            3..5 => {
                if let Some(index) = &index {
                    let _: Ingest = index.ingest().expect("the index can be written");
                }
            }
            5..7 => {
                for pack in world.packs.keys() {
                    if random.u8(..20) < vanishing {
                        world.present.remove(pack);
                        index = None;
                    } else if random.u8(..10) == 0 && world.present.insert(*pack) {
                        index = None;
                    }
                }
            }
            7 => index = None,
            _ => {
                let index = index.get_or_insert_with(|| match random.u8(..4) {
                    0 => world.open_read_only().0,
                    _ => world.open().0,
                });
                world.check(index, true, &what);
                assert!(!index.is_damaged(), "{what}");
            }
        }
    }
    drop(index);
    world.check(&world.open().0, true, "at the end");
}

#[test]
fn what_was_ingested_is_not_taken_in_again() {
    let mut world = World::new();
    let (index, report) = world.open();
    assert!(!report.rebuilt);
    for number in 0..3 {
        let (pack, places) = world.publish(number);
        index.add_pack(pack, &places).expect("it fits into memory");
    }
    world.check(&index, true, "before ingesting");
    assert_eq!(
        index.ingest().expect("the index can be written"),
        Ingest::Done
    );
    world.check(&index, true, "after ingesting");
    drop(index);
    let (index, report) = world.open_read_only();
    assert_eq!(
        (report.taken_in, report.dropped.len(), report.rebuilt),
        (0, 0, false)
    );
    world.check(&index, true, "by another");
    assert_eq!(world.footers_read.into_inner(), 0);
}

#[test]
fn additions_beyond_memory_are_spilled_and_the_private_files_removed() {
    let mut world = World::of_packs(40);
    world.overlay_memory = 20_000;
    let (index, report) = world.open_read_only();
    assert_eq!(report.taken_in, 40);
    let private = || {
        std::fs::read_dir(world.temp_dir())
            .expect("it is there")
            .count()
    };
    assert_eq!(private(), 1, "it spilled");
    world.check(&index, true, "spilled");
    assert_eq!(
        index.ingest().expect("refused, not failed"),
        Ingest::NotIngested
    );
    drop(index);
    assert_eq!(private(), 0);

    let (index, report) = world.open();
    assert_eq!(report.taken_in, 40, "a reader leaves nothing behind");
    assert_eq!(private(), 0, "ingested, so no longer needed");
    world.check(&index, true, "ingested");
}

#[test]
fn a_chunk_in_several_packs_outlives_all_but_the_last() {
    let mut world = World::new();
    let packs: Vec<PackId> = (0..4).map(pack).collect();
    for pack in &packs {
        // Together with many chunks of its own, so that losing one pack is no reason to rebuild.
        let own = u64::from(pack.as_bytes()[0]) * 1000 + 5000;
        world
            .packs
            .insert(*pack, footer(*pack, (0..10).chain(own..own + 200)));
        world.present.insert(*pack);
        let (_, report) = world.open();
        assert_eq!(report.taken_in, 1);
    }
    let read = world
        .footers_read
        .load(std::sync::atomic::Ordering::Relaxed);
    for stays in &packs {
        for gone in packs.iter().filter(|pack| *pack != stays) {
            world.present.remove(gone);
            world.check(&world.open_read_only().0, true, "one pack less");
        }
        world.present.extend(&packs);
    }
    let (index, report) = world.open();
    assert!(!report.rebuilt);
    world.check(&index, true, "all are back");
    assert_eq!(
        read,
        world.footers_read.into_inner(),
        "the index alone knew"
    );
}

#[test]
fn an_index_of_mostly_vanished_packs_is_built_anew_by_who_has_the_time() {
    let mut world = World::of_packs(10);
    drop(world.open());
    let before = folder_len(&world);
    let gone: Vec<_> = world.present.iter().copied().take(3).collect();
    for pack in &gone {
        world.present.remove(pack);
    }
    let (_, report) = world.open();
    assert_eq!((report.dropped.len(), report.rebuilt), (3, false));
    world.present.pop_first();
    let (index, report) = world.open_read_only();
    assert_eq!(
        (report.dropped.len(), report.rebuilt),
        (4, false),
        "a reader rebuilds nothing"
    );
    drop(index);
    let (index, report) = world.open();
    assert_eq!(
        (report.dropped.len(), report.rebuilt),
        (4, false),
        "it serves as it is"
    );
    drop(index);
    let (index, report) = world.open_with(IndexOptions {
        compacts: true,
        ..world.options()
    });
    assert_eq!(
        (report.dropped.len(), report.rebuilt, report.taken_in),
        (0, true, 6)
    );
    world.check(&index, true, "rebuilt");
    drop(index);
    assert!(folder_len(&world) < before);
}

fn folder_len(world: &World) -> u64 {
    std::fs::read_dir(world.database())
        .expect("the index is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
        .map(|path| path.metadata().expect("it can be read").len())
        .sum()
}

#[test]
fn packs_that_share_a_prefix_are_found_the_slow_way_only() {
    let mut world = World::of_packs(6);
    drop(world.open());
    let mut twin = *pack(2).as_bytes();
    twin[31] ^= 1;
    let twin = PackId::from_bytes(twin);
    // The same places as its twin has, of other chunks: mixed up, they would answer wrongly.
    world.packs.insert(twin, footer(twin, 10_000..10_100));
    world.present.insert(twin);

    for writable in [false, true] {
        let mut options = world.options();
        options.writable = writable;
        let (index, report) = world.open_with(options);
        assert_eq!(report.taken_in, 0);
        assert_eq!(index.pack(cairn_engine::index::PackPrefix::of(twin)), None);
        world.check(&index, false, "both present");
        world.check_anywhere("both present");
    }

    world.present.remove(&pack(2));
    let (index, _) = world.open_read_only();
    world.check(&index, false, "the known one is gone, for a reader");
    world.check_anywhere("the known one is gone, for a reader");
    drop(index);
    let (index, report) = world.open();
    assert!(report.rebuilt, "entries of the one gone stand in the way");
    world.check(&index, true, "the known one is gone");
    drop(index);

    world.present.insert(pack(2));
    let (index, _) = world.open();
    world.check(&index, false, "both again");
    drop(index);
    world.present.remove(&pack(2));
    let (index, report) = world.open();
    assert!(!report.rebuilt);
    world.check(&index, true, "its own alone again");
    let (pack, places) = (pack(2), world.packs[&pack(2)].clone());
    index.add_pack(pack, &places).expect("left out, not failed");
    world.present.insert(pack);
    world.check(&index, false, "added by this process");
    world.check_anywhere("added by this process");
}

#[test]
fn a_pack_whose_footer_cannot_be_read_is_reported_and_tried_again() {
    let mut world = World::of_packs(5);
    world.unreadable.insert(pack(3));
    let (index, report) = world.open();
    assert_eq!(report.taken_in, 4);
    assert_eq!(report.unreadable.len(), 1);
    assert_eq!(report.unreadable[0].0, pack(3));
    world.check(&index, false, "one unreadable");
    assert_eq!(world.search().unreadable.len(), 1);
    drop(index);

    world.unreadable.clear();
    let (index, report) = world.open();
    assert_eq!((report.taken_in, report.unreadable.len()), (1, 0));
    world.check(&index, true, "readable again");
}

#[test]
fn answers_come_in_the_order_asked_and_repeat_with_the_question() {
    let world = World::of_packs(3);
    let (index, _): (Index, _) = world.open();
    let mut asked = world.chunks();
    asked.extend_from_within(..);
    asked.reverse();
    let all = index.find(&asked).expect("it can be read");
    for (id, place) in asked.iter().zip(&all) {
        assert_eq!(index.find(&[*id]).expect("it can be read"), [*place]);
    }
    assert_eq!(index.find(&[]).expect("nothing is asked"), []);
}
