//! What tests share: repositories in temporary folders, and disks in memory.

pub mod child;
pub mod computed;
pub mod gc;
pub mod liar;
pub mod memory;
pub mod mounts;
pub mod objects;
pub mod packs;
pub mod sim;
pub mod waiting;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::backup::{BackupDone, BackupError, BackupOptions, BackupRequest, DiskRequest};
use cairn_engine::chunker::ChunkerSettings;
use cairn_engine::compress::Compression;
use cairn_engine::crypto::Passphrase;
use cairn_engine::extent::{Extent, ExtentStatus, push_extent};
use cairn_engine::format::Unknown;
use cairn_engine::format::manifest::SourceRecord;
use cairn_engine::id::SnapshotId;
use cairn_engine::limits::BLOCK_LEN;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{
    Access, Contents, InitOptions, OpenOptions, Repository, RepositoryError, Snapshot,
};
use cairn_engine::restore::{RestoreError, RestoreOptions, restore_disk};
use cairn_engine::source::{Source, SourceError};
use cairn_engine::storage::{Folder, SharedStorage};
use cairn_engine::target::{self, TargetFormat, TargetOptions};
use cairn_engine::verify::{VerifyOptions, VerifyReport, verify};

/// A disk in memory, with what is known of its blocks.
#[derive(Clone)]
pub struct MemorySource {
    pub bytes: Arc<Vec<u8>>,
    /// Blocks that changed since the parent; `None` where nothing is known.
    pub dirty: Option<Vec<bool>>,
    /// Whether clean blocks can be read here.
    pub has_unchanged: bool,
    /// Reads that touch this range fail.
    pub broken: Option<Range<u64>>,
}

impl MemorySource {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Arc::new(bytes),
            dirty: None,
            has_unchanged: true,
            broken: None,
        }
    }

    /// Returns a disk that knows which of its blocks differ from `parent`.
    pub fn changed_since(parent: &[u8], bytes: Vec<u8>, has_unchanged: bool) -> Self {
        let block = BLOCK_LEN as usize;
        let dirty = (0..bytes.len().div_ceil(block)).map(|number| {
            let range = |len: usize| (number * block).min(len)..((number + 1) * block).min(len);
            parent[range(parent.len())] != bytes[range(bytes.len())]
        });
        let dirty = Some(dirty.collect());
        Self {
            dirty,
            has_unchanged,
            ..Self::new(bytes)
        }
    }
}

impl Source for MemorySource {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, SourceError> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let block = at / BLOCK_LEN;
            let end = ((block + 1) * BLOCK_LEN).min(range.end);
            let dirty = self
                .dirty
                .as_ref()
                .is_none_or(|dirty| dirty[block as usize]);
            let zero = self.bytes[at as usize..end as usize]
                .iter()
                .all(|byte| *byte == 0);
            let status = match (dirty, zero) {
                (false, _) => ExtentStatus::Unchanged,
                // Some zeros are told, and some have to be found out.
                (true, true) if block.is_multiple_of(3) => ExtentStatus::Zero,
                (true, _) => ExtentStatus::Data,
            };
            push_extent(&mut extents, at, end - at, status);
            at = end;
        }
        Ok(extents)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let range = offset..offset + buf.len() as u64;
        if let Some(broken) = &self.broken
            && broken.start < range.end
            && range.start < broken.end
        {
            let source = std::io::Error::other("broken on purpose");
            return Err(SourceError::Read {
                path: "memory".into(),
                offset,
                source,
            });
        }
        if !self.has_unchanged
            && let Some(dirty) = &self.dirty
            && (range.start / BLOCK_LEN..range.end.div_ceil(BLOCK_LEN))
                .any(|block| !dirty[block as usize])
        {
            return Err(SourceError::NotHere { offset });
        }
        buf.copy_from_slice(&self.bytes[range.start as usize..range.end as usize]);
        Ok(())
    }

    fn has_unchanged(&self) -> bool {
        self.has_unchanged
    }
}

/// A repository in a temporary folder.
pub struct TestRepository {
    pub folder: tempfile::TempDir,
    pub passphrase: Option<&'static str>,
}

impl TestRepository {
    pub fn new() -> Self {
        Self::with(None, |_| {})
    }

