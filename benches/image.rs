//! Random access to a snapshot's disk: small reads of what is cached and of what is not, and the
//! whole in sequence.
//!
//! The disk is the first one of the newest snapshot of the repository that
//! `CAIRN_BENCH_REPOSITORY` names, or else 256 MiB of the files below `/usr`, chosen by
//! `CAIRN_SEED`, in a repository in `TMPDIR`.

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cairn_engine::backup::{BackupOptions, BackupRequest, DiskRequest, backup};
use cairn_engine::chunker::ChunkerSettings;
use cairn_engine::compress::Compression;
use cairn_engine::crypto::Passphrase;
use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::format::Unknown;
use cairn_engine::format::manifest::SourceRecord;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::limits::{CHUNK_AVG_DEFAULT, FRAME_LEN_DEFAULT, KIB, MIB, PACK_LEN_DEFAULT};
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{
    Access, Contents, InitOptions, OpenOptions, Repository, RepositoryError,
};
use cairn_engine::source::{Source, SourceError};
use cairn_engine::storage::{Folder, SharedStorage};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

const DATA_LEN: usize = 256 << 20;
/// Small reads of one sample.
const READS: usize = 2000;
const READ_LEN: u64 = 4 * KIB;
/// What small reads of what is cached choose from.
const CACHED_LEN: u64 = 64 * MIB;
/// What one sample reads in sequence.
const SEQUENCE_LEN: u64 = 256 * MIB;

fn main() {
    divan::main();
}

/// A disk in memory.
struct Memory(Vec<u8>);

impl Source for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extents(&self, range: std::ops::Range<u64>) -> Result<Vec<Extent>, SourceError> {
        Ok(vec![Extent {
            offset: range.start,
            len: range.end - range.start,
            status: ExtentStatus::Data,
        }])
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).expect("it fits in memory");
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn has_unchanged(&self) -> bool {
        true
    }
}

/// The disk that is read: opened once, and the parts of it that hold data.
struct World {
    contents: Arc<Contents>,
    disk: cairn_engine::format::manifest::DiskRecord,
    data: Vec<std::ops::Range<u64>>,
    _folder: Option<tempfile::TempDir>,
}

impl World {
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(Self::new)
    }

    fn new() -> Self {
        let given = std::env::var_os("CAIRN_BENCH_REPOSITORY").map(PathBuf::from);
        let folder = given.is_none().then(|| {
            let folder = tempfile::tempdir().expect("TMPDIR can be written");
            make(&folder.path().join("repository"));
            folder
        });
        let path = folder
            .as_ref()
            .map(|folder| folder.path().join("repository"));
        let repository = open(&given.or(path).expect("one of them is there"));
        let list = repository.snapshots().expect("snapshots are listed");
        let newest = list.snapshots.last().expect("there is a snapshot");
        let disk = newest
            .manifest
            .disks
            .first()
            .expect("it has a disk")
            .clone();
        let access = Access::Read(vec![newest.id]);
        let contents = Contents::open(&repository, access, "bench").expect("opens");
        let mut this = Self {
            contents: Arc::new(contents),
            disk,
            data: Vec::new(),
            _folder: folder,
        };
        let image = this.image(CACHE_BYTES_DEFAULT);
        let extents = image.extents(0..image.size()).expect("the recipe is whole");
        let data = extents
            .into_iter()
            .filter(|extent| extent.status == ExtentStatus::Data && extent.len > READ_LEN);
        this.data = data.map(|extent| extent.range()).collect();
        this
    }

    /// Opens the disk with a cache that holds nothing yet.
    fn image(&self, bytes_max: usize) -> Image {
        let cache = ImageCache::new(bytes_max);
        Image::open(Arc::clone(&self.contents), &self.disk, &cache).expect("opens")
    }

    /// Returns offsets of small reads among the first `len` bytes of data.
    fn offsets(&self, len: u64) -> Vec<u64> {
        let mut random = fastrand::Rng::with_seed(support::seed());
        let all: u64 = self.data.iter().map(|range| range.end - range.start).sum();
        let offsets = (0..READS).map(|_| {
            let mut at = random.u64(0..all.min(len));
            for range in &self.data {
                let here = range.end - range.start;
                if at < here {
                    return (range.start + at).min(range.end - READ_LEN) / READ_LEN * READ_LEN;
                }
                at -= here;
            }
            unreachable!("it is one of their bytes")
        });
        offsets.collect()
    }
}

