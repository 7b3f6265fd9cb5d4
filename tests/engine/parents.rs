//! A parent is never trusted unasked: what it has lost is read again wherever it lies, or the
//! backup fails. What is there is not looked for twice.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_engine::backup::{BackupDone, BackupError, Doubt};
use cairn_engine::format::manifest::DiskMode;
use cairn_engine::format::pack::PackKind;
use cairn_engine::id::{PackId, SnapshotId};
use cairn_engine::progress::Cancel;
use cairn_engine::recipe::{Recipe, Shape};
use cairn_engine::repair::rebuild_index;
use cairn_engine::repository::{Access, Contents, OpenOptions, Repository};
use cairn_engine::storage::Name;

use crate::repair::try_repair;
use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::{chain, small_settings};
use crate::support::{MemorySource, TestRepository, backup, open_at, seed, snapshot};

/// Where the second of two places with data begins: in another region than the first.
const FAR: usize = 17 << 20;
/// Bytes of data at each.
const LEN: usize = 150_000;
const DISK_LEN: usize = 18 << 20;

/// A repository whose last snapshot has its far data, and the leaf above, in packs of an earlier
/// one.
struct World {
    repository: TestRepository,
    bytes: Vec<u8>,
    parent: SnapshotId,
    /// The packs of the first snapshot.
    first: BTreeSet<PackId>,
}

impl World {
    fn new(passphrase: Option<&'static str>) -> Self {
        Self::with_more(passphrase, 0..0)
    }

    /// Makes one whose first snapshot has more data, in a range.
    fn with_more(passphrase: Option<&'static str>, more: Range<usize>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed());
        let repository = TestRepository::with(passphrase, |settings| *settings = small_settings());
        let mut bytes = vec![0; DISK_LEN];
        bytes[FAR..FAR + LEN].fill_with(|| random.u8(..));
        let back_up = |bytes: &Vec<u8>| {
            let done = repository.backup(MemorySource::new(bytes.clone()), None);
            done.expect("backs up").snapshot
        };
        bytes[more.clone()].fill_with(|| random.u8(..));
        back_up(&bytes);
        bytes[more].fill(0);
        let first = packs(&repository.open()).into_iter().collect();
        bytes[..LEN].fill_with(|| random.u8(..));
        let parent = back_up(&bytes);
        Self {
            repository,
            bytes,
            parent,
            first,
        }
    }

    fn path(&self, pack: PackId) -> PathBuf {
        self.repository.path().join(Name::Pack(pack).path())
    }

    /// Returns a pack of the first snapshot.
    fn pack(&self, kind: PackKind) -> PackId {
        let repository = self.repository.open();
        let contents = Contents::open(&repository, Access::Read(Vec::new()), "test");
        let contents = contents.expect("opens");
        let is_wanted = |pack: &&PackId| {
            let footer = contents.footer(**pack).expect("it is whole");
            footer.header().kind == kind
        };
        *self.first.iter().find(is_wanted).expect("there is one")
    }

    /// Returns the pack in which the parent's chunk at a disk offset lies, and a byte of its frame.
    fn frame_of(&self, offset: u64) -> (PackId, usize) {
        let repository = self.repository.open();
        let contents = Contents::open(&repository, Access::Read(Vec::new()), "test");
        let contents = contents.expect("opens");
        let parent = snapshot(&repository, self.parent);
        let disk = parent.disk("vda").expect("the disk was backed up");
        let window_len = repository.chunker().window_len();
        let shape = Shape::new(disk.size, window_len).expect("it was made");
        let recipe = Recipe::new(&contents, shape, disk.recipe);
        let chunk = recipe.chunks_in(offset..offset + 1).next();
        let chunk = chunk.expect("there is data").expect("the recipe is whole");
        let place = contents.locate(&[chunk.id.into()]).expect("is looked up")[0];
        let place = place.expect("the index knows it");
        let pack = contents.index().pack(place.pack).expect("it is there");
        let reader = contents.footer(pack).expect("it is whole");
        let frame = reader.footer().frames[usize::from(place.frame)].offset;
        (pack, usize::try_from(frame).expect("packs are small") + 20)
    }

