//! Processes killed in the middle of backups: the next one takes over without help.

use std::thread;
use std::time::Duration;

use cairn_engine::progress::Cancel;

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, small_settings};
use crate::support::{
    MemorySource, TestRepository, assert_clean, backup, child, edit, open_at, options_at,
    random_disk, seed,
};

/// Returns the disk as it is in this round.
fn disk_in(seed: u64, round: u64) -> Vec<u8> {
    let mut bytes = random_disk(&mut fastrand::Rng::with_seed(seed), 24 << 20);
    for round in 0..=round {
        edit(&mut fastrand::Rng::with_seed(seed ^ round), &mut bytes);
    }
    bytes
}

/// Not a test: a process that `killed_at_any_moment` starts and kills.
#[test]
fn one_to_be_killed() {
    let Some(told) = child::told() else { return };
    let number = |text: &str| text.parse::<u64>().expect("the parent gives numbers");
    let text = told
        .extension()
        .and_then(|text| text.to_str())
        .expect("the parent gives numbers");
    let (seed, round) = text.split_once('-').expect("the parent gives two numbers");
    let path = told.with_extension("");
    let repository = open_at(&path, &options_at(&path), None);
    let repository = repository.expect("the repository opens");
    let source = MemorySource::new(disk_in(number(seed), number(round)));
    backup(&repository, source, None, &Cancel::default()).expect("backs up");
}

#[test]
fn killed_at_any_moment() {
    let seed = seed() >> 1;
    let mut random = fastrand::Rng::with_seed(seed);
    let repository = TestRepository::with(None, |settings| {
        *settings = small_settings();
        settings.pack_len = 512 * 1024;
    });
    let mut published = 0;
    for round in 0..12 {
        let told = repository.path().with_extension(format!("{seed}-{round}"));
        let mut process = child::start("killed::one_to_be_killed", told.as_os_str());
        // sleeps: so that the moment of the kill is another each time.
        thread::sleep(Duration::from_millis(random.u64(5..400)));
        process.kill().expect("our own child can be killed");
        process.wait().expect("it can be waited for");

        let context = format!("seed {seed}, round {round}");
        let opened = repository.open();
        assert_clean(&verify_fresh(&opened).expect("verify runs"));
        let list = opened.snapshots().expect("listed");
        assert!(
            list.unreadable.is_empty(),
            "{context}: {:?}",
            list.unreadable
        );
        published += usize::from(list.snapshots.len() > published);
        for snapshot in &list.snapshots {
            let restored = restore_fresh(&opened, snapshot);
            let restored = restored.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
            let is_known = (0..=round).any(|round| disk_in(seed, round) == restored);
            assert!(is_known, "{context}: {} is no disk of ours", snapshot.id);
        }
        for folder in ["tmp", "locks"] {
            opened.storage().clear_dead_sessions().expect("clears");
            let left = repository
                .path()
                .join(folder)
                .read_dir()
                .expect("listed")
                .count();
            assert_eq!(left, 0, "{context}: {folder}");
        }
    }
    let bytes = disk_in(seed, 99);
    let done = repository
        .backup(MemorySource::new(bytes.clone()), None)
        .expect("backs up");
    assert!(repository.restore(done.snapshot).expect("restores") == bytes);
    assert_clean(&repository.verify());
}
