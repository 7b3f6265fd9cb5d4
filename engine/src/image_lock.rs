//! The lock by which QEMU keeps other processes from an image.
//!
//! QEMU holds a shared lock on byte 100 + n for each permission n that it uses, and on byte 200 + n
//! for each that it does not let others use; 0 is reading, 1 is writing, 3 is resizing. It takes
//! its own first and then looks for those of others, so two that exclude each other never both
//! succeed.

mod holders;
mod ofd;

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;

const USED: i64 = 100;
const NOT_SHARED: i64 = 200;
const READING: i64 = 0;
const WRITING: i64 = 1;
const WRITING_THE_SAME: i64 = 2;
const RESIZING: i64 = 3;

/// A lock on an image: no QEMU can open it for writing. Held until this is dropped, and by
/// processes that were given it as their input until they end.
#[derive(Debug)]
pub struct ImageLock {
    file: File,
}

/// Who keeps a file from being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The processes, or the loop device, in words.
    pub by: String,
}

impl ImageLock {
    /// Takes what QEMU takes to write to an image: nobody else may write to it, and nobody may
    /// count on it to stay as it is. Where the file system has no locks, nobody is asked.
    pub fn write(path: &Path) -> io::Result<Result<Self, Held>> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if let Some(device) = holders::loop_device(&metadata) {
            return Ok(Err(Held { by: device }));
        }
        let lock = Self { file };
        match lock.exclude() {
            Ok(true) => Ok(Ok(lock)),
            Ok(false) => Ok(Err(Held {
                by: holders::name(&metadata),
            })),
            Err(error) if has_no_locks(&error) => Ok(Ok(lock)),
            Err(error) => Err(error),
        }
    }

    /// Takes the locks of a writer, and returns whether no other lock speaks against them.
    fn exclude(&self) -> io::Result<bool> {
        for permission in [WRITING, RESIZING] {
            ofd::share(&self.file, USED + permission)?;
            ofd::share(&self.file, NOT_SHARED + permission)?;
        }
        let others = [
            USED + WRITING,
            USED + WRITING_THE_SAME,
            USED + RESIZING,
            NOT_SHARED + WRITING,
            NOT_SHARED + RESIZING,
        ];
        for byte in others {
            if ofd::is_shared_by_others(&self.file, byte)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps writers out from now on. Whether one is there already, whoever asks must look next.
    pub fn keep_writers_out(path: &Path) -> io::Result<Self> {
        Self::keep_writers_out_of(File::open(path)?)
    }

    /// Does the same for an image that is open.
    pub fn keep_writers_out_of(file: File) -> io::Result<Self> {
        for permission in [WRITING, RESIZING] {
            ofd::share(&file, NOT_SHARED + permission)?;
        }
        Ok(Self { file })
    }

    /// Returns the image.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Says to others that the image is being written: they then refuse to read it.
    pub fn begin_writing(&self) -> io::Result<()> {
        [WRITING, RESIZING]
            .into_iter()
            .try_for_each(|permission| ofd::share(&self.file, USED + permission))
    }

    /// Returns the lock as a child's input: it is held until the child ends as well.
    pub fn for_child(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }
}

/// Returns who may write to an image that is open here, or lets nobody read it. Asking changes
/// nothing. Where locks cannot be asked for, there is none.
pub fn writer(file: &File) -> Option<Held> {
    let bytes = [USED + WRITING, USED + RESIZING, NOT_SHARED + READING];
    let mut bytes = bytes.into_iter();
    bytes
        .any(|byte| ofd::is_shared_by_others(file, byte).unwrap_or(false))
        .then(|| Held {
            by: match file.metadata() {
                Ok(metadata) => holders::name(&metadata),
                Err(_) => "another process".to_owned(),
            },
        })
}

/// Returns whether a file system said that it has no locks.
fn has_no_locks(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let none = [Errno::INVAL, Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|errno| none.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::raw::RawSource;

    #[test]
    fn who_writes_is_alone() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("a.raw");
        std::fs::write(&path, [0; 512]).expect("a file can be written");
        let write = || ImageLock::write(&path).expect("the file can be locked");
        let first = write().expect("nobody has it");
        assert!(write().is_err());
        drop(first);
        let reader = ImageLock::keep_writers_out(&path).expect("nobody has it");
        assert!(write().is_err());
        drop(reader);
        assert!(write().is_ok());
    }

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
