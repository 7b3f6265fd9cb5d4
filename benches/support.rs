//! What benches share: the seed, real data, chunks and frames of it, and a repository's folder.

#![allow(dead_code, reason = "every bench takes what it needs")]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::chunker::{ChunkerSettings, Cutter, GearTable};
use cairn_engine::compress::{Compression, Compressor};
use cairn_engine::crypto::{Keys, MasterKey};
use cairn_engine::id::{ContentId, RepositoryId};
use cairn_engine::limits::CHUNK_AVG_DEFAULT;
use cairn_engine::pack::{Frame, Framer};

/// Seed of everything random, from `CAIRN_SEED`; 1 by default.
#[expect(
    clippy::disallowed_methods,
    reason = "a bench has no command line of its own"
)]
pub fn seed() -> u64 {
    std::env::var("CAIRN_SEED").map_or(1, |seed| seed.parse().expect("CAIRN_SEED is a number"))
}

/// CPU time of this thread.
pub fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps it");
    let nanos = text.split(' ').next().expect("a first field");
    Duration::from_nanos(nanos.parse().expect("a number"))
}

/// CPU time that this thread spends on `work`: what holds on a busy machine.
pub fn cpu_of(work: impl FnOnce()) -> Duration {
    let begun = thread_cpu();
    work();
    thread_cpu() - begun
}

/// Returns `len` bytes of the files below `/usr`, in an order that the seed decides: programs,
/// libraries and texts, as a system disk has them.
pub fn system_files(len: usize) -> Vec<u8> {
    let mut files = Vec::new();
    collect(Path::new("/usr"), &mut files);
    // The order in which a folder lists its files is the file system's own.
    files.sort();
    fastrand::Rng::with_seed(seed()).shuffle(&mut files);
    let mut bytes = Vec::with_capacity(len);
    for path in &files {
        let room = (len - bytes.len()) as u64;
        if room == 0 {
            break;
        }
        // One that cannot be read is left out.
        if let Ok(file) = File::open(path) {
            drop(file.take(room).read_to_end(&mut bytes));
        }
    }
    assert_eq!(bytes.len(), len, "/usr has too few files");
    bytes
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// Returns the keys of an encrypted repository, or of a plain one.
pub fn keys(encrypted: bool) -> Arc<Keys> {
    let id = RepositoryId::from_bytes([1; 32]);
    let keys = if encrypted {
        Keys::sealed(id, &MasterKey::from_bytes([2; MasterKey::LEN]))
    } else {
        Keys::plain(id)
    };
    Arc::new(keys)
}

/// Cuts bytes into chunks of the default size, with their ids.
pub fn chunks(bytes: &[u8], keys: &Keys) -> Vec<(ContentId, u32)> {
    let settings = ChunkerSettings::new(CHUNK_AVG_DEFAULT).expect("the default is in range");
    let cutter = Cutter::new(settings.cut_params(), GearTable::public());
    let mut rest = bytes;
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(cutter.cut(rest));
        let len = u32::try_from(chunk.len()).expect("at most CHUNK_LEN_MAX");
        chunks.push((keys.chunk_id(chunk).into(), len));
        rest = tail;
    }
    chunks
}

/// Returns a framer that compresses as a repository does by default.
pub fn framer(frame_len: u32) -> Framer {
    Framer::new(Compressor::new(Compression::Zstd { level: 1 }), frame_len)
}

/// Gathers chunks, which are those of `bytes`, into frames.
pub fn frames(framer: &mut Framer, chunks: &[(ContentId, u32)], bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let Ok(()) = framer.add_run(chunks, bytes, |frame| {
        frames.push(frame);
        Ok::<(), std::convert::Infallible>(())
    });
    frames.extend(framer.flush());
    frames
}
