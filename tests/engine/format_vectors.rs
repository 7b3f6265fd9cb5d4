//! The golden vectors of `tests/vectors/`: bytes that other implementations made, with what the
//! reader must make of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cairn_engine::compress::Decompressor;
use cairn_engine::crypto::{FileSeal, Keys, MasterKey, Passphrase, unlock};
use cairn_engine::format::config::{Config, EncryptionConfig};
use cairn_engine::format::keys::KeySlot;
use cairn_engine::format::manifest::Manifest;
use cairn_engine::format::note::{Fact, Note};
use cairn_engine::format::pack::{Footer, PackHeader, PackKind, Trailer};
use cairn_engine::format::parity::{ParityDirectory, ParityLayout};
use cairn_engine::format::recipe::Node;
use cairn_engine::format::{FileKind, FormatError, Salt};
use cairn_engine::id::{ContentId, PackId, RepositoryId};
use cairn_engine::pack::{PackError, make_parity};
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{Folder, Name, SharedStorage};

struct Vector {
    fields: BTreeMap<String, String>,
    bytes: Vec<u8>,
}

impl Vector {
    fn parse(text: &str) -> Self {
        let (head, digits) = text
            .split_once("\n\n")
            .expect("an empty line ends the fields");
        let fields = head.lines().map(|line| {
            let (key, value) = line.split_once(": ").expect("a field is `key: value`");
            (key.to_owned(), value.to_owned())
        });
        let digits: String = digits.split_whitespace().collect();
        Self {
            fields: fields.collect(),
            bytes: hex::decode(digits).expect("the rest is hexadecimal digits"),
        }
    }

    fn field(&self, key: &str) -> &str {
        self.fields
            .get(key)
            .unwrap_or_else(|| panic!("no field `{key}`"))
    }

    fn number<T: std::str::FromStr<Err: Debug>>(&self, key: &str) -> T {
        self.field(key).parse().expect("the field is a number")
    }

    fn hex(&self, key: &str) -> Vec<u8> {
        hex::decode(self.field(key)).expect("the field is hexadecimal")
    }

    fn array<const N: usize>(&self, key: &str) -> [u8; N] {
        self.hex(key).try_into().expect("the field has this length")
    }

    /// Returns the keys of the repository that all vectors belong to.
    fn keys(&self) -> Keys {
        match self.field("master") {
            "" => Keys::plain(repository()),
            _ => Keys::sealed(repository(), &MasterKey::from_bytes(self.array("master"))),
        }
    }
}

fn repository() -> RepositoryId {
    RepositoryId::from_bytes(std::array::from_fn(|at| 0x20 + at as u8))
}

fn master() -> MasterKey {
    MasterKey::from_bytes(std::array::from_fn(|at| at as u8))
}

/// Returns the name of an error's variant.
fn name(error: impl Debug) -> String {
    let text = format!("{error:?}");
    let end = text.find([' ', '(', '{']).unwrap_or(text.len());
    text[..end].to_owned()
}

/// Runs `check` on every vector of a folder.
fn run(folder: &str, at_least: usize, check: impl Fn(&Vector) -> Result<(), String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors")
        .join(folder);
    let entries = fs::read_dir(&root).expect("the folder of vectors is there");
    let mut cases = 0;
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        let vector = Vector::parse(&fs::read_to_string(&path).expect("a vector is text"));
        let found = check(&vector).err().unwrap_or_else(|| "ok".to_owned());
        assert_eq!(found, vector.field("expect"), "{}", path.display());
        cases += 1;
    }
    assert!(cases >= at_least, "only {cases} cases in {folder}");
}

#[test]
fn parity() {
    run("parity", 20, |vector| {
        let pack = PackId::from_bytes(vector.array("pack"));
        let directory = ParityDirectory::decode(&vector.bytes, pack).map_err(name)?;
        assert_eq!(directory.encode(), vector.bytes);
        let layout = ParityLayout::new(vector.number("length"), vector.number("percent"));
        let layout = layout.expect("within limits");
        assert_eq!(directory.head.layout, layout);
        let len = usize::try_from(layout.pack_len()).expect("a small pack");
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"pack").finalize_xof().fill(&mut bytes);
        let file = parity_of(pack, &bytes, layout).expect("the disk does not fail");
        assert_eq!(file.len() as u64, layout.file_len());
        assert_eq!(blake3::hash(&file).as_bytes(), &vector.array("file"));
        Ok(())
    });
}

