//! The damage of the fixtures: for each kind a folder with the files that differ, and a file
//! `deleted` with the paths of those that are not there.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::crypto::FileSeal;
use cairn_engine::format::pack::{Footer, PackHeader, Trailer};
use cairn_engine::format::{FileKind, Salt};
use cairn_engine::id::{ContentId, PackId};
use cairn_engine::recipe::{Recipe, Shape};
use cairn_engine::repository::{Access, Contents};
use cairn_engine::storage::Name;
use serde_json::{Value, json};

use super::make::Fixture;
use crate::support::snapshot;

/// Writes all damage of a repository. `other` is another repository.
pub fn make(fixture: &Fixture, other: &Fixture, to: &Path) {
    let damages = Damages {
        fixture,
        to: to.join(fixture.name),
    };
    packs(&damages);
    rewritten_packs(&damages);
    manifests(&damages, other);
    notes(&damages);
    configs(&damages);
    keys(&damages);
    sessions_and_plans(&damages);
}

struct Damages<'d> {
    fixture: &'d Fixture,
    to: PathBuf,
}

impl Damages<'_> {
    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.fixture.path.join(path)).expect("it was made")
    }

    fn put(&self, damage: &str, path: &str, bytes: &[u8]) {
        let path = self.to.join(damage).join(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be made");
        fs::write(path, bytes).expect("there is space");
    }

    fn flip(&self, damage: &str, path: &str, at: impl FnOnce(usize) -> usize) {
        let mut bytes = self.read(path);
        let at = at(bytes.len());
        bytes[at] ^= 1;
        self.put(damage, path, &bytes);
    }

    fn cut(&self, damage: &str, path: &str, len: impl FnOnce(usize) -> usize) {
        let bytes = self.read(path);
        self.put(damage, path, &bytes[..len(bytes.len())]);
    }

    fn swap(&self, damage: &str, [one, two]: [&str; 2]) {
        self.put(damage, one, &self.read(two));
        self.put(damage, two, &self.read(one));
    }

    fn delete(&self, damage: &str, path: &str) {
        self.put(damage, "deleted", format!("{path}\n").as_bytes());
    }

    /// Puts other bytes in the place of an object, under their own name.
    fn replace(&self, damage: &str, path: &str, bytes: &[u8]) {
        self.delete(damage, path);
        let name = blake3::hash(bytes).to_string();
        let folder = match path.starts_with("packs/") {
            true => format!("packs/{}", &name[..2]),
            false => path.rsplit_once('/').expect("a path").0.to_owned(),
        };
        self.put(damage, &format!("{folder}/{name}"), bytes);
    }

    fn pack_with(&self, id: ContentId) -> String {
        let repository = &self.fixture.repository;
        let contents = Contents::open(repository, Access::Read(Vec::new()), "test");
        let contents = contents.expect("opens");
        let holds = |pack: &&PackId| {
            let footer = contents.footer(**pack).expect("it is whole");
            footer.footer().entries.iter().any(|entry| entry.id == id)
        };
        let packs = contents.packs();
        Name::Pack(*packs.iter().find(holds).expect("it is stored")).path()
    }

    /// Returns the pack with the first chunk of a disk.
    fn data(&self, number: usize, target: &str) -> String {
        let repository = &self.fixture.repository;
        let contents = Contents::open(repository, Access::Read(Vec::new()), "test");
        let contents = contents.expect("opens");
        let snapshot = snapshot(repository, self.fixture.snapshots[number]);
        let disk = snapshot.disk(target).expect("it was backed up");
        let window_len = repository.chunker().window_len();
        let shape = Shape::new(disk.size, window_len).expect("it was made");
        let mut chunks = Recipe::new(&contents, shape, disk.recipe).chunks_in(0..disk.size);
        let chunk = chunks.next().expect("it has data").expect("it is whole");
        self.pack_with(chunk.id.into())
    }

    /// Returns the pack with the root of a disk.
    fn nodes(&self, number: usize, target: &str) -> String {
        let snapshot = snapshot(&self.fixture.repository, self.fixture.snapshots[number]);
        let disk = snapshot.disk(target).expect("it was backed up");
        self.pack_with(disk.recipe.into())
    }

    fn manifest(&self, number: usize) -> String {
        Name::Snapshot(self.fixture.snapshots[number]).path()
    }

    /// Returns the note of a snapshot that says so.
    fn note(&self, number: usize, kind: &str) -> String {
        let snapshot = self.fixture.snapshots[number];
        let folder = format!("notes/{snapshot}");
        let mut notes = fs::read_dir(self.fixture.path.join(&folder)).expect("it has notes");
        let is_it = |path: &String| self.document(FileKind::Note, path)["kind"] == kind;
        let paths = notes.by_ref().flatten().map(|entry| {
            let name = entry.file_name();
            format!("{folder}/{}", name.to_str().expect("an id"))
        });
        let mut paths = paths.filter(is_it);
        paths.next().expect("it was added")
    }

    fn document(&self, kind: FileKind, path: &str) -> Value {
        let keys = self.fixture.repository.keys();
        let plain = keys.open_document(kind, self.read(path));
        serde_json::from_slice(&plain.expect("it opens")).expect("it is JSON")
    }

    fn sealed(&self, kind: FileKind, document: &Value) -> Vec<u8> {
        let keys = self.fixture.repository.keys();
        keys.seal_document(kind, document.to_string().into())
    }

    /// Returns `config` with a member changed, under a MAC that holds.
    fn config(&self, member: &str, value: Value) -> Vec<u8> {
        let mut config: Value = serde_json::from_slice(&self.read("config")).expect("it is JSON");
        config[member] = value;
        config["mac"] = "0".repeat(64).into();
        let mac = self
            .fixture
            .repository
            .keys()
            .config_mac(config.to_string().as_bytes());
        config["mac"] = hex::encode(mac).into();
        config.to_string().into()
    }

    /// Returns a pack with a byte of its header, or of its footer before sealing, changed, and all
    /// that covers it as it must be.
    fn rewritten(&self, path: &str, byte: Byte) -> Vec<u8> {
        let keys = self.fixture.repository.keys();
        let mut bytes = self.read(path);
        let header: [u8; PackHeader::LEN] = bytes[..PackHeader::LEN].try_into().expect("a header");
        let parsed = PackHeader::decode(&header, keys.is_sealed()).expect("a header");
        let trailer = Trailer::decode(&bytes[bytes.len() - Trailer::LEN..]).expect("a trailer");
        let range = trailer.footer_range(bytes.len() as u64).expect("a footer");
        let (start, end) = (range.start as usize, range.end as usize);
        let kind = parsed.kind.file_kind();
        let old = keys.file(kind, &parsed.salt);
        let footer = old.open(FileSeal::FOOTER, &mut bytes[start..end]);
        let mut footer = footer.expect("it opens").to_vec();
        let frames_len = (start - PackHeader::LEN) as u64;
        let frames = Footer::decode(&parsed, frames_len, &footer).expect("a footer");

        let salt = Salt::draw();
        let mut header = PackHeader { salt, ..parsed }.encode();
        match byte {
            Byte::Header(at, value) => header[at] = value,
            Byte::Footer(at, value) => footer[at] = value,
        }
        let (new, mut pack) = (keys.file(kind, &salt), header.to_vec());
        for (number, frame) in (0_u64..).zip(&frames.frames) {
            let at = frame.offset as usize;
            let stored = &mut bytes[at..at + frame.stored_len as usize];
            let mut frame = old.open(number, stored).expect("it opens").to_vec();
            new.seal(number, &mut frame);
            pack.extend(frame);
        }
        new.seal(FileSeal::FOOTER, &mut footer);
        pack.extend_from_slice(&footer);
        pack.extend(Trailer::new(&header, &footer).encode());
        pack
    }
}

