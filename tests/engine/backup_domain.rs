//! What a snapshot keeps beside disks: its files, and what it says of the domain.

use std::sync::Arc;

use cairn_engine::backup::{BackupError, BackupOptions, BackupRequest, DiskRequest, FileRequest};
use cairn_engine::format::Unknown;
use cairn_engine::format::domain::{Consistency, DiskIdentity, DomainRecord, LeftOut, Method};
use cairn_engine::format::note::Fact;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Access, Contents, Repository, RepositoryError, Snapshot};
use cairn_engine::restore::{RestoreError, restore_file};
use cairn_engine::stats::stats;

use crate::support::{
    MemorySource, TestRepository, assert_clean, disk_request, random_disk, seed, snapshot,
    verify_all,
};

fn domain() -> DomainRecord {
    DomainRecord {
        uuid: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".to_owned(),
        hypervisor: "qemu:///system".to_owned(),
        checkpoint: Some("cairn-1".to_owned()),
        checkpoint_time: Some(1_795_000_000),
        method: Method::Pull,
        consistency: Consistency::Agent,
        machine: None,
        cpu: None,
        left_out: vec![LeftOut {
            target: "sda".to_owned(),
            reason: "a CD-ROM".to_owned(),
            unknown: Unknown::new(),
        }],
        not_saved: Vec::new(),
        unknown: Unknown::new(),
    }
}

fn request(files: &[(&str, Vec<u8>)]) -> BackupRequest {
    let identity = DiskIdentity {
        path: "/vm.qcow2".to_owned(),
        format: "qcow2".to_owned(),
        device: Some(7),
        inode: Some(8),
        bitmap: Some("cairn-1".to_owned()),
        unknown: Unknown::new(),
    };
    let source = Box::new(MemorySource::new(vec![3; 200_000]));
    let disk = DiskRequest {
        identity: Some(identity),
        doubt: Some("the checkpoint is gone".to_owned()),
        ..disk_request("vda", source)
    };
    let files = files.iter().map(|(name, bytes)| FileRequest {
        name: (*name).to_owned(),
        source: Box::new(MemorySource::new(bytes.clone())),
    });
    BackupRequest {
        vm: "vm".to_owned(),
        disks: vec![disk],
        files: files.collect(),
        domain: Some(domain()),
        ..BackupRequest::default()
    }
}

fn backup(repository: &Arc<Repository>, request: BackupRequest) -> Result<Snapshot, BackupError> {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = BackupOptions::new(2, &progress, &cancel);
    let done = cairn_engine::backup::backup(repository, request, &options)?;
    assert!(done.warnings.is_empty());
    Ok(snapshot(repository, done.snapshot))
}

fn restored(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
) -> Vec<(String, Result<Vec<u8>, RestoreError>)> {
    let contents =
        Contents::open(repository, Access::Read(vec![snapshot.id]), "restore").expect("it opens");
    let files = snapshot.manifest.files.iter().map(|file| {
        let mut bytes = Vec::new();
        let done = restore_file(&contents, file, &mut bytes);
        (file.name.clone(), done.map(|()| bytes))
    });
    files.collect()
}

#[test]
fn files_of_any_size_come_back() {
    for repository in [TestRepository::new(), TestRepository::encrypted()] {
        let mut random = fastrand::Rng::with_seed(seed());
        let mut holed = random_disk(&mut random, 70 << 20);
        holed[(1 << 20)..(50 << 20)].fill(0);
        holed[(69 << 20)..].fill(0);
        let files = [
            // A file may be called as a disk is.
            ("vda", random_disk(&mut random, 540_672)),
            ("tpm2-00.permall", vec![9; 1]),
            ("empty", Vec::new()),
            ("zeros", vec![0; 99_999]),
            ("memory", holed),
        ];
        let open = repository.open();
        let time = "2026-11-20T08:00:00Z".parse().unwrap();
        let request = BackupRequest {
            time: Some(time),
            ..request(&files)
        };
        let snapshot = backup(&open, request).unwrap();
        let manifest = &snapshot.manifest;
        assert_eq!(manifest.time, time);
        assert_eq!(manifest.domain, Some(domain()));
        let disk = &manifest.disks[0];
        assert_eq!(disk.doubt.as_deref(), Some("the checkpoint is gone"));
        assert_eq!(disk.identity.as_ref().and_then(|same| same.inode), Some(8));
        let back = restored(&open, &snapshot);
        assert_eq!(back.len(), files.len());
        for ((name, bytes), (wanted, right)) in back.into_iter().zip(&files) {
            assert_eq!(name, *wanted);
            assert!(bytes.unwrap() == *right, "{name}");
        }
        assert_clean(&verify_all(&open));
        let contents = Contents::open(&open, Access::Read(Vec::new()), "stats").unwrap();
        let stats = stats(&contents, &open.snapshots().unwrap(), 1).unwrap();
        let sizes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(stats.virtual_bytes, sizes as u64 + 200_000);
    }
}

