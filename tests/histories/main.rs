//! Whole histories by seed: backups, restores, collections, verifies, repairs, and snapshots that
//! are forgotten, pruned and brought back, all of which come in between one another at every call
//! of the disk; processes that are killed, and power cuts. What was acknowledged and not forgotten
//! must be there, and right, whatever the seed.
//!
//! `CAIRN_HISTORIES=10000 cargo test --release -p cairn-engine --test histories` runs many;
//! `CAIRN_SEED=… CAIRN_HISTORIES=1` runs one again.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/mod.rs"]
mod support;

mod acts;
mod baton;
mod model;
mod named;
mod staged;
mod steps;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cairn_engine::storage::sim::SimFs;

use crate::support::seed;
use crate::support::sim::{copy_tree, init_with_parity, open_on, scratch};
use acts::{Client, Round};
use baton::Baton;
use model::Model;

/// Processes at work at once.
const CLIENTS: usize = 3;
/// Things that each does in a round.
const ACTS: usize = 4;
/// Histories that a run of all tests goes through.
const HISTORIES: u64 = 400;

/// Lives through one history, and returns what went wrong.
fn history(seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let model = Arc::new(Model::default());
    let mut disk = SimFs::new(seed);
    let (mut cache, old_cache) = (scratch(), scratch());
    let parity = seed.is_multiple_of(4).then_some(10);
    init_with_parity(&disk, cache.path(), parity).expect("nothing goes wrong yet");
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| Client::new(number, random.u64(..)))
        .collect();
    let mut trace = Vec::new();
    for number in 0..random.u32(1..4) {
        let cut_after = random.bool().then(|| random.u32(0..900));
        let is_cut = Arc::new(AtomicBool::new(false));
        let after: Arc<std::sync::Mutex<Option<SimFs>>> = Arc::default();
        let (flag, image, old, cut_seed) = (
            Arc::clone(&is_cut),
            Arc::clone(&after),
            disk.clone(),
            random.u64(..),
        );
        let cut = move || {
            // First: what another thread does from here on is acknowledged to nobody.
            flag.store(true, Ordering::SeqCst);
            let mut image = image.lock().expect("nobody panicked");
            *image = Some(old.crash_image(old.op_count(), cut_seed));
        };
        let baton = Arc::new(Baton::new(random.u64(..), CLIENTS, cut_after));
        let round = Round {
            baton: Arc::clone(&baton),
            disk: disk.clone(),
            model: Arc::clone(&model),
            cache,
            old_cache: scratch(),
            is_cut,
            cut: Arc::new(cut),
        };
        copy_tree(old_cache.path(), round.old_cache.path());
        thread::scope(|scope| {
            for client in &mut clients {
                let round = &round;
                scope.spawn(move || client.act(round, ACTS));
            }
        });
        trace.extend(baton.trace());
        cache = round.cache;
        if let Some(left) = after.lock().expect("nobody panicked").take() {
            disk = left;
        }
        copy_tree(cache.path(), old_cache.path());
        let fresh = scratch();
        let path = if random.bool() {
            fresh.path()
        } else {
            cache.path()
        };
        match open_on(&disk.spawn(), path) {
            Ok(repository) => model.check(&repository, &format!("after round {number}")),
            Err(error) => model.violation(format!("does not open: {error}")),
        }
        if !model.known().violations.is_empty() {
            break;
        }
    }
    let violations = std::mem::take(&mut model.known().violations);
    if !violations.is_empty() {
        eprintln!("{}", trace.join("\n"));
    }
    violations
}

fn histories() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "how many are run is for whoever has the time"
    )]
    let given = std::env::var("CAIRN_HISTORIES").ok();
    given
        .and_then(|count| count.parse().ok())
        .unwrap_or(HISTORIES)
}

#[test]
fn no_history_loses_or_changes_a_byte() {
    let first = seed();
    for number in 0..histories() {
        let seed = first.wrapping_add(number);
        let wrong = history(seed);
        assert!(wrong.is_empty(), "CAIRN_SEED={seed}: {wrong:#?}");
    }
}
