//! Processes killed in the middle of writes: every write that was answered is there.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use cairn_nbd_export::disk::{Disk, WriteDisk};
use cairn_nbd_export::overlay::Opened;

use crate::overlay_world::{MemoryDisk, open, read_all, scratch, seed};
use crate::support::child;
use crate::support::waiting::wait_for;

const BLOCKS: usize = 2000;
const BLOCK: usize = 1024;
const THREADS: usize = 4;

fn base() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk(vec![0xee; BLOCKS * BLOCK]))
}

/// What a write leaves: its number, so that an older one is told from it. A number of 0 stands for
/// zeros.
fn content(number: u32) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for part in bytes.as_chunks_mut::<4>().0 {
        *part = number.to_le_bytes();
    }
    bytes
}

/// Not a test: a process that `answered_writes_survive_kill` starts and kills. It says what it is
/// about to write, writes it, and says that it was answered.
#[test]
fn one_to_be_killed() {
    let Some(told) = child::told() else { return };
    let round = told.extension().and_then(|text| text.to_str());
    let round: u32 = round.and_then(|text| text.parse().ok()).expect("a number");
    let overlay = open(&told.with_extension(""), &base()).expect("opens");
    let mut reports = File::options();
    let reports = reports.append(true).open(told.with_extension("reports"));
    let reports = Mutex::new(reports.expect("the parent made it"));
    let report = |kind: u8, block: usize, number: u32| {
        let mut record = [0; 9];
        record[0] = kind;
        record[1..5].copy_from_slice(&(block as u32).to_le_bytes());
        record[5..].copy_from_slice(&number.to_le_bytes());
        let mut reports = reports.lock().expect("no thread panicked");
        reports.write_all(&record).expect("is taken");
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (overlay, report) = (&overlay, &report);
            scope.spawn(move || {
                let mut random = fastrand::Rng::new();
                for count in 1.. {
                    // Threads share blocks of the overlay, and each has parts of its own.
                    let block = random.usize(0..BLOCKS / THREADS) * THREADS + thread;
                    let start = (block * BLOCK) as u64;
                    let number = match random.u8(0..8) {
                        0 => 0,
                        _ => round << 24 | count & 0xff_ffff,
                    };
                    report(b'<', block, number);
                    match number {
                        0 => overlay.trim(start..start + BLOCK as u64).expect("trims"),
                        _ => overlay.write_at(start, &content(number)).expect("writes"),
                    }
                    report(b'>', block, number);
                    if random.u16(..) < 500 {
                        overlay.flush().expect("flushes");
                    }
                }
            });
        }
    });
}

/// What may stand in each block.
struct Known {
    answered: Vec<[u8; BLOCK]>,
    begun: Vec<Option<[u8; BLOCK]>>,
}

impl Known {
    fn take(&mut self, reports: &[u8]) -> usize {
        let mut answers = 0;
        for record in reports.as_chunks::<9>().0 {
            let word = |at| u32::from_le_bytes([at, at + 1, at + 2, at + 3].map(|at| record[at]));
            let (block, bytes) = (word(1) as usize, content(word(5)));
            if record[0] == b'<' {
                self.begun[block] = Some(bytes);
            } else {
                self.answered[block] = bytes;
                self.begun[block] = None;
                answers += 1;
            }
        }
        answers
    }

    /// A write that was begun and not answered may be there, or in whole sectors not.
    fn check(&mut self, found: &[u8], context: &str) {
        for (block, found) in found.chunks(BLOCK).enumerate() {
            let begun = self.begun[block].take();
            let answered = self.answered[block];
            for at in (0..BLOCK).step_by(512) {
                let sector = &found[at..at + 512];
                let is_new = begun.is_some_and(|begun| sector == &begun[at..at + 512]);
                let is_right = is_new || sector == &answered[at..at + 512];
                assert!(
                    is_right,
                    "{context}: block {block} at {at}: {:?}",
                    &sector[..8]
                );
            }
            self.answered[block].copy_from_slice(found);
        }
    }
}

fn check_round(path: &Path, round: u32, known: &mut Known, context: &str) -> usize {
    let told = path.with_added_extension(round.to_string());
    let reports = told.with_extension("reports");
    let mut read = Vec::new();
    let mut file = File::open(reports).expect("is there");
    file.read_to_end(&mut read).expect("is readable");
    let answers = known.take(&read);
    let overlay = open(path, &base()).expect("opens after a kill");
    assert_eq!(overlay.opened(), Opened::Whole, "{context}");
    known.check(&read_all(&overlay), context);
    assert_eq!(overlay.size(), (BLOCKS * BLOCK) as u64);
    answers
}

#[test]
fn answered_writes_survive_kill() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (_folder, path) = scratch();
    drop(open(&path, &base()).expect("is made"));
    let mut known = Known {
        answered: vec![[0xee; BLOCK]; BLOCKS],
        begun: vec![None; BLOCKS],
    };
    let mut answers = 0;
    for round in 1..=30 {
        let told = path.with_added_extension(round.to_string());
        std::fs::write(told.with_extension("reports"), []).expect("is made");
        let mut process = child::start("overlay_killed::one_to_be_killed", told.as_os_str());
        // So many bytes of reports: from none to what a hundred milliseconds bring.
        let reports = told.with_extension("reports");
        let enough = random.u64(0..3000) * 9;
        wait_for("so many reports", || {
            std::fs::metadata(&reports).is_ok_and(|found| found.len() >= enough)
        });
        process.kill().expect("our own child can be killed");
        process.wait().expect("it can be waited for");
        let context = format!("seed {seed}, round {round}");
        answers += check_round(&path, round, &mut known, &context);
    }
    assert!(answers > 1000, "only {answers} writes in all rounds");
}