/// Returns the parity file of a pack with these bytes.
fn parity_of(pack: PackId, bytes: &[u8], layout: ParityLayout) -> Result<Vec<u8>, PackError> {
    let storage: SharedStorage = Arc::new(Folder::create(SimFs::new(1))?);
    let session = storage.open_session(b"{}")?;
    let mut upload = storage.upload(session.id())?;
    upload.write(bytes)?;
    upload.finish(&Name::Pack(pack))?;
    make_parity(&storage, session.id(), pack, layout)?;
    Ok(storage.read(&Name::Parity(pack), 1 << 30)?)
}

#[test]
fn packs() {
    run("pack", 30, |vector| {
        let id = blake3::hash(&vector.bytes);
        assert_eq!(id.as_bytes(), &vector.array("id"));
        let keys = match vector.field("repository") {
            "plain" => Keys::plain(repository()),
            _ => Keys::sealed(repository(), &master()),
        };
        read_pack(&vector.bytes, &keys).map_err(name)
    });
}

/// Reads all of a pack, down to the ids of what it holds.
fn read_pack(pack: &[u8], keys: &Keys) -> Result<(), FormatError> {
    let head = pack.first_chunk().ok_or(FormatError::Truncated {
        what: "pack",
        needed: PackHeader::LEN as u64,
        had: pack.len() as u64,
    })?;
    let header = PackHeader::decode(head, keys.is_sealed())?;
    let trailer = Trailer::decode(&pack[pack.len() - Trailer::LEN..])?;
    let range = trailer.footer_range(pack.len() as u64)?;
    let mut stored = pack[range.start as usize..range.end as usize].to_vec();
    trailer.check(head, &stored)?;
    let seal = keys.file(header.kind.file_kind(), &header.salt);
    let plain = seal.open(FileSeal::FOOTER, &mut stored)?;
    let footer = Footer::decode(&header, range.start - PackHeader::LEN as u64, plain)?;
    assert_eq!(footer.encode(&header)?, plain);

    let mut decompressor = Decompressor::new();
    for (ordinal, frame) in footer.frames.iter().enumerate() {
        let start = frame.offset as usize;
        let mut stored = pack[start..start + frame.stored_len as usize].to_vec();
        let coded = seal.open(ordinal as u64, &mut stored)?;
        let mut plain = Vec::new();
        decompressor.decompress(frame.codec, coded, frame.plain_len, &mut plain)?;
        let mut rest = &plain[..];
        for entry in footer.frame_entries(frame) {
            let (content, after) = rest.split_at(entry.len as usize);
            rest = after;
            let id: ContentId = match header.kind {
                PackKind::Data => keys.chunk_id(content).into(),
                PackKind::Nodes => keys.node_id(content).into(),
            };
            if id != entry.id {
                return Err(FormatError::ChecksumMismatch { what: "chunk" });
            }
        }
    }
    Ok(())
}

#[test]
fn recipes() {
    run("recipe", 20, |vector| {
        let window = vector.number("window");
        let node = Node::decode(&vector.bytes, window).map_err(name)?;
        assert_eq!(node.encode(window).as_ref(), Ok(&vector.bytes));
        let id = Keys::plain(repository()).node_id(&vector.bytes);
        assert_eq!(id.to_hex(), vector.field("node_id"));
        Ok(())
    });
}