#[test]
fn a_damaged_file_is_found_and_named() {
    let repository = TestRepository::new();
    let open = repository.open();
    let mut random = fastrand::Rng::with_seed(seed());
    let files = [("nvram", (0..540_672).map(|_| random.u8(..)).collect())];
    let snapshot = backup(&open, request(&files)).unwrap();
    let record = &snapshot.manifest.files[0];
    for pack in packs_of(&repository) {
        let mut bytes = std::fs::read(&pack).unwrap();
        // Far from the header, the footer and the one chunk of the disk.
        if bytes.len() > 400_000 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::remove_file(&pack).unwrap();
            std::fs::write(&pack, bytes).unwrap();
        }
    }
    let report = verify_all(&repository.open());
    let mut hurts = report.faults.iter().flat_map(|fault| &fault.hurts);
    let hurt = hurts.find(|hurt| hurt.is_file).expect("the file is hurt");
    assert_eq!((&*hurt.target, hurt.snapshot), ("nvram", snapshot.id));
    assert!(hurt.range.end <= record.size);
    let (_, back) = restored(&repository.open(), &snapshot).remove(0);
    assert!(back.unwrap_err().is_damage());
}

fn packs_of(repository: &TestRepository) -> Vec<std::path::PathBuf> {
    let mut packs = Vec::new();
    let mut folders = vec![repository.path().join("packs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
            let path = entry.expect("the folder can be listed").path();
            match path.is_dir() {
                true => folders.push(path),
                false => packs.push(path),
            }
        }
    }
    packs
}

#[test]
fn what_no_manifest_can_say_is_refused_before_anything_is_read() {
    let repository = TestRepository::new();
    let open = repository.open();
    let file = |name| (name, vec![1; 10]);
    let mut with_user = request(&[]);
    with_user.domain = Some(DomainRecord {
        hypervisor: "qemu+ssh://root@host/system".to_owned(),
        ..domain()
    });
    for request in [
        request(&[file("a"), file("a")]),
        request(&[file("a/b")]),
        request(&[file("")]),
        with_user,
    ] {
        let refused = backup(&open, request);
        assert!(matches!(refused, Err(BackupError::Manifest(_))));
    }
    assert!(packs_of(&repository).is_empty());
}

#[test]
fn a_pinned_snapshot_is_not_forgotten() {
    let repository = TestRepository::new();
    let open = repository.open();
    let made = [1, 2].map(|byte| {
        let done = repository.backup(MemorySource::new(vec![byte; 1000]), None);
        done.unwrap().snapshot
    });
    let pin = domain().uuid;
    let what = || pin.clone();
    open.add_note(made[1], Fact::Pinned { what: what() })
        .unwrap();
    let error = open.forget(&made).unwrap_err();
    assert!(
        matches!(&error, RepositoryError::Pinned { snapshot, pin: named }
            if *snapshot == made[1] && *named == pin),
        "{error:?}"
    );
    assert!(error.to_string().contains(&pin));
    let state = |id| snapshot(&open, id).state;
    assert!(made.iter().all(|id| state(*id).forgotten.is_none()));
    open.add_note(made[1], Fact::Unpinned { what: what() })
        .unwrap();
    let booted = "booted".to_owned();
    open.add_note(made[1], Fact::Proved { what: booted })
        .unwrap();
    assert!(state(made[1]).pins.is_empty());
    assert_eq!(state(made[1]).proofs[0].what, "booted");
    open.forget(&made).unwrap();
    assert!(made.iter().all(|id| state(*id).forgotten.is_some()));
}
