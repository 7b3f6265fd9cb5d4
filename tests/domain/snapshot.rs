//! Backups of whole domains, made through the engine.

use std::sync::Arc;

use cairn_engine::domain::backup::{
    DomainBackupDone, DomainBackupOptions, Offline, Reading, ScratchOptions, Way, back_up,
};
use cairn_engine::domain::freeze::{Freeze, GuardProgram};
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{OpenOptions, Repository, RepositoryError};
use cairn_engine::source::libvirt::Connection;
use cairn_engine::storage::Folder;

use crate::lab::{Domain, Lab};
use crate::world::World;

/// Backs a domain up into a world's repository, and returns the snapshot's id.
#[track_caller]
pub fn take(lab: &Lab, world: &World, domain: &Domain<'_>) -> String {
    let done = try_take(lab, world, domain);
    done.backup.snapshot.to_string()
}

#[track_caller]
fn try_take(lab: &Lab, world: &World, domain: &Domain<'_>) -> DomainBackupDone {
    let storage = Folder::open_at(&world.repository()).expect("there is a repository");
    let options = OpenOptions {
        local: Some(world.repository()),
        cache: world.path("cache/cairn"),
    };
    let ask = || -> Result<_, RepositoryError> { unreachable!("it is not encrypted") };
    let repository = Repository::open(Arc::new(storage), &options, false, ask);
    let repository = repository.expect("the repository opens");
    let snapshots = repository
        .snapshots()
        .expect("snapshots are listed")
        .snapshots;
    let connection = Connection::open(Some(&lab.uri())).expect("the lab answers");
    let domain = connection
        .domain(domain.name())
        .expect("the domain is there");
    let say = |_: &str| ();
    let options = DomainBackupOptions {
        name: None,
        only: Vec::new(),
        exclude: Vec::new(),
        reading: Reading::Auto,
        way: Way::Job,
        freeze: Freeze::None,
        offline: Offline::Detect,
        audit_percent: 0,
        limit: None,
        scratch: ScratchOptions {
            folder: None,
            min: Some(0),
        },
        tls: None,
        run_folder: lab.path("run"),
        guard: GuardProgram {
            program: env!("CARGO_BIN_EXE_cairn").into(),
            args: Vec::new(),
        },
        hooks: Vec::new(),
        tags: Default::default(),
        threads: 2,
        progress: &Progress::default(),
        cancel: &Cancel::default(),
        say: &say,
    };
    back_up(&repository, &snapshots, &domain, &options).expect("the domain is backed up")
}