/// A byte by its place, and what is put there.
enum Byte {
    Header(usize, u8),
    Footer(usize, u8),
}

fn packs(damages: &Damages<'_>) {
    let (data, nodes) = (&damages.data(0, "vda"), &damages.nodes(1, "vda"));
    let noise = &damages.data(0, "vdb");
    damages.flip("pack-frame-bit", data, |_| 60);
    damages.flip("pack-uncompressed-frame-bit", noise, |len| len / 2);
    damages.flip("pack-magic-bit", data, |_| 0);
    damages.flip("pack-version-bit", data, |_| 8);
    damages.flip("pack-salt-bit", data, |_| 20);
    damages.flip("pack-footer-bit", data, |len| len - Trailer::LEN - 1);
    damages.flip("pack-trailer-bit", data, |len| len - 20);
    damages.cut("pack-truncated", data, |len| len / 2);
    damages.cut("pack-emptied", data, |_| 0);
    damages.delete("pack-deleted", data);
    damages.swap("packs-swapped", [data, noise]);
    damages.flip("nodes-frame-bit", nodes, |_| 60);
    damages.cut("nodes-truncated", nodes, |len| len - 1);
    damages.delete("nodes-deleted", nodes);
    damages.swap("pack-and-nodes-swapped", [data, nodes]);
}

fn rewritten_packs(damages: &Damages<'_>) {
    let data = &damages.data(0, "vda");
    for (damage, byte) in [
        ("newer-pack", Byte::Header(8, 2)),
        ("unknown-pack-kind", Byte::Header(10, 9)),
        ("unknown-pack-flag", Byte::Header(11, 2)),
        ("pack-of-other-kind", Byte::Header(10, 2)),
        // Of the first frame's row.
        ("reserved-codec", Byte::Footer(18, 2)),
        ("unknown-codec", Byte::Footer(18, 9)),
    ] {
        let pack = damages.rewritten(data, byte);
        damages.replace(damage, data, &pack);
    }
}

