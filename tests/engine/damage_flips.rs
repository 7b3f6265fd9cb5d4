//! One flipped bit anywhere: verify names the object, and nothing wrong is ever restored.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_engine::crypto::Passphrase;
use cairn_engine::format::config::Config;
use cairn_engine::format::note::Fact;
use cairn_engine::repository::{Access, Contents, Repository, RepositoryError, Snapshot};
use cairn_engine::storage::{Folder, Name, SharedStorage};
use cairn_engine::verify::{VerifyError, VerifyReport};

use crate::support::memory::{restore_in, verify_in};
use crate::support::objects::Objects;
use crate::support::sim::{chain, small_settings};
use crate::support::{MemorySource, TestRepository, assert_clean, seed};

const PACK_HEAD_LEN: usize = 48;
const PACK_TRAILER_LEN: usize = 48;

/// A small repository of two snapshots, its objects in memory.
struct World {
    _folder: TestRepository,
    objects: Arc<Objects>,
    repository: Arc<Repository>,
    disks: BTreeMap<String, Vec<u8>>,
    random: fastrand::Rng,
}

impl World {
    fn new(passphrase: Option<&'static str>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed());
        let folder = TestRepository::with(passphrase, |settings| {
            *settings = small_settings();
            settings.pack_len = 48 * 1024;
        });
        let mut bytes = vec![0; 5 * 65_536 + 777];
        bytes[65_536..4 * 65_536].fill_with(|| random.u8(b'a'..b'i'));
        bytes[5 * 65_536..].fill(7);
        let mut disks = BTreeMap::new();
        let mut first = None;
        for _ in 0..2 {
            let source = MemorySource::new(bytes.clone());
            let id = folder.backup(source, None).expect("backs up").snapshot;
            disks.insert(id.to_hex(), bytes.clone());
            bytes[130_000..150_000].fill_with(|| random.u8(..));
            first.get_or_insert(id);
        }
        let repository = folder.open();
        let first = first.expect("two snapshots were made");
        repository
            .add_note(first, Fact::Protected)
            .expect("the note is added");
        let behind: SharedStorage = Arc::new(Folder::open_at(&folder.path()).expect("opens"));
        let objects = Objects::load(behind);
        let (storage, text) = (objects.clone(), passphrase.unwrap_or_default());
        let repository = Repository::open(storage, &folder.options(), passphrase.is_some(), || {
            Ok::<_, RepositoryError>(Passphrase::new(text.into()))
        });
        let repository = repository.expect("the repository opens");
        let world = Self {
            _folder: folder,
            objects,
            repository,
            disks,
            random,
        };
        assert_clean(&world.verify_in(&world.contents()).expect("verify runs"));
        world
    }

    fn contents(&self) -> Contents {
        Contents::open(&self.repository, Access::Read(Vec::new()), "test").expect("opens")
    }

    fn verify_in(&self, contents: &Contents) -> Result<VerifyReport, VerifyError> {
        verify_in(
            contents,
            &self.repository.snapshots().expect("snapshots are listed"),
        )
    }

    /// Returns bits of an object to flip: all of its head and end, some of each byte in between.
    fn bits(&mut self, name: &Name, len: usize, frame_bits: usize) -> Vec<(usize, u8)> {
        let Name::Pack(pack) = name else {
            return (0..len)
                .flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)))
                .collect();
        };
        let reader = self.contents().footer(*pack).expect("the pack is whole");
        let frames = &reader.footer().frames;
        let footer = frames
            .last()
            .map_or(0, |last| last.offset + u64::from(last.stored_len));
        let footer = usize::try_from(footer).expect("packs are small");
        let ends = (0..PACK_HEAD_LEN).chain(len - PACK_TRAILER_LEN..len);
        let mut bits: Vec<_> = ends
            .flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)))
            .collect();
        let random = &mut self.random;
        bits.extend((footer..len - PACK_TRAILER_LEN).map(|at| (at, 1 << random.u8(..8))));
        for _ in 0..frame_bits {
            bits.push((random.usize(PACK_HEAD_LEN..footer), 1 << random.u8(..8)));
        }
        bits
    }

    /// Restores all snapshots in `contents`: right bytes, or an error.
    fn check_restores(&self, contents: &Contents, context: &str) {
        let list = self.repository.snapshots().expect("snapshots are listed");
        for snapshot in &list.snapshots {
            self.check_restore(contents, snapshot, context);
        }
    }

    fn check_restore(&self, contents: &Contents, snapshot: &Snapshot, context: &str) {
        match restore_in(contents, snapshot) {
            Ok(bytes) => {
                let right = self
                    .disks
                    .get(&snapshot.id.to_hex())
                    .expect("one of the two");
                assert!(bytes == *right, "{context}: other bytes were restored");
            }
            Err(error) => {
                let is_typed = error.is_damage() || chain(&error).contains("Unsupported");
                assert!(is_typed, "{context}: {}", chain(&error));
            }
        }
    }
}

