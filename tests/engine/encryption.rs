//! What an encrypted repository's files tell: nothing of the disks.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::format::config::Config;
use cairn_engine::id::ChunkId;
use cairn_engine::recipe::{Recipe, Shape};
use cairn_engine::repository::{Access, Contents, RepositoryError};
use cairn_engine::storage::Name;

use crate::support::memory::{restore_fresh, verify_fresh};
use crate::support::sim::small_settings;
use crate::support::{
    MemorySource, TestRepository, assert_clean, open_at, random_disk, seed, snapshot,
};

/// Length of the pieces of the disk that are looked for.
const WINDOW: usize = 16;

fn stored_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        match path.is_dir() {
            true => found.extend(stored_files(&path)),
            false => found.push((path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found
}

/// A disk that holds text, noise, and what does not compress.
fn disk(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = random_disk(random, 2_000_000);
    bytes[..300_000].fill_with(|| random.u8(..));
    let text = b"the quick brown fox jumps over the lazy dog; ".repeat(3000);
    bytes[400_000..400_000 + text.len()].copy_from_slice(&text);
    bytes
}

fn repository(passphrase: Option<&'static str>, bytes: &[u8]) -> (TestRepository, Vec<Vec<u8>>) {
    let repository = TestRepository::with(passphrase, |settings| *settings = small_settings());
    let done = repository
        .backup(MemorySource::new(bytes.to_vec()), None)
        .expect("backs up");
    let opened = repository.open();
    let contents = Contents::open(&opened, Access::Read(Vec::new()), "test").expect("opens");
    let taken = snapshot(&opened, done.snapshot);
    let record = taken.disk("vda").expect("the disk was backed up");
    let shape = Shape::new(record.size, opened.chunker().window_len()).expect("it was made");
    let recipe = Recipe::new(&contents, shape, record.recipe);
    let chunks: Vec<_> = recipe
        .chunks_in(0..record.size)
        .collect::<Result<_, _>>()
        .expect("the recipe is whole");
    let mut needles = Vec::new();
    let plain = open_plain_keys(&opened);
    for chunk in &chunks {
        let range = chunk.offset as usize..chunk.end() as usize;
        let of_bytes = blake3::hash(&bytes[range.clone()]);
        needles.push(of_bytes.as_bytes().to_vec());
        needles.push(of_bytes.to_hex().as_bytes().to_vec());
        let keyless: ChunkId = plain.chunk_id(&bytes[range]);
        needles.push(keyless.as_bytes().to_vec());
        needles.push(chunk.id.as_bytes().to_vec());
        needles.push(chunk.id.to_hex().into_bytes());
    }
    // Lengths of three chunks in a row, as recipes and footers have them.
    for three in chunks.windows(3) {
        let lens = three.iter().flat_map(|chunk| chunk.len.to_le_bytes());
        needles.push(lens.collect());
        let rows = three[..2].iter().flat_map(|chunk| {
            let len = chunk.len.to_le_bytes();
            chunk
                .id
                .as_bytes()
                .iter()
                .copied()
                .chain(len)
                .collect::<Vec<u8>>()
        });
        needles.push(rows.collect());
    }
    needles.push(record.recipe.as_bytes().to_vec());
    needles.push(record.recipe.to_hex().into_bytes());
    // Quoted as in JSON: three letters alone come up in random bytes by chance.
    needles.push(br#""vda""#.to_vec());
    needles.push(record.size.to_string().into_bytes());
    drop(contents);
    (repository, needles)
}

fn open_plain_keys(
    repository: &cairn_engine::repository::Repository,
) -> cairn_engine::crypto::Keys {
    cairn_engine::crypto::Keys::plain(repository.config().repository_id)
}

/// Returns how many needles, and how many pieces of the disk, stand in the repository's files.
fn told(repository: &TestRepository, bytes: &[u8], needles: &[Vec<u8>]) -> (usize, usize) {
    let mut windows: HashSet<&[u8]> = bytes.chunks_exact(WINDOW).collect();
    windows.retain(|window| window.iter().any(|byte| *byte != window[0]));
    let mut by_start: HashMap<[u8; 3], Vec<&Vec<u8>>> = HashMap::new();
    for needle in needles {
        by_start
            .entry([needle[0], needle[1], needle[2]])
            .or_default()
            .push(needle);
    }
    let mut found = (HashSet::new(), 0);
    for (path, stored) in stored_files(&repository.path()) {
        let name = path.to_string_lossy().into_owned();
        for at in 0..stored.len().saturating_sub(3) {
            let rest = &stored[at..];
            let candidates = by_start
                .get(&[rest[0], rest[1], rest[2]])
                .into_iter()
                .flatten();
            found
                .0
                .extend(candidates.filter(|needle| rest.starts_with(needle)));
            found.1 += usize::from(rest.len() >= WINDOW && windows.contains(&rest[..WINDOW]));
        }
        let hex = |needle: &&Vec<u8>| needle.is_ascii() && needle.len() == 64;
        let in_name = needles.iter().filter(hex).filter(|needle| {
            name.contains(std::str::from_utf8(needle).expect("hex digits are text"))
        });
        found.0.extend(in_name);
    }
    (found.0.len(), found.1)
}

#[test]
fn the_files_of_an_encrypted_repository_tell_nothing_of_its_disks() {
    let mut random = fastrand::Rng::with_seed(seed());
    let bytes = disk(&mut random);
    // The search itself finds what there is to find.
    let (plain, needles) = repository(None, &bytes);
    let (ids, pieces) = told(&plain, &bytes, &needles);
    assert!(ids > 100 && pieces > 1000, "{ids}, {pieces}");
    let (encrypted, needles) = repository(Some("correct horse"), &bytes);
    assert_eq!(told(&encrypted, &bytes, &needles), (0, 0));
    assert!(
        !encrypted.path().join("index").exists(),
        "the index holds ids"
    );
}

#[test]
fn equal_disks_have_other_ids_cuts_and_names_in_every_encrypted_repository() {
    let mut random = fastrand::Rng::with_seed(seed());
    let bytes = disk(&mut random);
    let made = [0, 1].map(|_| repository(Some("correct horse"), &bytes));
    let packs = made.each_ref().map(|(repository, _)| {
        let names = stored_files(&repository.path().join("packs")).into_iter();
        names
            .map(|(path, _)| path.file_name().map(ToOwned::to_owned))
            .collect::<HashSet<_>>()
    });
    assert!(packs[0].is_disjoint(&packs[1]));
    // Chunk ids, and where they are cut: of all hashes of chunks, hardly one is in both.
    let both = made.each_ref().map(|(_, needles)| {
        let hashes = needles
            .iter()
            .filter(|needle| needle.len() == blake3::OUT_LEN);
        hashes.collect::<HashSet<_>>()
    });
    let common = both[0].intersection(&both[1]).count();
    assert!(common * 10 < both[0].len(), "{common} of {}", both[0].len());
}

#[test]
fn every_file_has_its_own_salt_and_its_name_checks_without_a_key() {
    let mut random = fastrand::Rng::with_seed(seed());
    let bytes = disk(&mut random);
    let (repository, _) = repository(Some("correct horse"), &bytes);
    repository
        .backup(MemorySource::new(bytes), None)
        .expect("backs up");
    let mut salts = HashSet::new();
    let mut files = 0;
    for (path, stored) in stored_files(&repository.path()) {
        let relative = path.strip_prefix(repository.path()).expect("it is below");
        if relative.ends_with("gc/reserve") {
            continue;
        }
        let name = Name::from_path(&relative.to_string_lossy()).expect("only objects are left");
        if name == Name::Config {
            continue;
        }
        let hash = blake3::hash(&stored).to_hex();
        assert!(
            relative.to_string_lossy().ends_with(hash.as_str()),
            "{name}"
        );
        if matches!(name, Name::Key(_)) {
            continue;
        }
        assert!(
            [&b"CAIRNPAK"[..], b"CAIRNDOC"].contains(&&stored[..8]),
            "{name}"
        );
        assert!(
            salts.insert(stored[16..48].to_vec()),
            "{name}: a salt comes again"
        );
        files += 1;
    }
    assert!(files > 10, "{files}");
}

#[test]
fn encryption_cannot_be_switched_off_unseen() {
    let mut random = fastrand::Rng::with_seed(seed());
    let (encrypted, _) = repository(Some("correct horse"), &disk(&mut random));
    let (plain, _) = repository(None, &disk(&mut random));
    let refused = open_at(&plain.path(), &plain.options(), Some("correct horse"));
    assert!(matches!(refused, Err(RepositoryError::NotEncrypted)));

    let path = encrypted.path().join("config");
    let config = fs::read(&path).expect("readable");
    fs::write(
        &path,
        fs::read(plain.path().join("config")).expect("readable"),
    )
    .expect("writable");
    assert!(matches!(
        encrypted.try_open(),
        Err(RepositoryError::Downgraded { .. })
    ));
    // Who never saw it, and gives a passphrase.
    let mut stranger = encrypted.options();
    stranger.cache.set_extension("another");
    assert!(matches!(
        open_at(&encrypted.path(), &stranger, Some("correct horse")),
        Err(RepositoryError::NotEncrypted)
    ));

    let text = String::from_utf8(config.clone()).expect("JSON is text");
    for (from, to) in [
        ("131072", "131071"),
        ("\"average\":4096", "\"average\":8192"),
    ] {
        let edited = text.replace(from, to);
        if edited == text {
            continue;
        }
        fs::write(&path, edited).expect("writable");
        assert!(
            matches!(encrypted.try_open(), Err(RepositoryError::ConfigForged)),
            "{from}"
        );
    }
    // One who knows how the MAC of plain repositories is made.
    let mut forged = Config::decode(&config).expect("it is whole");
    forged.pack_len *= 2;
    let keys = cairn_engine::crypto::Keys::plain(forged.repository_id);
    let forged = forged
        .encode(|bytes| keys.config_mac(bytes))
        .expect("it keeps the rules");
    fs::write(&path, forged).expect("writable");
    assert!(matches!(
        encrypted.try_open(),
        Err(RepositoryError::ConfigForged)
    ));
    fs::write(&path, config).expect("writable");
    let opened = encrypted.try_open().expect("all is as it was");
    assert_clean(&verify_fresh(&opened).expect("verify runs"));
    let list = opened.snapshots().expect("listed");
    restore_fresh(&opened, &list.snapshots[0]).expect("restores");
}