    pub fn encrypted() -> Self {
        Self::with(Some("correct horse"), |_| {})
    }

    pub fn with(passphrase: Option<&'static str>, adjust: impl FnOnce(&mut InitOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut settings = settings();
        adjust(&mut settings);
        let this = Self { folder, passphrase };
        let storage: SharedStorage =
            Arc::new(Folder::create_at(&this.path()).expect("the folder can be laid out"));
        let passphrase = passphrase.map(|text| Passphrase::new(text.into()));
        Repository::init(storage, &settings, passphrase.as_ref(), &this.options())
            .expect("the repository can be made");
        this
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            local: Some(self.path()),
            cache: self.folder.path().join("cache"),
        }
    }

    pub fn open(&self) -> Arc<Repository> {
        self.try_open().expect("the repository can be opened")
    }

    pub fn try_open(&self) -> Result<Arc<Repository>, RepositoryError> {
        open_at(&self.path(), &self.options(), self.passphrase)
    }

    /// Backs one disk up as `vda` of `vm`; against `parent` where the source knows its changes.
    pub fn backup(
        &self,
        source: MemorySource,
        parent: Option<SnapshotId>,
    ) -> Result<BackupDone, BackupError> {
        backup(&self.open(), source, parent, &Cancel::default())
    }

    pub fn restore(&self, snapshot: SnapshotId) -> Result<Vec<u8>, RestoreError> {
        restore(&self.open(), snapshot, self.folder.path())
    }

    pub fn verify(&self) -> VerifyReport {
        verify_all(&self.open())
    }
}

pub fn settings() -> InitOptions {
    InitOptions {
        chunker: ChunkerSettings::new(16 * 1024).expect("a power of two"),
        compression: Compression::Zstd { level: 1 },
        frame_len: 128 * 1024,
        pack_len: 4 << 20,
        grace_seconds: None,
        parity_percent: None,
    }
}

/// Options to open a repository at `path`, with caches beside it.
pub fn options_at(path: &Path) -> OpenOptions {
    OpenOptions {
        local: Some(path.to_owned()),
        cache: path.with_extension("cache"),
    }
}

pub fn open_at(
    path: &Path,
    options: &OpenOptions,
    passphrase: Option<&str>,
) -> Result<Arc<Repository>, RepositoryError> {
    let storage: SharedStorage = Arc::new(Folder::open_at(path)?);
    let given = passphrase.is_some();
    let passphrase = || Ok::<_, RepositoryError>(Passphrase::new(passphrase.unwrap_or("").into()));
    Repository::open(storage, options, given, passphrase)
}

pub fn snapshot(repository: &Repository, id: SnapshotId) -> Snapshot {
    let list = repository.snapshots().expect("snapshots can be listed");
    let found = list
        .snapshots
        .into_iter()
        .find(|snapshot| snapshot.id == id);
    found.expect("the snapshot is listed")
}

pub fn backup(
    repository: &Arc<Repository>,
    source: MemorySource,
    parent: Option<SnapshotId>,
    cancel: &Cancel,
) -> Result<BackupDone, BackupError> {
    let parent = parent.map(|id| snapshot(repository, id));
    backup_against(repository, source, parent, cancel)
}

/// Backs one disk up as `vda` of `vm`, against a snapshot that was read before.
pub fn backup_against(
    repository: &Arc<Repository>,
    source: MemorySource,
    parent: Option<Snapshot>,
    cancel: &Cancel,
) -> Result<BackupDone, BackupError> {
    let changes_only = source.dirty.is_some();
    backup_source(repository, Box::new(source), changes_only, parent, cancel)
}

/// Backs any source up as `vda` of `vm`.
pub fn backup_source(
    repository: &Arc<Repository>,
    source: Box<dyn Source>,
    changes_only: bool,
    parent: Option<Snapshot>,
    cancel: &Cancel,
) -> Result<BackupDone, BackupError> {
    let disk = DiskRequest {
        changes_only,
        ..disk_request("vda", source)
    };
    let progress = Progress::default();
    let options = BackupOptions::new(2, &progress, cancel);
    backup_disks(repository, vec![disk], parent, &options)
}