    fn change(&self, pack: PackId, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(pack)).expect("the pack is there");
        change(&mut bytes);
        fs::write(self.path(pack), bytes).expect("the pack can be written");
    }

    fn repair(&self) {
        try_repair(&self.repository.open(), &[]).expect("it can be repaired");
    }

    /// Backs up what changed in one near block, as a client that has another cache where asked.
    fn increment(
        &self,
        has_unchanged: bool,
        elsewhere: bool,
    ) -> (Vec<u8>, Result<BackupDone, BackupError>) {
        let mut bytes = self.bytes.clone();
        bytes[..10].fill(b'!');
        let source = MemorySource::changed_since(&self.bytes, bytes.clone(), has_unchanged);
        let repository = match elsewhere {
            true => self.open_elsewhere(),
            false => self.repository.open(),
        };
        let done = backup(&repository, source, Some(self.parent), &Cancel::default());
        (bytes, done)
    }

    fn open_elsewhere(&self) -> Arc<Repository> {
        let options = OpenOptions {
            cache: self.repository.folder.path().join("elsewhere"),
            ..self.repository.options()
        };
        let path = self.repository.path();
        open_at(&path, &options, self.repository.passphrase).expect("opens")
    }

    /// Fails unless the parent and its child give their bytes back.
    fn check(&self, bytes: &[u8], done: &BackupDone, context: &str) {
        let repository = self.repository.open();
        for (id, bytes) in [(self.parent, &*self.bytes), (done.snapshot, bytes)] {
            let restored = restore_fresh(&repository, &snapshot(&repository, id));
            let restored = restored.unwrap_or_else(|e| panic!("{context}: {}", chain(&e)));
            assert!(restored == bytes, "{context}: other bytes");
        }
        let report = verify_fresh(&repository).expect("verify runs");
        let mut hurts = report.faults.iter().flat_map(|fault| &fault.hurts);
        // The first snapshot has a root of its own, which nobody has any more.
        let is_ours = hurts.any(|hurt| [self.parent, done.snapshot].contains(&hurt.snapshot));
        assert!(!is_ours, "{context}: {report:?}");
    }

    /// Returns the files in which this client remembers what recipes need.
    fn remembered(&self) -> BTreeSet<PathBuf> {
        let id = self.repository.open().config().repository_id.to_hex();
        let folder = self.repository.folder.path().join("cache").join(id);
        let mut places = fs::read_dir(folder).expect("something is remembered");
        let place = places.next().expect("of one place").expect("readable");
        let files = fs::read_dir(place.path().join("needs"));
        let files = files.expect("something is remembered");
        files.map(|file| file.expect("readable").path()).collect()
    }
}

fn packs(repository: &Arc<Repository>) -> Vec<PackId> {
    let contents = Contents::open(repository, Access::Read(Vec::new()), "test");
    contents.expect("opens").packs().to_vec()
}