fn options(path: &Path) -> OpenOptions {
    OpenOptions {
        local: Some(path.to_owned()),
        cache: path.with_extension("cache"),
    }
}

fn open(path: &Path) -> Arc<Repository> {
    let storage: SharedStorage = Arc::new(Folder::open_at(path).expect("it is a repository"));
    let none = || Ok::<_, RepositoryError>(Passphrase::new(String::new().into()));
    Repository::open(storage, &options(path), false, none).expect("opens")
}

fn make(path: &Path) {
    let storage: SharedStorage = Arc::new(Folder::create_at(path).expect("TMPDIR is there"));
    let settings = InitOptions {
        chunker: ChunkerSettings::new(CHUNK_AVG_DEFAULT).expect("the default"),
        compression: Compression::Zstd { level: 1 },
        frame_len: FRAME_LEN_DEFAULT,
        pack_len: PACK_LEN_DEFAULT,
        grace_seconds: None,
        parity_percent: None,
    };
    let repository = Repository::init(storage, &settings, None, &options(path)).expect("is made");
    let record = SourceRecord {
        kind: "raw".to_owned(),
        location: "memory".to_owned(),
        bitmap: None,
        unknown: Unknown::new(),
    };
    let source = Box::new(Memory(support::system_files(DATA_LEN)));
    let request = BackupRequest {
        vm: "bench".to_owned(),
        disks: vec![DiskRequest::new("vda".to_owned(), source, record)],
        ..BackupRequest::default()
    };
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = BackupOptions::new(2, &progress, &cancel);
    backup(&repository, request, &options).expect("backs up");
}

/// Small random reads of what is decoded and checked.
#[divan::bench(sample_count = 20)]
fn random_4k_cached(bencher: Bencher) {
    let world = World::get();
    let (image, offsets) = (world.image(CACHE_BYTES_DEFAULT), world.offsets(CACHED_LEN));
    let mut buf = [0; READ_LEN as usize];
    for offset in &offsets {
        image.read_at(*offset, &mut buf).expect("it is whole");
    }
    bencher.counter(ItemsCount::new(READS)).bench_local(|| {
        for offset in &offsets {
            assert!(image.try_read_at(*offset, &mut buf));
            black_box(&buf);
        }
    });
}

/// Small random reads all over the disk, with nothing cached at first.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn random_4k_cold(bencher: Bencher) {
    let world = World::get();
    let offsets = world.offsets(u64::MAX);
    bencher
        .counter(ItemsCount::new(READS))
        .with_inputs(|| world.image(CACHE_BYTES_DEFAULT))
        .bench_local_values(|image| {
            let mut buf = [0; READ_LEN as usize];
            for offset in &offsets {
                image.read_at(*offset, &mut buf).expect("it is whole");
                black_box(&buf);
            }
        });
}

/// One client that reads in sequence, with nothing cached at first.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn sequential_256k(bencher: Bencher) {
    let world = World::get();
    let len = SEQUENCE_LEN.min(world.disk.size);
    bencher
        .counter(BytesCount::new(len))
        .with_inputs(|| world.image(CACHE_BYTES_DEFAULT))
        .bench_local_values(|image| {
            let mut buf = vec![0; 256 << 10];
            for offset in (0..=len - buf.len() as u64).step_by(buf.len()) {
                if !image.try_read_at(offset, &mut buf) {
                    image.read_at(offset, &mut buf).expect("it is whole");
                }
                black_box(&buf);
            }
        });
}
