//! Makes the fixtures of a format. Those that are there are frozen: what is made is compared with
//! them in kind, and thrown away. Where the format's version is a new one, it is kept:
//!
//! ```text
//! unshare -u sh -c 'hostname host1.example &&
//!     cargo test --release --locked -p cairn-engine --test engine frozen'
//! ```
//!
//! The tables beside the folders are then written by hand, from what the documentation says of
//! each damage; `tests/cli/frozen.rs` says where the command does something else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::backup::{BackupOptions, BackupRequest, DiskRequest, FileRequest};
use cairn_engine::crypto::{Keys, MasterKey, Passphrase, create_slot};
use cairn_engine::format::config::{ChunkerConfig, Config, FORMAT_VERSION};
use cairn_engine::format::domain::{Consistency, DiskIdentity, DomainRecord, Method};
use cairn_engine::format::note::Fact;
use cairn_engine::format::{FileKind, Salt, Unknown};
use cairn_engine::id::{RepositoryId, SnapshotId};
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::storage::Folder;
use jiff::Timestamp;
use serde_json::Value;

use super::{NVRAM, PASSPHRASE, damage, fixtures};
use crate::support::sim::copy_tree;
use crate::support::{MemorySource, disk_request, open_at, options_at, snapshot};

/// A repository whose bytes are to be frozen.
pub struct Fixture {
    /// `plain` or `encrypted`.
    pub name: &'static str,
    /// Where it is made.
    pub path: PathBuf,
    pub repository: Arc<Repository>,
    /// Two of `web1` and one of `db1`.
    pub snapshots: [SnapshotId; 3],
}

/// Text of two letters, which compresses well, with holes.
fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    for (number, block) in bytes.chunks_mut(64 * 1024).enumerate() {
        if !matches!(number, 1 | 2) {
            block.fill_with(|| random.u8(b'a'..b'c'));
        }
    }
    bytes
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn lay_out(path: &Path, passphrase: Option<&str>) -> Arc<Repository> {
    drop(Folder::create_at(path).expect("the folder can be laid out"));
    let id = RepositoryId::from_bytes(*Salt::draw().as_bytes());
    let created: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut config = Config::new(id, created, passphrase.map(|_| Salt::draw()));
    config.chunker = ChunkerConfig {
        normalization: 2,
        average: 4096,
    };
    config.frame_len = 16 * 1024;
    config.pack_len = 4096;
    let keys = match (&mut config.encryption, passphrase) {
        (Some(encryption), Some(passphrase)) => {
            // Quickly derived: what is in here is no secret.
            (encryption.memory_kib, encryption.passes) = (64, 1);
            let master = MasterKey::draw();
            let passphrase = Passphrase::new(passphrase.into());
            let label = "first".to_owned();
            let slot = create_slot(&master, &passphrase, id, encryption, label, created);
            let slot = slot.expect("a slot").encode().expect("it is encoded");
            let name = blake3::hash(&slot).to_string();
            fs::write(path.join("keys").join(name), slot).expect("there is space");
            Keys::sealed(id, &master)
        }
        _ => Keys::plain(id),
    };
    let config = config.encode(|bytes| keys.config_mac(bytes));
    fs::write(path.join("config"), config.expect("a config")).expect("there is space");
    open_at(path, &options_at(path), passphrase).expect("it is opened")
}

fn domain() -> DomainRecord {
    DomainRecord {
        uuid: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".to_owned(),
        hypervisor: "qemu:///system".to_owned(),
        checkpoint: Some("cairn-1".to_owned()),
        checkpoint_time: Some(1_767_300_000),
        method: Method::Pull,
        consistency: Consistency::Agent,
        machine: Some("pc-q35-9.2".to_owned()),
        cpu: None,
        left_out: Vec::new(),
        not_saved: vec!["the state of its TPM".to_owned()],
        unknown: Unknown::new(),
    }
}

fn backup(
    repository: &Arc<Repository>,
    (vm, time): (&str, &str),
    disks: Vec<DiskRequest>,
    parent: Option<Snapshot>,
) -> SnapshotId {
    let is_domain = vm == "web1";
    let nvram = FileRequest {
        name: "nvram".to_owned(),
        source: Box::new(MemorySource::new(NVRAM.to_vec())),
    };
    let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let request = BackupRequest {
        vm: vm.to_owned(),
        disks,
        parent,
        tags: one("purpose", "frozen"),
        metadata: one("domain.xml", "<domain type='kvm'/>"),
        files: if is_domain { vec![nvram] } else { Vec::new() },
        domain: is_domain.then(domain),
        time: Some(time.parse().expect("a time")),
    };
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = BackupOptions::new(1, &progress, &cancel);
    let done = cairn_engine::backup::backup(repository, request, &options);
    done.expect("it is backed up").snapshot
}

/// Gives a manifest a member that no version knows, and so another name.
fn with_a_later_member(path: &Path, repository: &Repository, id: SnapshotId) -> SnapshotId {
    let (keys, kind) = (repository.keys(), FileKind::Manifest);
    let folder = path.join("snapshots");
    let stored = fs::read(folder.join(id.to_hex())).expect("it was published");
    let plain = keys.open_document(kind, stored).expect("it opens");
    let mut manifest: Value = serde_json::from_slice(&plain).expect("it is JSON");
    manifest["later"] = "kept".into();
    let stored = keys.seal_document(kind, manifest.to_string().into());
    let new = SnapshotId::from_bytes(*blake3::hash(&stored).as_bytes());
    fs::remove_file(folder.join(id.to_hex())).expect("it is there");
    fs::write(folder.join(new.to_hex()), stored).expect("there is space");
    new
}

