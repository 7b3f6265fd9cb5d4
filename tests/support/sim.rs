//! Repositories over a simulated disk. Their indexes lie in real folders.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cairn_engine::chunker::ChunkerSettings;
use cairn_engine::compress::Compression;
use cairn_engine::repository::{InitOptions, OpenOptions, Repository, RepositoryError, Snapshot};
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{Folder, SharedStorage};

use tempfile::TempDir;

use super::memory::{restore_fresh, verify_fresh};

/// Settings under which even a small disk makes many chunks, frames and packs.
pub fn small_settings() -> InitOptions {
    InitOptions {
        chunker: ChunkerSettings::new(4096).expect("a power of two"),
        compression: Compression::Zstd { level: 1 },
        frame_len: 16 * 1024,
        pack_len: 64 * 1024,
        grace_seconds: None,
        parity_percent: None,
    }
}

/// Returns the options of a repository whose index lies in `cache`.
pub fn options(cache: &Path) -> OpenOptions {
    OpenOptions {
        local: None,
        cache: cache.to_owned(),
    }
}

/// Returns an empty folder in memory, where the system has one: an index that thousands of power
/// cuts leave behind is not worth a disk's time.
pub fn scratch() -> TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary folder can be made")
}

/// Copies a folder with all that is in it.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let copy = to.join(path.file_name().expect("entries have names"));
        match path.is_dir() {
            true => copy_tree(&path, &copy),
            false => drop(fs::copy(&path, &copy).expect("the file can be copied")),
        }
    }
}

/// Makes a repository on an empty disk.
pub fn init_on(disk: &SimFs, cache: &Path) -> Result<Arc<Repository>, RepositoryError> {
    init_with_parity(disk, cache, None)
}

/// Makes a repository on an empty disk, with so many percent of parity.
pub fn init_with_parity(
    disk: &SimFs,
    cache: &Path,
    parity_percent: Option<u8>,
) -> Result<Arc<Repository>, RepositoryError> {
    let storage: SharedStorage = Arc::new(Folder::create(disk.clone())?);
    let settings = InitOptions {
        parity_percent,
        ..small_settings()
    };
    Repository::init(storage, &settings, None, &options(cache))
}

/// Opens the repository on a disk.
pub fn open_on(disk: &SimFs, cache: &Path) -> Result<Arc<Repository>, RepositoryError> {
    let storage: SharedStorage = Arc::new(Folder::open(disk.clone())?);
    let no_passphrase = || Err(RepositoryError::WrongPassphrase);
    Repository::open(storage, &options(cache), false, no_passphrase)
}

/// Returns what is wrong with a repository whose listed snapshots must all be among those that
/// `bytes_of` knows, and be whole.
pub fn faults(
    repository: &Arc<Repository>,
    bytes_of: impl Fn(&Snapshot) -> Option<Vec<u8>>,
) -> Vec<String> {
    let list = match repository.snapshots() {
        Ok(list) => list,
        Err(error) => return vec![format!("snapshots cannot be listed: {}", chain(&error))],
    };
    let unreadable = list.unreadable.iter().map(|snapshot| {
        format!(
            "snapshot {} cannot be read: {}",
            snapshot.id,
            chain(&snapshot.error)
        )
    });
    let mut faults: Vec<String> = unreadable.collect();
    for snapshot in &list.snapshots {
        match (restore_fresh(repository, snapshot), bytes_of(snapshot)) {
            (Ok(bytes), Some(expected)) if bytes == expected => {}
            (Ok(_), Some(_)) => faults.push(format!("snapshot {} has other bytes", snapshot.id)),
            (Ok(_), None) => faults.push(format!("nobody made snapshot {}", snapshot.id)),
            (Err(error), _) => {
                faults.push(format!(
                    "{} does not restore: {}",
                    snapshot.id,
                    chain(&error)
                ));
            }
        }
    }
    match verify_fresh(repository) {
        Ok(report) => faults.extend(report.faults.iter().map(|fault| format!("{fault:?}"))),
        Err(error) => faults.push(format!("verify fails: {}", chain(&error))),
    }
    faults
}

/// Returns an error with all its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = format!("{error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