fn every_flip_is_named(passphrase: Option<&'static str>) {
    let mut world = World::new(passphrase);
    let warm = world.contents();
    assert_clean(&world.verify_in(&warm).expect("verify runs"));
    let mut flips = 0;
    for (name, bytes) in world.objects.all() {
        if name == Name::Config {
            continue;
        }
        for (at, mask) in world.bits(&name, bytes.len(), 150) {
            world.objects.flip(&name, at, mask);
            let context = format!("{name}, byte {at}, mask {mask:#x}");
            let report = world.verify_in(&warm);
            let report = report.unwrap_or_else(|error| panic!("{context}: {}", chain(&error)));
            let is_named = report
                .faults
                .iter()
                .any(|fault| fault.object == name.path());
            assert!(is_named, "{context}: {:#?}", report.faults);
            // With nothing in memory from before, now and then.
            flips += 1;
            if flips % 40 == 0 {
                let fresh = world.contents();
                let report = world.verify_in(&fresh).expect("verify runs");
                let is_named = report
                    .faults
                    .iter()
                    .any(|fault| fault.object == name.path());
                assert!(is_named, "{context}: {:#?}", report.faults);
            }
            if flips % 20 == 0 {
                world.check_restores(&world.contents(), &context);
            }
            world.objects.flip(&name, at, mask);
        }
    }
    assert_clean(&world.verify_in(&warm).expect("verify runs"));
}

#[test]
fn every_flipped_bit_is_named() {
    every_flip_is_named(None);
}

#[test]
fn every_flipped_bit_of_an_encrypted_repository_is_named() {
    every_flip_is_named(Some("correct horse"));
}

fn every_flip_of_config_is_refused(passphrase: Option<&'static str>) {
    let mut world = World::new(passphrase);
    let keys = Arc::clone(world.repository.keys());
    let bytes = world
        .objects
        .all()
        .remove(&Name::Config)
        .expect("it is there");
    let mut opened = 0;
    for (at, mask) in world.bits(&Name::Config, bytes.len(), 0) {
        let mut flipped = bytes.clone();
        flipped[at] ^= mask;
        let config = Config::decode(&flipped);
        let verified = Config::verify(&flipped, |bytes| keys.config_mac(bytes));
        let context = format!("byte {at}, mask {mask:#x}");
        assert!(config.is_err() || verified.is_err(), "{context}: accepted");
        // To open it takes a derivation of keys, which is slow on purpose, and may be slower still
        // with other parameters.
        let is_cheap = passphrase.is_none() || config.is_err();
        if !is_cheap && (opened > 12 || !world.random.u8(..).is_multiple_of(16)) {
            continue;
        }
        opened += usize::from(!is_cheap);
        world.objects.set(Name::Config, Some(flipped));
        let (storage, text) = (world.objects.clone(), passphrase.unwrap_or_default());
        let options = world._folder.options();
        let refused = Repository::open(storage, &options, passphrase.is_some(), || {
            Ok::<_, RepositoryError>(Passphrase::new(text.into()))
        });
        assert!(refused.is_err(), "{context}: opened");
        world.objects.set(Name::Config, Some(bytes.clone()));
    }
}

#[test]
fn every_flipped_bit_of_the_config_is_refused() {
    every_flip_of_config_is_refused(None);
}

#[test]
fn every_flipped_bit_of_the_config_of_an_encrypted_repository_is_refused() {
    every_flip_of_config_is_refused(Some("correct horse"));
}
