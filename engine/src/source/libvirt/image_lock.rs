//! The lock by which QEMU keeps other processes from an image.
//!
//! QEMU holds a shared lock on byte 100 + n for each permission n that it uses, and on byte 200 + n
//! for each that it does not let others use; 1 is writing, 3 is resizing. It takes its own first
//! and then looks for those of others, so two that exclude each other never both succeed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;

use super::ffi;

const USED: i64 = 100;
const NOT_SHARED: i64 = 200;
const WRITING: i64 = 1;
const RESIZING: i64 = 3;

/// A lock on an image: no QEMU can open it for writing. Held until this is dropped, and by
/// processes that were given it as their input until they end.
#[derive(Debug)]
pub struct ImageLock {
    file: File,
}

impl ImageLock {
    /// Keeps writers out from now on. Whether one is there already, whoever asks must look next.
    pub fn keep_writers_out(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        for permission in [WRITING, RESIZING] {
            ffi::share_range(&file, NOT_SHARED + permission, 1)?;
        }
        Ok(Self { file })
    }

    /// Says to others that the image is being written: they then refuse to read it.
    pub fn begin_writing(&self) -> io::Result<()> {
        [WRITING, RESIZING]
            .into_iter()
            .try_for_each(|permission| ffi::share_range(&self.file, USED + permission, 1))
    }

    /// Returns the lock as a child's input: it is held until the child ends as well.
    pub fn for_child(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::raw::RawSource;

    #[test]
    fn a_lock_is_seen_while_anyone_has_it() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("a.raw");
        std::fs::write(&path, [0; 512]).expect("a file can be written");
        let lock = ImageLock::keep_writers_out(&path).expect("nobody has it");
        assert!(RawSource::open(&path).is_ok());
        lock.begin_writing().expect("nobody else writes");
        assert!(RawSource::open(&path).is_err());
        let mut command = std::process::Command::new("sleep");
        let input = lock.for_child().expect("there are descriptors");
        let spawned = command.arg("60").stdin(input).spawn();
        let mut child = spawned.expect("sleep is there");
        drop((lock, command));
        assert!(RawSource::open(&path).is_err());
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        // A process that another test is starting may have it for a moment.
        let begun = std::time::Instant::now();
        while RawSource::open(&path).is_err() {
            assert!(begun.elapsed().as_secs() < 120, "the lock stays");
            std::thread::yield_now();
        }
    }
}
