//! Several processes with one index: nobody waits long, and nobody gets another answer.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_engine::index::Ingest;
use rustix::fs::{FlockOperation, flock};

use crate::index_world::{World, footer, pack};

/// Says to [`writer_of_one_pack`] where the index is and which pack to add.
const DIR: &str = "CAIRN_TEST_INDEX_DIR";
const NUMBER: &str = "CAIRN_TEST_INDEX_PACK";

#[test]
fn while_the_index_is_locked_others_do_without_it() {
    let mut world = World::of_packs(10);
    world.lock_wait = std::time::Duration::from_millis(100);
    let (writer, _) = world.open();
    let (late, places) = world.publish(10);
    writer.add_pack(late, &places).expect("it fits into memory");

    let lock = File::open(world.index_dir().join("lock")).expect("opening made it");
    flock(&lock, FlockOperation::LockExclusive).expect("nobody holds it");
    assert_eq!(
        writer.ingest().expect("put off, not failed"),
        Ingest::NotIngested
    );
    world.check(&writer, true, "the writer that could not ingest");
    let (other, report) = world.open();
    assert_eq!((report.taken_in, report.rebuilt), (1, false));
    world.check(&other, true, "who opens meanwhile");
    std::fs::remove_dir_all(world.database()).expect("open files live on");
    let (without, report) = world.open();
    assert_eq!((report.taken_in, report.rebuilt), (11, false));
    world.check(&without, true, "who finds none meanwhile");
    world.check(&other, true, "who has a deleted one open");
    drop(lock);

    assert_eq!(other.ingest().expect("the lock is free"), Ingest::Done);
    let (index, report) = world.open();
    assert_eq!(
        report.taken_in, 10,
        "a database made anew knows what was ingested"
    );
    world.check(&index, true, "afterwards");
}

#[test]
fn two_that_took_in_the_same_packs_may_both_ingest() {
    let mut world = World::of_packs(10);
    let (first, _) = world.open();
    let (second, _) = world.open();
    for number in 10..14 {
        let (pack, places) = world.publish(number);
        for index in [&first, &second] {
            index.add_pack(pack, &places).expect("it fits into memory");
        }
    }
    std::thread::scope(|scope| {
        for index in [&first, &second] {
            let ingest = move || assert_eq!(index.ingest().expect("it is sound"), Ingest::Done);
            scope.spawn(ingest);
        }
    });
    for index in [&first, &second] {
        world.check(index, true, "an ingester");
    }
    let (index, report) = world.open();
    assert_eq!((report.taken_in, report.rebuilt), (0, false));
    world.check(&index, true, "afterwards");
}

#[test]
fn readers_open_and_ask_while_writers_ingest() {
    let mut world = World::of_packs(5);
    drop(world.open());
    // All present from the start: some ingested by and by, the rest taken in by readers.
    for number in 5..60 {
        world.publish(number);
    }
    let world = &world;
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = || {
            let mut opened = 0;
            while !done.load(Ordering::Relaxed) || opened == 0 {
                let (index, report) = world.open_read_only();
                assert!(!report.rebuilt);
                world.check(&index, true, "a reader meanwhile");
                opened += 1;
            }
        };
        scope.spawn(read);
        scope.spawn(read);
        let write = |numbers: std::ops::Range<u64>| {
            for number in numbers {
                // It lists few packs, as one would that opened long ago.
                let known: Vec<_> = (0..5).map(pack).collect();
                let (index, _) = cairn_engine::index::Index::open(world.options(), &known, world)
                    .expect("it can be opened");
                let pack = pack(number);
                index
                    .add_pack(pack, &world.packs[&pack])
                    .expect("it fits into memory");
                assert_eq!(index.ingest().expect("it is sound"), Ingest::Done);
            }
        };
        let writers = [
            scope.spawn(move || write(5..15)),
            scope.spawn(move || write(15..25)),
        ];
        let results = writers.map(std::thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.expect("a writer panicked");
        }
    });
    world.check(&world.open().0, true, "afterwards");
}

#[test]
fn processes_that_ingest_at_once_lose_nothing() {
    let mut world = World::of_packs(5);
    drop(world.open());
    let program = std::env::current_exe().expect("a test has a file");
    let writers: Vec<_> = (5..11)
        .map(|number| {
            Command::new(&program)
                .args(["--exact", "index_concurrent::writer_of_one_pack"])
                .env(DIR, world.dir.path())
                .env(NUMBER, number.to_string())
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("this program can be started again")
        })
        .collect();
    for number in 5..11 {
        world.publish(number);
    }
    world.check(&world.open_read_only().0, true, "meanwhile");
    for mut writer in writers {
        assert!(writer.wait().expect("it was started").success());
    }
    let (index, report) = world.open_read_only();
    assert_eq!(report.taken_in, 0, "all six had the time to ingest");
    world.check(&index, true, "afterwards");
}

/// Not a test: a process of the test above.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the other test speaks through it"
)]
fn writer_of_one_pack() {
    let (Ok(dir), Ok(number)) = (std::env::var(DIR), std::env::var(NUMBER)) else {
        return;
    };
    let number = number.parse().expect("the other test gives a number");
    let world = World::of_packs(5);
    let mut options = world.options();
    options.dir = std::path::Path::new(&dir).join("index");
    let (index, _) = world.open_with(options);
    let pack = pack(number);
    let places = footer(pack, number * 50..number * 50 + 100);
    index.add_pack(pack, &places).expect("it fits into memory");
    assert_eq!(index.ingest().expect("it is sound"), Ingest::Done);
}
