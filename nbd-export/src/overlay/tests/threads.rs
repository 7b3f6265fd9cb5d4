//! Many connections at once: a flush on one covers what was answered on all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::sim::Sim;
use super::world::{Pattern, layout, origin};
use super::{histories, world::World};
use crate::disk::{Disk, WriteDisk};
use crate::overlay::Overlay;
use crate::overlay::header::BootId;
use crate::overlay::layout::SECTOR_BLOCKS;
use crate::overlay::load::load;

const THREADS: usize = 4;
const SECTORS: usize = 4096;
/// Over a border of sectors of the map; each block is shared by all threads.
const START: u64 = SECTOR_BLOCKS * 4096 - (1 << 20);

/// How far each sector is: its content is the number of the write.
#[derive(Default)]
struct Progress {
    begun: [AtomicU32; THREADS],
    answered: [AtomicU32; THREADS],
    flushed: [AtomicU32; THREADS],
}

/// Each thread writes its sectors in turns, so that its count tells how far every one of them is.
fn write(overlay: &Overlay, progress: &Progress, thread: usize) {
    for number in 1.. {
        progress.begun[thread].store(number, Ordering::SeqCst);
        let turn = number as usize % (SECTORS / THREADS);
        let at = START + ((turn * THREADS + thread) * 512) as u64;
        let bytes = number.to_le_bytes().repeat(128);
        if overlay.write_at(at, &bytes).is_err() {
            return;
        }
        progress.answered[thread].store(number, Ordering::SeqCst);
        if number.is_multiple_of(8 << thread) {
            flush(overlay, progress);
        }
    }
}

/// Flushes, as one connection does, and notes what is durable for all.
fn flush(overlay: &Overlay, progress: &Progress) {
    let answered = progress.answered.each_ref();
    let answered = answered.map(|count| count.load(Ordering::SeqCst));
    if overlay.flush().is_ok() {
        for (flushed, answered) in progress.flushed.iter().zip(answered) {
            flushed.fetch_max(answered, Ordering::SeqCst);
        }
    }
}

/// Returns the latest write to a sector among the first `count` of its thread; 0 for none.
fn latest(count: u32, turn: usize) -> u32 {
    let turns = (SECTORS / THREADS) as u32;
    let turn = match turn as u32 {
        0 => turns,
        turn => turn,
    };
    match count < turn {
        true => 0,
        false => count - (count - turn) % turns,
    }
}

fn check(overlay: &Overlay, progress: &Progress) {
    for number in 0..SECTORS {
        let (turn, thread) = (number / THREADS, number % THREADS);
        let at = START + (number * 512) as u64;
        let (mut found, mut base) = ([0; 512], [0; 512]);
        overlay.read_at(at, &mut found).expect("readable");
        overlay.base.read_at(at, &mut base).expect("readable");
        let first = [found[0], found[1], found[2], found[3]];
        let is_whole = found.as_chunks::<4>().0.iter().all(|part| *part == first);
        let value = match found == base {
            true => 0,
            false => u32::from_le_bytes(first),
        };
        let least = latest(progress.flushed[thread].load(Ordering::SeqCst), turn);
        let most = latest(progress.begun[thread].load(Ordering::SeqCst), turn);
        assert!(is_whole || found == base, "sector {number} is torn");
        assert!(value > 0 || found == base, "sector {number} is a hole");
        assert!(
            (least..=most).contains(&value),
            "{least} <= {value} <= {most}"
        );
    }
}

#[test]
fn a_flush_covers_what_was_answered_on_all_connections() {
    histories(15, |mut world| {
        drop(world.overlay.take());
        let open = |sim: &Sim, boot| {
            let medium = Box::new(sim.clone());
            let base = Arc::new(Pattern(layout().size));
            load(
                Path::new("sim"),
                medium,
                layout().file_len(),
                base,
                &origin(),
                boot,
            )
        };
        let overlay = open(&world.sim, BootId::NONE).expect("opens");
        let progress = Progress::default();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (overlay, progress) = (&overlay, &progress);
                scope.spawn(move || write(overlay, progress, thread));
            }
            world.sim.die_after(Some(world.random.usize(0..5000)));
        });
        drop(overlay);
        let World { sim, random, .. } = &mut world;
        sim.die_after(None);
        let next = sim.cut_power(random);
        let boot = BootId::parse(&[b'n'; 36]).expect("an id");
        check(&open(&next, boot).expect("opens"), &progress);
    });
}