fn add_notes(repository: &Repository, [first, second, third]: [SnapshotId; 3]) {
    let what = |text: &str| text.to_owned();
    let pin = || what("4dea22b3-1d52-d8f3-2516-782e98ab3fa0");
    let archived = Fact::Other {
        kind: what("archived"),
    };
    for (id, fact) in [
        (first, Fact::Protected),
        (first, archived),
        (second, Fact::Forgotten),
        (second, Fact::Undeleted),
        (second, Fact::Pinned { what: pin() }),
        (second, Fact::Unpinned { what: pin() }),
        (second, Fact::Verified { what: what("data") }),
        (second, Fact::Proved { what: what("boot") }),
        (third, Fact::Forgotten),
    ] {
        repository.add_note(id, fact).expect("the note is added");
    }
}

fn make(folder: &Path, name: &'static str, passphrase: Option<&str>) -> Fixture {
    let path = folder.join(name);
    let repository = lay_out(&path, passphrase);
    let identity = DiskIdentity {
        path: "/vm/web1.qcow2".to_owned(),
        format: "qcow2".to_owned(),
        device: Some(7),
        inode: Some(8),
        bitmap: Some("cairn-1".to_owned()),
        unknown: Unknown::new(),
    };
    let full = disk(1, 4 * 65_536 + 10_001);
    let mut changed = full.clone();
    changed[30_000..35_000].fill(b'x');
    changed[3 * 65_536..4 * 65_536].fill(0);
    let vdb = noise(2, 24_577);
    let first = vec![
        DiskRequest {
            identity: Some(identity),
            doubt: Some("the first of this disk".to_owned()),
            ..disk_request("vda", Box::new(MemorySource::new(full.clone())))
        },
        disk_request("vdb", Box::new(MemorySource::new(vdb.clone()))),
    ];
    let first = backup(&repository, ("web1", "2026-01-02T03:04:05Z"), first, None);
    let first = with_a_later_member(&path, &repository, first);
    let vda = MemorySource::changed_since(&full, changed, false);
    let vdb = MemorySource::changed_since(&vdb, vdb.clone(), false);
    let second = [("vda", vda), ("vdb", vdb)].map(|(target, source)| DiskRequest {
        changes_only: true,
        ..disk_request(target, Box::new(source))
    });
    let parent = Some(snapshot(&repository, first));
    let at = ("web1", "2026-01-03T03:04:05.678Z");
    let second = backup(&repository, at, second.into(), parent);
    let third = disk_request("vda", Box::new(MemorySource::new(disk(3, 20_001))));
    let at = ("db1", "2026-01-04T03:04:05Z");
    let third = backup(&repository, at, vec![third], None);
    let snapshots = [first, second, third];
    add_notes(&repository, snapshots);
    Fixture {
        name,
        path,
        repository,
        snapshots,
    }
}

/// Makes both repositories and all damage in a folder.
fn make_all(to: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let plain = make(folder.path(), "plain", None);
    let encrypted = make(folder.path(), "encrypted", Some(PASSPHRASE));
    for fixture in [&plain, &encrypted] {
        let to = to.join(fixture.name);
        for part in ["packs", "snapshots", "notes", "keys"] {
            copy_tree(&fixture.path.join(part), &to.join(part));
        }
        fs::copy(fixture.path.join("config"), to.join("config")).expect("there is space");
    }
    damage::make(&plain, &encrypted, &to.join("damage"));
    damage::make(&encrypted, &plain, &to.join("damage"));
}

/// Returns the kinds of damage below a folder, each with how many files differ and are gone, and
/// how many files there are of each kind where nothing is damaged.
fn kinds(folder: &Path) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for name in ["plain", "encrypted"] {
        for part in ["snapshots", "notes", "keys"] {
            kinds.insert(
                format!("{name}/{part}"),
                files(&folder.join(name).join(part)),
            );
        }
        // How many packs there are hangs on which thread was first.
        let has_packs = files(&folder.join(name).join("packs")) > 0;
        kinds.insert(format!("{name}/packs"), usize::from(has_packs));
        let damage = folder.join("damage").join(name);
        for entry in fs::read_dir(&damage).expect("there is damage") {
            let path = entry.expect("it can be listed").path();
            let kind = path.file_name().expect("it has a name").to_string_lossy();
            kinds.insert(format!("{name}/{kind}"), files(&path));
        }
    }
    kinds
}

fn files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    paths
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[test]
fn the_fixtures_of_this_format_have_all_kinds_of_damage() {
    let made = tempfile::tempdir().expect("a temporary folder can be made");
    make_all(made.path());
    let frozen = fixtures(FORMAT_VERSION);
    if !frozen.exists() {
        copy_tree(made.path(), &frozen);
        panic!("they were not there: see what was made, and write the tables");
    }
    assert_eq!(kinds(&frozen), kinds(made.path()));
}
