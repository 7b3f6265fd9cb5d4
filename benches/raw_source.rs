//! Reading a raw image from the page cache: `pread` into buffers of several sizes against a
//! mapping. Each byte is looked at once, as the zero test does; a mapping pays for its page faults
//! there. Data: one file of 1 GiB of seeded random bytes in the temporary folder.

#![expect(
    unsafe_code,
    reason = "the alternative that is measured, a mapping, needs it"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use memmap2::{Advice, MmapOptions};

const FILE_LEN: usize = 1024 * 1024 * 1024;
const KIB: usize = 1024;

fn main() {
    divan::main();
}

/// Returns the file, made once and already deleted from its folder.
fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let file = tempfile::tempfile().expect("a temporary file can be made");
        let mut random = fastrand::Rng::with_seed(1);
        let mut bytes = vec![0; 1024 * KIB];
        random.fill(&mut bytes);
        for place in (0..FILE_LEN).step_by(bytes.len()) {
            bytes[..8].copy_from_slice(&random.u64(..).to_le_bytes());
            (file.write_all_at(&bytes, place as u64)).expect("there is 1 GiB of space");
        }
        file.sync_data().expect("the file can be written out");
        file
    })
}

/// Looks at every byte.
fn look(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0;
    words
        .iter()
        .fold(0, |sum, &word| sum | u64::from_le_bytes(word))
}

#[divan::bench(args = [64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB], sample_count = 5)]
fn pread(bencher: Bencher, buffer_len: usize) {
    let file = file();
    let mut buffer = vec![0; buffer_len];
    bencher.counter(BytesCount::new(FILE_LEN)).bench_local(|| {
        for place in (0..FILE_LEN).step_by(buffer_len) {
            (file.read_exact_at(&mut buffer, place as u64)).expect("the file can be read");
            black_box(look(&buffer));
        }
    });
}

#[divan::bench(args = [false, true], sample_count = 5)]
fn mapping(bencher: Bencher, populate: bool) {
    /// As much as a region: what would be mapped at a time.
    const WINDOW_LEN: usize = 16 * 1024 * KIB;
    let file = file();
    bencher.counter(BytesCount::new(FILE_LEN)).bench_local(|| {
        for place in (0..FILE_LEN).step_by(WINDOW_LEN) {
            let mut options = MmapOptions::new();
            options.offset(place as u64).len(WINDOW_LEN);
            if populate {
                options.populate();
            }
            // SAFETY: the file has no name, so nobody else can cut it short or write to it.
            let map = unsafe { options.map(file) }.expect("the file can be mapped");
            map.advise(Advice::Sequential).expect("advice is taken");
            black_box(look(&map));
        }
    });
}
