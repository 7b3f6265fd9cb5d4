//! A medium that cannot write out what it took, and what is answered and believed after that.

use std::sync::Arc;

use super::histories;
use super::world::{SIZE, World};
use crate::disk::{Disk, WriteDisk};
use crate::overlay::{Opened, Overlay};

/// Looked at by nobody: a write that makes the next flush write a page of the map.
const ELSEWHERE: u64 = 10 << 20;

/// Writes, flushes, and writes again, in blocks that were flushed and others.
fn begin(world: &mut World) {
    for _ in 0..20 {
        world.change().expect("writes");
    }
    world.flush();
    for _ in 0..20 {
        world.change().expect("writes");
    }
    let new = world.overlay().write_at(ELSEWHERE, &[1; 4096]);
    new.expect("writes");
}

/// Opens the overlay again. What is there then is there for good.
fn go_on(world: &mut World) {
    world.overlay = None;
    world.reopen();
    let opened = world.overlay().opened();
    assert!(
        matches!(opened, Opened::AfterPowerCut { .. }),
        "{} {opened:?}",
        world.context
    );
    world.check_versions();
    if world.random.bool() {
        world.change().expect("a new process takes writes");
        world.kill();
        let opened = world.overlay().opened();
        assert_eq!(opened, Opened::Whole, "a failure counts once");
        world.flush();
    }
    world.cut_power();
}

#[test]
fn after_a_flush_failed_nothing_is_taken_and_flushed_writes_are_there() {
    histories(100, |mut world| {
        begin(&mut world);
        // The data's sync, or the map's.
        world.sim.fail_sync(world.random.usize(0..2));
        assert!(world.overlay().flush().is_err());
        assert!(world.overlay().flush().is_err(), "fails for good");
        assert!(world.overlay().write_at(0, &[1]).is_err(), "takes no more");
        assert!(world.overlay().write_zeroes(0..1, false).is_err());
        let written = world.overlay().written(0..SIZE).expect("known");
        let start = written[0].start;
        let read = world.overlay().read_at(start, &mut [0]);
        assert!(read.is_err(), "nobody knows what is there");
        let extents = world.overlay().extents(0..start + 1);
        assert!(extents.is_err(), "what looks like a hole may be lost data");
        world.sim = world.sim.kill();
        go_on(&mut world);
    });
}

#[test]
fn a_failure_is_remembered_where_the_file_takes_nothing_more() {
    histories(100, |mut world| {
        begin(&mut world);
        world.sim.fail_sync_and_stop(world.random.usize(0..2));
        assert!(world.overlay().flush().is_err());
        world.sim = world.sim.mount_again(&mut world.random);
        go_on(&mut world);
    });
}

#[test]
fn what_a_killed_process_left_and_cannot_be_written_out_is_not_believed() {
    histories(100, |mut world| {
        begin(&mut world);
        world.sim = world.sim.kill();
        world.sim.fail_sync(0);
        go_on(&mut world);
    });
}

#[test]
fn a_page_that_a_failed_flush_left_in_memory_is_written_again() {
    let mut world = World::new(5);
    world.overlay().write_at(0, &[1; 4096]).expect("writes");
    // Memory that cannot be let go of: what the next process reads is not on the medium.
    world.sim.keep_cached();
    world.sim.fail_sync(1);
    assert!(world.overlay().flush().is_err());
    world.sim = world.sim.kill();
    world.overlay = None;
    world.reopen();
    let written = world.overlay().written(0..4096).expect("known");
    assert!(!written.is_empty(), "else this shows nothing");
    world.overlay().write_at(0, &[2; 4096]).expect("writes");
    world.overlay().flush().expect("flushes");
    world.sim = world.sim.cut_power(&mut world.random);
    world.overlay = None;
    world.boots += 1;
    world.reopen();
    let mut found = [0; 4096];
    let read = world.overlay().read_at(0, &mut found);
    read.expect("readable");
    assert_eq!(found, [2; 4096], "was flushed");
}

#[test]
fn nothing_is_answered_well_that_a_failing_flush_overtook() {
    type Ask = fn(&Overlay) -> bool;
    let asks: [(&str, Ask); 4] = [
        ("read", |disk| disk.read_at(0, &mut [0; 4096]).is_ok()),
        ("try to read", |disk| disk.try_read_at(0, &mut [0; 4096])),
        ("extents", |disk| disk.extents(0..4096).is_ok()),
        ("write", |disk| disk.write_at(0, &[3; 4096]).is_ok()),
    ];
    for (name, ask) in asks {
        let mut world = World::new(6);
        let overlay = Arc::new(world.overlay.take().expect("open"));
        overlay.write_at(0, &[1; 4096]).expect("writes");
        assert!(ask(&overlay), "{name}: while nothing fails");
        let other = Arc::clone(&overlay);
        world.sim.fail_sync(0);
        world.sim.meanwhile(move || {
            let failed = other.flush();
            assert!(failed.is_err(), "another connection is told");
        });
        assert!(!ask(&overlay), "{name}");
    }
}