fn manifests(damages: &Damages<'_>, other: &Fixture) {
    let [first, second] = &[0, 1].map(|number| damages.manifest(number));
    damages.flip("manifest-bit", second, |len| len / 2);
    damages.cut("manifest-truncated", second, |len| len - 10);
    damages.cut("manifest-emptied", second, |_| 0);
    damages.delete("manifest-deleted", second);
    damages.swap("manifests-swapped", [first, second]);
    let foreign = other.path.join(Name::Snapshot(other.snapshots[1]).path());
    let foreign = fs::read(foreign).expect("it was made");
    damages.replace("manifest-of-another-repository", second, &foreign);
    let mut newer = damages.document(FileKind::Manifest, second);
    newer["version"] = 2.into();
    let newer = damages.sealed(FileKind::Manifest, &newer);
    damages.replace("newer-manifest", second, &newer);
}

fn notes(damages: &Damages<'_>) {
    let forgotten = &damages.note(2, "forgotten");
    damages.flip("note-bit", forgotten, |len| len / 2);
    damages.cut("note-truncated", forgotten, |len| len / 2);
    damages.delete("note-deleted", forgotten);
    let (_, name) = forgotten.rsplit_once('/').expect("a path");
    let replayed = format!("notes/{}/{name}", damages.fixture.snapshots[0]);
    damages.put(
        "note-of-another-snapshot",
        &replayed,
        &damages.read(forgotten),
    );
    let mut newer = damages.document(FileKind::Note, forgotten);
    newer["version"] = 2.into();
    let newer = damages.sealed(FileKind::Note, &newer);
    damages.replace("newer-note", forgotten, &newer);
}

fn configs(damages: &Damages<'_>) {
    damages.flip("config-bit", "config", |len| len / 2);
    damages.cut("config-truncated", "config", |len| len / 2);
    damages.cut("config-emptied", "config", |_| 0);
    damages.delete("config-deleted", "config");
    let config = String::from_utf8(damages.read("config")).expect("it is text");
    let larger = config.replace("\"frame_len\":16384", "\"frame_len\":32768");
    assert_ne!(larger, config);
    damages.put("config-forged", "config", larger.as_bytes());
    for (damage, member, value) in [
        ("newer-format", "format", json!(2)),
        (
            "unknown-incompatible-flag",
            "incompatible",
            json!(["teleport"]),
        ),
        ("unknown-compatible-flag", "compatible", json!(["teleport"])),
        ("unknown-member", "later", json!({"a": 1})),
        ("unknown-compression", "compression", json!({"codec": "x"})),
        (
            "unknown-chunker",
            "chunker",
            json!({"algorithm": "x", "normalization": 2, "average": 4096}),
        ),
        ("encryption-switched-off", "encryption", Value::Null),
    ] {
        let is_encrypted = damages.fixture.repository.keys().is_sealed();
        if is_encrypted || damage != "encryption-switched-off" {
            damages.put(damage, "config", &damages.config(member, value));
        }
    }
}

fn keys(damages: &Damages<'_>) {
    let folder = damages.fixture.path.join("keys");
    for slot in fs::read_dir(folder).expect("it is there").flatten() {
        let name = slot.file_name();
        let slot = &format!("keys/{}", name.to_str().expect("an id"));
        damages.flip("key-slot-bit", slot, |len| len / 2);
        damages.cut("key-slot-truncated", slot, |len| len / 2);
        damages.delete("key-slot-deleted", slot);
        let mut document: Value = serde_json::from_slice(&damages.read(slot)).expect("JSON");
        document["version"] = 2.into();
        damages.replace("newer-key-slot", slot, document.to_string().as_bytes());
        document["version"] = 1.into();
        document["kind"] = "token".into();
        let other = document.to_string();
        let name = blake3::hash(other.as_bytes()).to_string();
        damages.put(
            "key-slot-of-unknown-kind",
            &format!("keys/{name}"),
            other.as_bytes(),
        );
    }
}

fn sessions_and_plans(damages: &Damages<'_>) {
    damages.put("plan-unreadable", "gc/plan", b"no plan");
    let plan = damages.sealed(FileKind::GcPlan, &json!({"version": 2}));
    damages.put("newer-plan", "gc/plan", &plan);
    let session = format!("locks/{}", "5a".repeat(16));
    damages.put("session-unreadable", &session, b"no session");
    damages.put("another-file", "packs/00/notes.txt", b"no pack");
}