/// Asks for all of a disk.
pub fn disk_request(target: &str, source: Box<dyn Source>) -> DiskRequest {
    let record = SourceRecord {
        kind: "raw".to_owned(),
        location: "memory".to_owned(),
        bitmap: None,
        unknown: Unknown::new(),
    };
    DiskRequest::new(target.to_owned(), source, record)
}

/// Backs disks up as those of `vm`.
pub fn backup_disks(
    repository: &Arc<Repository>,
    disks: Vec<DiskRequest>,
    parent: Option<Snapshot>,
    options: &BackupOptions<'_>,
) -> Result<BackupDone, BackupError> {
    let request = BackupRequest {
        vm: "vm".to_owned(),
        disks,
        parent,
        ..BackupRequest::default()
    };
    cairn_engine::backup::backup(repository, request, options)
}

/// Restores `vda` to a raw file in `folder`, and returns its bytes.
pub fn restore(
    repository: &Arc<Repository>,
    id: SnapshotId,
    folder: &Path,
) -> Result<Vec<u8>, RestoreError> {
    restore_target(repository, id, "vda", folder)
}

/// Restores a disk to a raw file in `folder`, and returns its bytes.
pub fn restore_target(
    repository: &Arc<Repository>,
    id: SnapshotId,
    target: &str,
    folder: &Path,
) -> Result<Vec<u8>, RestoreError> {
    let contents = Contents::open(repository, Access::Read(vec![id]), "restore")?;
    let snapshot = snapshot(repository, id);
    let disk = snapshot.disk(target).expect("the disk was backed up");
    let path = folder.join(format!("restored-{}", id.short()));
    let options = TargetOptions {
        format: TargetFormat::Raw,
        size: disk.size,
        overwrite: true,
    };
    let target = target::create(&path, &options)?;
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RestoreOptions {
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    restore_disk(&contents, disk, &*target, &options)?;
    target.finish()?;
    let bytes = std::fs::read(&path).expect("the restored file can be read");
    std::fs::remove_file(&path).expect("the restored file can be removed");
    Ok(bytes)
}

pub fn verify_all(repository: &Arc<Repository>) -> VerifyReport {
    verify_for(repository, None)
}

/// Verifies everything, or what there is time for.
pub fn verify_for(repository: &Arc<Repository>, max_duration: Option<Duration>) -> VerifyReport {
    let list = repository.snapshots().expect("snapshots can be listed");
    let contents = Contents::open(repository, Access::Read(Vec::new()), "verify");
    let contents = contents.expect("the contents can be opened");
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = VerifyOptions {
        snapshots: None,
        metadata_only: false,
        sample_percent: 100.0,
        max_duration,
        now: jiff::Timestamp::now(),
        threads: 2,
        progress: &progress,
        cancel: &cancel,
    };
    verify(&contents, &list, &options).expect("verify can run")
}

/// Fails unless nothing is damaged.
pub fn assert_clean(report: &VerifyReport) {
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
}

/// Random bytes that compress somewhat, with zero blocks and repeats among them.
pub fn random_disk(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let block = BLOCK_LEN as usize;
    for chunk in bytes.chunks_mut(block) {
        match random.u8(0..8) {
            0 | 1 => {}
            2 => chunk.fill(random.u8(..)),
            3 => {
                let period = random.usize(1..5000);
                let pattern: Vec<u8> = (0..period).map(|_| random.u8(..)).collect();
                for (byte, with) in chunk.iter_mut().zip(pattern.iter().cycle()) {
                    *byte = *with;
                }
            }
            _ => chunk.fill_with(|| random.u8(b'a'..=b'p')),
        }
    }
    bytes
}

/// Changes a disk in a few places, as a guest would.
pub fn edit(random: &mut fastrand::Rng, bytes: &mut [u8]) {
    for _ in 0..random.usize(1..6) {
        let start = random.usize(0..bytes.len());
        let len = random.usize(1..200_000).min(bytes.len() - start);
        let part = &mut bytes[start..start + len];
        match random.u8(0..3) {
            0 => part.fill(0),
            1 => part.fill_with(|| random.u8(..)),
            _ => part.iter_mut().step_by(4096).for_each(|byte| *byte ^= 0x55),
        }
    }
}

pub fn seed() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a failed test is repeated by its seed"
    )]
    let given = std::env::var("CAIRN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CAIRN_SEED={seed}");
    seed
}
