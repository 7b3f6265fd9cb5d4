//! What was backed up comes back, byte for byte, whole or by its changes.

use cairn_engine::format::manifest::DiskMode;

use crate::support::{MemorySource, TestRepository, assert_clean, edit, random_disk, seed};

fn round_trip(repository: &TestRepository) {
    let mut random = fastrand::Rng::with_seed(seed());
    for len in [0, 1, 511, 65_536, 65_537, 16 << 20, (40 << 20) + 12_345] {
        let disk = random_disk(&mut random, len);
        let done = repository
            .backup(MemorySource::new(disk.clone()), None)
            .expect("backs up");
        let back = repository.restore(done.snapshot).expect("restores");
        assert!(back == disk, "a disk of {len} bytes came back otherwise");
    }
    assert_clean(&repository.verify());
}

#[test]
fn disks_of_any_size_come_back() {
    round_trip(&TestRepository::new());
}

#[test]
fn disks_of_any_size_come_back_from_an_encrypted_repository() {
    round_trip(&TestRepository::encrypted());
}

#[test]
fn the_second_backup_of_the_same_bytes_stores_no_chunk() {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    let disk = random_disk(&mut random, 24 << 20);
    let first = repository
        .backup(MemorySource::new(disk.clone()), None)
        .expect("backs up");
    assert!(first.manifest.disks[0].new_chunks > 0);
    let second = repository
        .backup(MemorySource::new(disk), None)
        .expect("backs up");
    let again = &second.manifest.disks[0];
    assert_eq!(
        (again.new_chunks, again.new_bytes, again.stored_bytes),
        (0, 0, 0)
    );
    assert!(second.stored.data.packs.is_empty());
    assert!(second.stored.nodes.packs.is_empty());
    assert_eq!(again.recipe, first.manifest.disks[0].recipe);
}

fn incrementals_equal_fulls(has_unchanged: bool) {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    let mut disk = random_disk(&mut random, (36 << 20) + 700);
    let mut parent = repository
        .backup(MemorySource::new(disk.clone()), None)
        .expect("backs up")
        .snapshot;
    for round in 0..12 {
        let before = disk.clone();
        match round % 4 {
            1 => disk.resize(disk.len() + random.usize(1..20 << 20), 0),
            3 => disk.truncate(disk.len() - random.usize(1..8 << 20)),
            _ => {}
        }
        edit(&mut random, &mut disk);
        let source = MemorySource::changed_since(&before, disk.clone(), has_unchanged);
        let done = repository.backup(source, Some(parent)).expect("backs up");
        let record = &done.manifest.disks[0];
        assert_eq!(record.mode, DiskMode::Incremental);
        assert_eq!(done.manifest.parent, Some(parent));
        let other = TestRepository::new();
        let full = other
            .backup(MemorySource::new(disk.clone()), None)
            .expect("backs up");
        assert_eq!(
            record.recipe, full.manifest.disks[0].recipe,
            "round {round}"
        );
        assert!(
            repository.restore(done.snapshot).expect("restores") == disk,
            "round {round}"
        );
        parent = done.snapshot;
    }
    assert_clean(&repository.verify());
}

#[test]
fn incrementals_by_bitmap_equal_fulls() {
    incrementals_equal_fulls(true);
}

#[test]
fn incrementals_by_delta_equal_fulls() {
    incrementals_equal_fulls(false);
}

#[test]
fn a_source_that_cannot_be_read_publishes_nothing_and_is_named() {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    let disk: Vec<u8> = (0..40 << 20).map(|_| random.u8(..)).collect();
    let mut source = MemorySource::new(disk.clone());
    source.broken = Some(33 << 20..(33 << 20) + 1);
    let error = repository
        .backup(source, None)
        .expect_err("the source is broken");
    let text = format!(
        "{error}: {}",
        std::error::Error::source(&error).expect("has a cause")
    );
    assert!(
        text.contains("disk vda") && text.contains("offset"),
        "{text}"
    );
    assert!(
        repository
            .open()
            .snapshots()
            .expect("lists")
            .snapshots
            .is_empty()
    );
    // What was stored by then is not stored again.
    let done = repository
        .backup(MemorySource::new(disk), None)
        .expect("backs up");
    let record = &done.manifest.disks[0];
    assert!(
        record.new_bytes < record.data_bytes,
        "finished packs are used by the next run"
    );
    assert_clean(&repository.verify());
}

#[test]
fn a_deleted_index_changes_no_answer() {
    let repository = TestRepository::new();
    let mut random = fastrand::Rng::with_seed(seed());
    let disk = random_disk(&mut random, 24 << 20);
    let done = repository
        .backup(MemorySource::new(disk.clone()), None)
        .expect("backs up");
    std::fs::remove_dir_all(repository.path().join("index")).expect("the index is there");
    assert!(repository.restore(done.snapshot).expect("restores") == disk);
    std::fs::remove_dir_all(repository.path().join("index")).expect("the index is there");
    let again = repository
        .backup(MemorySource::new(disk), None)
        .expect("backs up");
    assert_eq!(again.manifest.disks[0].new_chunks, 0);
    assert_clean(&repository.verify());
}