#[test]
fn manifests() {
    run("manifest", 27, |vector| {
        let manifest = Manifest::decode(&vector.bytes).map_err(name)?;
        assert_eq!(manifest.vm, vector.field("vm"));
        let targets: Vec<_> = manifest.disks.iter().map(|disk| &*disk.target).collect();
        assert_eq!(targets.join(","), vector.field("targets"));
        let files: Vec<_> = manifest.files.iter().map(|file| &*file.name).collect();
        let wanted = vector.fields.get("files").map_or("", String::as_str);
        assert_eq!(files.join(","), wanted);
        // Nothing is lost on the way, known or unknown.
        let encoded = manifest.encode().map_err(name)?;
        let before: serde_json::Value = serde_json::from_slice(&vector.bytes).map_err(name)?;
        let after: serde_json::Value = serde_json::from_slice(&encoded).map_err(name)?;
        assert_eq!(before, after);
        Ok(())
    });
}

#[test]
fn notes() {
    run("note", 15, |vector| {
        let note = Note::decode(&vector.bytes).map_err(name)?;
        let (kind, what) = match &note.fact {
            Fact::Forgotten => ("forgotten", ""),
            Fact::Pinned { what } => ("pinned", &**what),
            Fact::Verified { what } => ("verified", &**what),
            Fact::Proved { what } => ("proved", &**what),
            Fact::Disproved { what } => ("disproved", &**what),
            Fact::Mistrusted { what } => ("mistrusted", &**what),
            Fact::Other { kind } => (&**kind, "tape"),
            other => return Err(name(other)),
        };
        assert_eq!((kind, what), (vector.field("kind"), vector.field("what")));
        // Nothing is lost on the way, known or unknown.
        let encoded = note.encode().map_err(name)?;
        let before: serde_json::Value = serde_json::from_slice(&vector.bytes).map_err(name)?;
        let after: serde_json::Value = serde_json::from_slice(&encoded).map_err(name)?;
        assert_eq!(before, after);
        Ok(())
    });
}

#[test]
fn configs() {
    run("config", 12, |vector| {
        let config = Config::decode(&vector.bytes).map_err(name)?;
        let keys = vector.keys();
        Config::verify(&vector.bytes, |bytes| keys.config_mac(bytes)).map_err(name)?;
        assert_eq!(config.repository_id, repository());
        assert_eq!(config.encryption.is_some(), keys.is_sealed());
        Ok(())
    });
}

#[test]
fn key_slots() {
    run("keys", 6, |vector| {
        let slot = KeySlot::decode(&vector.bytes).map_err(name)?;
        let config = EncryptionConfig {
            memory_kib: vector.number("memory_kib"),
            passes: vector.number("passes"),
            lanes: vector.number("lanes"),
            salt: Salt::from_bytes(vector.array("salt")),
        };
        let passphrase = Passphrase::new(vector.field("passphrase").as_bytes().to_vec());
        let (_, found) = unlock(&[slot], &passphrase, repository(), &config).map_err(name)?;
        // The key itself is not to be had; what it derives is.
        let ids = |master: &MasterKey| Keys::sealed(repository(), master).chunk_id(b"");
        assert_eq!(
            ids(&found),
            ids(&MasterKey::from_bytes(vector.array("master")))
        );
        Ok(())
    });
}

#[test]
fn derived_keys() {
    run("derived", 2, |vector| {
        let keys = vector.keys();
        let bytes = &vector.bytes;
        assert_eq!(keys.chunk_id(bytes).to_hex(), vector.field("chunk_id"));
        assert_eq!(keys.node_id(bytes).to_hex(), vector.field("node_id"));
        assert_eq!(keys.config_mac(bytes), vector.array("config_mac"));
        if let Some(gear) = keys.gear() {
            let table: Vec<u8> = gear.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(table, vector.hex("gear"));
        }
        assert_eq!(keys.gear().is_some(), keys.is_sealed());
        Ok(())
    });
}

#[test]
fn sealed_documents() {
    run("sealed", 15, |vector| {
        let kind = match vector.field("kind") {
            "3" => FileKind::Manifest,
            "4" => FileKind::Note,
            "5" => FileKind::GcPlan,
            other => panic!("no document has kind {other}"),
        };
        let keys = Keys::sealed(repository(), &master());
        let opened = keys
            .open_document(kind, vector.bytes.clone())
            .map_err(name)?;
        assert_eq!(opened, vector.hex("plain"));
        Ok(())
    });
}
