//! Overlays on a simulated medium: against a model, killed, without power, failing, full, damaged.

mod failures;
mod sim;
mod threads;
mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::layout::Area;
use super::{Opened, Overlay, OverlayError};
use crate::disk::{DiskError, WriteDisk};
use world::{World, layout};

#[expect(clippy::disallowed_methods, reason = "tests are told their seed so")]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs histories, each of its own seed; `CAIRN_SEED` runs one, `CAIRN_HISTORIES` says how many.
fn histories(count: u64, run: impl Fn(World)) {
    if let Some(seed) = told("CAIRN_SEED") {
        return run(World::new(seed));
    }
    for _ in 0..told("CAIRN_HISTORIES").unwrap_or(count) {
        run(World::new(fastrand::u64(..)));
    }
}

#[test]
fn an_overlay_reads_as_its_model() {
    histories(20, |mut world| {
        for _ in 0..60 {
            world.change().expect("writes");
            match world.random.u8(0..12) {
                0 => world.flush(),
                1 => {
                    world.overlay = None;
                    world.reopen();
                }
                _ => {}
            }
            world.check();
        }
    });
}

#[test]
fn every_answered_write_survives_a_killed_process() {
    histories(20, |mut world| {
        for _ in 0..60 {
            world.change().expect("writes");
            match world.random.u8(0..8) {
                0 => world.flush(),
                1 | 2 => world.kill(),
                _ => {}
            }
        }
        world.kill();
        assert_eq!(world.overlay().opened(), Opened::Whole);
    });
}

#[test]
fn every_flushed_write_survives_a_power_cut_and_nothing_else_appears() {
    histories(60, |mut world| {
        for _ in 0..60 {
            world.change().expect("writes");
            match world.random.u8(0..12) {
                0 | 1 => world.flush(),
                2 => world.kill(),
                3 => world.cut_power(),
                _ => {}
            }
        }
        world.flush();
        world.cut_power();
        // What a power cut left is there to stay.
        world.cut_power();
        world.kill();
    });
}

#[test]
fn whatever_is_interrupted_goes_on() {
    histories(60, |mut world| {
        for _ in 0..12 {
            for _ in 0..world.random.usize(0..6) {
                world.change().expect("writes");
            }
            world.die_in_the_middle();
            world.check();
        }
    });
}

#[test]
fn what_is_written_during_a_flush_waits_for_the_next() {
    histories(40, |mut world| {
        let overlay = Arc::new(world.overlay.take().expect("open"));
        overlay.write_at(0, &[1; 4096]).expect("writes");
        let (sim, other) = (world.sim.clone(), overlay.clone());
        // Between the data's sync and the map's: then the map is written, and the power goes.
        world.sim.after_sync(move || {
            other.write_at(8192, &[2; 4096]).expect("writes");
            sim.die_after(Some(1));
        });
        assert!(overlay.flush().is_err(), "dies before the second sync");
        drop(overlay);
        world.sim.die_after(None);
        world.sim = world.sim.cut_power(&mut world.random);
        let overlay = open_later(&world);
        assert!(overlay.written(8192..12_288).expect("known").is_empty());
    });
}

/// Opens an overlay after the machine was started anew.
fn open_later(world: &World) -> Overlay {
    let base = Arc::new(world::Pattern(world::SIZE));
    let later = super::header::BootId::parse(&[b'x'; 36]).expect("an id");
    let (path, medium) = (Path::new("sim"), Box::new(world.sim.clone()));
    let len = layout().file_len();
    let overlay = super::load::load(path, medium, len, base, &world::origin(), later);
    overlay.expect("opens")
}

#[test]
fn what_was_dropped_is_told() {
    let mut world = World::new(1);
    world.overlay().write_at(0, &[1; 4096]).expect("writes");
    world.overlay().flush().expect("flushes");
    world.overlay().write_at(8192, &[2; 4096]).expect("writes");
    // A kill keeps everything with the kernel; its end alone drops it.
    world.sim = world.sim.kill();
    let overlay = open_later(&world);
    assert_eq!(overlay.opened(), Opened::AfterPowerCut { dropped: 4096 });
    let written = overlay.written(0..65536).expect("known");
    assert_eq!(written, vec![0..4096]);
}

#[test]
fn a_full_medium_fails_writes_and_loses_nothing() {
    histories(50, |mut world| {
        for _ in 0..10 {
            world.sim.set_space(Some(world.random.u64(0..60_000)));
            let failed = (0..30).find_map(|_| world.change().err());
            if let Some(failed) = failed {
                let DiskError::Overlay { source, .. } = &failed else {
                    panic!("{failed:?}");
                };
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            }
            if world.random.bool() {
                world.kill();
            }
            world.sim.set_space(None);
            world.change().expect("there is space again");
            world.flush();
            world.cut_power();
        }
    });
}

#[test]
fn a_flush_costs_nothing_where_nothing_was_written() {
    let world = World::new(2);
    let before = world.sim.syncs();
    world.overlay().flush().expect("flushes");
    assert_eq!(
        world.sim.syncs() - before,
        1,
        "writes of an earlier process"
    );
    world.overlay().flush().expect("flushes");
    assert_eq!(world.sim.syncs() - before, 1);
    world.overlay().write_at(0, &[1; 4096]).expect("writes");
    world.overlay().flush().expect("flushes");
    assert_eq!(world.sim.syncs() - before, 3, "data, then map");
    world.overlay().write_at(0, &[2; 4096]).expect("writes");
    world.overlay().flush().expect("flushes");
    assert_eq!(
        world.sim.syncs() - before,
        4,
        "the map has the block already"
    );
}

#[test]
fn a_flipped_bit_of_a_map_is_found() {
    let mut world = World::new(3);
    for _ in 0..40 {
        world.change().expect("writes");
    }
    world.flush();
    for _ in 0..10 {
        world.change().expect("writes");
    }
    world.sim = world.sim.kill();
    let layout = layout();
    let mut areas = BTreeSet::new();
    for area in [Area::Written, Area::Flushed] {
        for sector in world.sim.sectors_in(layout.area(area)) {
            for at in (sector..sector + 512).step_by(7) {
                world.sim.flip(at, 4);
                let refused = world.try_open();
                let Err(OverlayError::Damaged { offset, .. }) = refused else {
                    panic!("byte {at}: {refused:?}");
                };
                assert_eq!(offset, sector, "byte {at}");
                world.sim.flip(at, 4);
            }
            areas.insert(sector >= layout.area(Area::Flushed).start);
        }
    }
    assert_eq!(areas.len(), 2, "both maps were tried");
    world.reopen();
    world.check();
}
