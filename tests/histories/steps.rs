//! Histories in which somebody comes in between at one call of the disk, and at each in turn: in
//! the middle of what looks like one step.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use cairn_engine::format::note::Fact;
use cairn_engine::gc::{Collection, GcEvent, GcOptions};
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Access, Contents, Repository};
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{FileSystem, Name, OpenFile, RenameMode};
use jiff::Timestamp;

use super::baton::Baton;
use super::staged::Stage;
use crate::acts;
use crate::named::{back_up, check, disk};
use crate::support::gc::{collect, with_gc_options};
use crate::support::packs::other_packs;
use crate::support::sim::{chain, init_on, open_on, scratch};
use crate::support::{MemorySource, backup_against, snapshot};

/// A process in which something else happens at a call of the disk, of which there are so many
/// before. Says whether it came to that.
fn interrupted(
    disk: &SimFs,
    after: u32,
    then: impl Fn() + Send + Sync + 'static,
) -> (Arc<Stage>, Arc<AtomicBool>) {
    let has_come = Arc::new(AtomicBool::new(false));
    let come = Arc::clone(&has_come);
    let stage = Arc::new(Stage {
        baton: Arc::new(Baton::new(u64::from(after), 1, Some(after))),
        actor: 0,
        disk: disk.spawn(),
        kill_after: AtomicU32::new(u32::MAX),
        cut: Arc::new(move || {
            come.store(true, Ordering::SeqCst);
            then();
        }),
    });
    (stage, has_come)
}

/// Plans a collection, and goes no further.
fn plan(repository: &Arc<Repository>, observe: &(dyn Fn(GcEvent<'_>) + Sync)) {
    with_gc_options(Timestamp::now(), 0.0, |options| {
        let options = GcOptions { observe, ..options };
        let mut collection = Collection::begin(repository, options).expect("begins");
        let planned = collection.plan().expect("plans");
        assert!(planned.is_some(), "there is something to go");
    });
}

/// A collection whose plan was there before the backup began comes to its end while the backup
/// looks whether its parent is there: it builds on all of it, or on nothing.
#[test]
fn a_collection_that_ends_at_any_call_of_a_backup() {
    let (old, mut new) = (disk(11), disk(11));
    new[..100].fill(b'!');
    let mut refused = 0;
    for after in 0.. {
        let (fs, cache) = (SimFs::new(11), scratch());
        let repository = init_on(&fs, cache.path()).expect("makes one");
        let id = back_up(&repository, &old);
        let parent = snapshot(&repository, id);
        repository.forget(&[id]).expect("forgets");
        let other = open_on(&fs.spawn(), cache.path()).expect("opens");
        plan(&other, &|_| {});
        let ends = move || {
            let done = collect(&other, Timestamp::now());
            done.unwrap_or_else(|error| panic!("{}", chain(&error)));
        };
        let (stage, has_come) = interrupted(&fs, after, ends);
        // One of its own, so that both are at work on nothing but the disk.
        let own = scratch();
        let done = acts::open(&stage, own.path()).map(|writer| {
            let source = MemorySource::changed_since(&old, new.clone(), true);
            backup_against(&writer, source, Some(parent), &Cancel::default())
        });
        match done.expect("opens") {
            Ok(done) => {
                let context = format!("the collection ended at call {after}");
                check(&repository, done.snapshot, &new, &context);
            }
            Err(error) => {
                assert!(chain(&error).contains("SnapshotGone"), "{}", chain(&error));
                refused += 1;
            }
        }
        if !has_come.load(Ordering::SeqCst) {
            break;
        }
    }
    assert!(refused > 0, "a forgotten parent is none");
}

/// A reader whose session began before the plan was there pins what it reads, and ends its
/// session, at any call of the collection's end.
#[test]
fn who_pins_and_ends_its_session_at_any_call_of_a_collection() {
    let bytes = disk(12);
    for after in 0.. {
        let (fs, cache) = (SimFs::new(12), scratch());
        let repository = init_on(&fs, cache.path()).expect("makes one");
        let id = back_up(&repository, &bytes);
        repository.forget(&[id]).expect("forgets");
        let reader: Arc<Mutex<Option<Contents>>> = Arc::default();
        let begins = |event: GcEvent<'_>| {
            if matches!(event, GcEvent::Marked { .. }) {
                let contents = Contents::open(&repository, Access::Read(vec![id]), "instant");
                *reader.lock().expect("nobody panicked") = Some(contents.expect("opens"));
            }
        };
        plan(&open_on(&fs.spawn(), cache.path()).expect("opens"), &begins);
        let (pinner, session) = (Arc::clone(&repository), Arc::clone(&reader));
        let hands_over = move || {
            let what = "a domain".to_owned();
            let pinned = pinner.add_note(id, Fact::Pinned { what });
            pinned.expect("pins");
            drop(session.lock().expect("nobody panicked").take());
        };
        let (stage, has_come) = interrupted(&fs, after, hands_over);
        let own = scratch();
        let collector = acts::open(&stage, own.path()).expect("opens");
        let done = collect(&collector, Timestamp::now());
        done.unwrap_or_else(|error| panic!("{}", chain(&error)));
        drop(reader.lock().expect("nobody panicked").take());
        let context = format!("handed over at call {after}");
        let list = repository.snapshots().expect("lists");
        assert!(list.snapshots.iter().any(|it| it.id == id), "{context}");
        check(&repository, id, &bytes, &context);
        if !has_come.load(Ordering::SeqCst) {
            break;
        }
    }
}

/// Packs with the same contents come while a collection is at any of its calls, from somebody who
/// dies before their folders are durable. What is dropped for their sake is dropped after that.
#[test]
fn a_collection_settles_what_it_counts_on() {
    let bytes = disk(13);
    let others = other_packs(&bytes);
    for after in 0.. {
        let (fs, cache) = (SimFs::new(13), scratch());
        let repository = init_on(&fs, cache.path()).expect("makes one");
        let id = back_up(&repository, &bytes);
        let first = fs.op_count();
        let (dying, packs) = (fs.spawn(), others.clone());
        let leaves = move || leave_unsettled(&dying, &packs);
        let (stage, has_come) = interrupted(&fs, after, leaves);
        // It has an index that knows all packs that were there before.
        let collector = acts::open(&stage, cache.path()).expect("opens");
        let done = collect(&collector, Timestamp::now());
        done.unwrap_or_else(|error| panic!("{}", chain(&error)));
        // At last the index makes them durable; the power is cut before, too.
        let last = fs.op_count();
        for (cut, op) in (0..).zip((first.max(last.saturating_sub(40))..=last).step_by(4)) {
            let left = fs.crash_image(op, cut);
            let repository = open_on(&left, scratch().path()).expect("opens");
            let context = format!("they came at call {after}, cut {cut}");
            check(&repository, id, &bytes, &context);
        }
        if !has_come.load(Ordering::SeqCst) {
            break;
        }
    }
}

/// Gives packs their names, and syncs no folder of theirs.
fn leave_unsettled(fs: &SimFs, packs: &[(Name, Vec<u8>)]) {
    for (name, bytes) in packs {
        let path = name.path();
        let (folder, _) = path.rsplit_once('/').expect("packs lie in folders");
        if fs.make_folder(folder).is_ok() {
            fs.sync_folder("packs").expect("syncs");
        }
        let mut file = fs.create_new("tmp/left").expect("is made");
        file.append(bytes).expect("is written");
        file.sync().expect("syncs");
        let renamed = fs.rename("tmp/left", &path, RenameMode::NoReplace);
        renamed.expect("gets its name");
    }
}
