//! Word to whoever opens an overlay next, that outlives the process and needs no medium.
//!
//! After a flush failed the overlay's own file is the last place that can be relied on to tell of
//! it: the device is gone, or the file system takes no more writes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::header::BootId;

const CONTEXT: &str = "Cairn 2026 overlay 1 failed";
const NAME_LEN: usize = 16;
/// Folders in memory: the first is root's, the other anybody's.
const FOLDERS: [&str; 2] = ["/run/cairn", "/dev/shm"];
/// Whoever may open the overlay must be able to look.
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o600;

/// Stands for one overlay in one run of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark([u8; NAME_LEN]);

impl Mark {
    /// Takes the overlay's random id.
    pub(super) fn of(id: &[u8; 32], boot: BootId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(id);
        hasher.update(&boot.0);
        let mut name = [0; NAME_LEN];
        hasher.finalize_xof().fill(&mut name);
        Self(name)
    }
}

/// Where marks are left.
#[derive(Debug)]
pub(super) struct Marks(Vec<PathBuf>);

impl Default for Marks {
    fn default() -> Self {
        Self(FOLDERS.map(PathBuf::from).into())
    }
}

impl Marks {
    fn path(folder: &Path, mark: Mark) -> PathBuf {
        folder.join(format!("cairn-overlay-{}.failed", hex::encode(mark.0)))
    }

    /// Leaves a mark in the first folder that takes it.
    pub(super) fn set(&self, mark: Mark) -> io::Result<()> {
        let mut refused = io::ErrorKind::NotFound.into();
        for folder in &self.0 {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(FILE_MODE);
            // What cannot be made may be there, or its file cannot be made either.
            drop(fs::DirBuilder::new().mode(FOLDER_MODE).create(folder));
            match options.open(Self::path(folder, mark)) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => refused = err,
                _ => return Ok(()),
            }
        }
        Err(refused)
    }

    /// Returns whether a mark was left, by root or by whoever we are.
    pub(super) fn has(&self, mark: Mark) -> io::Result<bool> {
        let us = rustix::process::geteuid().as_raw();
        for folder in &self.0 {
            match fs::symlink_metadata(Self::path(folder, mark)) {
                Ok(found) if found.uid() == 0 || found.uid() == us => return Ok(true),
                Ok(_) => {}
                Err(err) if is_absent(&err) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(false)
    }

    /// Takes a mark back.
    pub(super) fn remove(&self, mark: Mark) -> io::Result<()> {
        for folder in &self.0 {
            match fs::remove_file(Self::path(folder, mark)) {
                Err(err) if !is_absent(&err) => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_absent(err: &io::Error) -> bool {
    let kind = err.kind();
    kind == io::ErrorKind::NotFound || kind == io::ErrorKind::NotADirectory
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(byte: u8) -> BootId {
        BootId::parse(&[byte; 36]).expect("an id")
    }

    #[test]
    fn a_mark_is_of_one_overlay_and_one_run_of_the_machine() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let marks = Marks(vec![folder.path().join("made")]);
        let mark = Mark::of(&[1; 32], boot(b'a'));
        assert!(!marks.has(mark).expect("can be looked for"));
        marks.remove(mark).expect("was not there");
        marks.set(mark).expect("is made, with its folder");
        marks.set(mark).expect("is there already");
        assert!(marks.has(mark).expect("can be looked for"));
        for other in [
            Mark::of(&[2; 32], boot(b'a')),
            Mark::of(&[1; 32], boot(b'b')),
        ] {
            assert!(!marks.has(other).expect("can be looked for"));
        }
        marks.remove(mark).expect("is ours");
        assert!(!marks.has(mark).expect("can be looked for"));
    }

    #[test]
    fn where_the_first_folder_takes_none_the_next_does() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("file");
        fs::write(&file, []).expect("is made");
        let marks = Marks(vec![file, folder.path().into()]);
        let mark = Mark::of(&[1; 32], boot(b'a'));
        marks.set(mark).expect("is made");
        assert!(marks.has(mark).expect("can be looked for"));
        marks.remove(mark).expect("is ours");
        assert!(!marks.has(mark).expect("can be looked for"));
    }

    #[test]
    fn these_folders_take_a_mark() {
        let (marks, mark) = (Marks::default(), Mark::of(&[7; 32], boot(b't')));
        marks.set(mark).expect("is made");
        assert!(marks.has(mark).expect("can be looked for"));
        marks.remove(mark).expect("is ours");
    }
}