/// What happened to a pack before the next backup.
type Loss = (&'static str, fn(&World, PackId));

const LOSSES: [Loss; 5] = [
    ("a cut footer, repaired", |world, pack| {
        world.change(pack, |bytes| bytes.truncate(bytes.len() - 20));
        world.repair();
    }),
    ("gone, repaired", |world, pack| {
        fs::remove_file(world.path(pack)).expect("it can be removed");
        world.repair();
    }),
    ("gone, and the index built anew", |world, pack| {
        fs::remove_file(world.path(pack)).expect("it can be removed");
        rebuild_index(&world.repository.open()).expect("it is built");
    }),
    ("a flipped bit, repaired twice", |world, pack| {
        world.change(pack, |bytes| bytes[200] ^= 4);
        world.repair();
        world.repair();
    }),
    ("a flipped bit, found by verify", |world, pack| {
        world.change(pack, |bytes| bytes[200] ^= 4);
        assert!(!world.repository.verify().faults.is_empty());
    }),
];

fn nothing_is_lost(passphrase: Option<&'static str>, kind: PackKind) {
    for (what, lose) in LOSSES {
        for elsewhere in [false, true] {
            let context = format!("{what}, {kind:?}, elsewhere: {elsewhere}");
            // What verify found is known to the client that verified.
            if elsewhere && what.contains("verify") {
                continue;
            }
            let world = World::new(passphrase);
            lose(&world, world.pack(kind));
            let (bytes, done) = world.increment(true, elsewhere);
            let done = done.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
            world.check(&bytes, &done, &context);
            let disk = &done.manifest.disks[0];
            let doubt = &done.warnings.first().expect("it is said").doubt;
            if kind == PackKind::Data {
                assert!(matches!(doubt, Doubt::ParentLacks { .. }), "{doubt:?}");
                assert_eq!(disk.mode, DiskMode::Incremental);
                assert!(disk.read_bytes < DISK_LEN as u64 / 8, "{context}");
            }
        }
    }
}

#[test]
fn what_a_parent_has_lost_is_read_again_in_a_plain_repository() {
    nothing_is_lost(None, PackKind::Data);
}

#[test]
fn what_a_parent_has_lost_is_read_again_in_an_encrypted_repository() {
    nothing_is_lost(Some("correct horse"), PackKind::Data);
}

#[test]
fn a_parent_that_has_lost_nodes_is_read_whole() {
    nothing_is_lost(None, PackKind::Nodes);
}

/// A parent's own packs are remembered with those that it built on.
#[test]
fn what_a_parent_brought_itself_is_looked_for_too() {
    for elsewhere in [false, true] {
        let world = World::new(None);
        let (pack, _) = world.frame_of(100_000);
        assert!(!world.first.contains(&pack));
        fs::remove_file(world.path(pack)).expect("it can be removed");
        rebuild_index(&world.repository.open()).expect("it is built");
        let (bytes, done) = world.increment(true, elsewhere);
        let done = done.unwrap_or_else(|error| panic!("{}", chain(&error)));
        world.check(&bytes, &done, "a pack of its own is gone");
    }
}

/// The source has only what changed: what the parent has lost is lost, and must not be published
/// once more.
#[test]
fn a_delta_is_refused_where_its_parent_has_lost_what_it_builds_on() {
    for kind in [PackKind::Data, PackKind::Nodes] {
        for (what, lose) in LOSSES {
            let world = World::new(None);
            lose(&world, world.pack(kind));
            let (_, done) = world.increment(false, false);
            let is_refused = matches!(&done, Err(BackupError::ParentDamaged { .. }));
            assert!(is_refused, "{what}, {kind:?}: {done:?}");
        }
    }
}

/// A pack is damaged where the delta has new bytes: what else lies in it is no loss.
#[test]
fn a_delta_builds_on_what_is_whole_in_a_damaged_pack() {
    let world = World::new(None);
    let (pack, at) = world.frame_of(20_000);
    world.change(pack, |bytes| bytes[at] ^= 1);
    assert!(!world.repository.verify().faults.is_empty());
    let (bytes, done) = world.increment(false, false);
    let done = done.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let restored = world.repository.restore(done.snapshot).expect("restores");
    assert!(restored == bytes, "other bytes");
}

/// Nodes that lie in a damaged pack and can still be read are stored anew: nothing needs that pack
/// any more.
#[test]
fn nodes_in_a_damaged_pack_are_stored_anew_while_they_can_be_read() {
    // The leaf of a full window is a frame of its own, and the parent does not need it.
    let world = World::with_more(None, 8 << 20..10 << 20);
    let pack = world.pack(PackKind::Nodes);
    world.change(pack, |bytes| bytes[60] ^= 1);
    assert!(!world.repository.verify().faults.is_empty());
    let (bytes, done) = world.increment(true, false);
    let done = done.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    assert_eq!(done.manifest.disks[0].mode, DiskMode::Incremental);
    fs::remove_file(world.path(pack)).expect("it can be removed");
    for (id, bytes) in [(world.parent, &world.bytes), (done.snapshot, &bytes)] {
        let restored = world.repository.restore(id).expect("restores");
        assert!(restored == *bytes, "other bytes");
    }
}

/// What a backup made is remembered, and what was looked through, too; so the next one need not
/// look while all packs are there.
#[test]
fn a_parent_is_looked_through_once() {
    let world = World::new(None);
    let made = world.remembered();
    assert_eq!(made.len(), 2, "both backups are remembered");
    let (bytes, done) = world.increment(true, false);
    let done = done.expect("backs up");
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    world.check(&bytes, &done, "all is well");
    assert_eq!(world.remembered().len(), 3);

    // Forgotten, damaged or another's: the parent is looked through, and remembered again.
    let files: Vec<PathBuf> = world.remembered().into_iter().collect();
    fs::write(&files[0], b"").expect("it can be written");
    fs::copy(&files[1], &files[2]).expect("it can be written");
    let source = || MemorySource::changed_since(&bytes, bytes.clone(), true);
    for id in [world.parent, done.snapshot] {
        let again = world.repository.backup(source(), Some(id));
        assert!(again.expect("backs up").warnings.is_empty());
    }
    let sizes = world.remembered().into_iter();
    let sizes: Vec<u64> = sizes
        .map(|file| file.metadata().expect("there").len())
        .collect();
    assert!(
        sizes.iter().filter(|len| **len > 0).count() >= 2,
        "{sizes:?}"
    );
}
