//! Why there is no repository at a place, as far as what is there tells: nobody should make a new
//! one where the old one only is not mounted, has lost its settings, or lies a folder away.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cairn_engine::storage::StorageError;

use super::{Cause, Outcome};

/// What is where a repository was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing of that name.
    Nothing,
    /// A file.
    File,
    /// A folder without anything in it.
    Empty,
    /// What a repository consists of, but for the settings.
    Objects,
    /// Other things.
    Others,
}

/// There is no repository at a place.
#[derive(Debug, thiserror::Error)]
#[error("there is no repository at {}: {}", place.display(), told(*found))]
pub struct Absent {
    place: PathBuf,
    found: Found,
    /// One that is near it.
    near: Option<PathBuf>,
    /// The folder above, where that is there and holds nothing.
    empty_above: Option<PathBuf>,
}

fn told(found: Found) -> &'static str {
    match found {
        Found::Nothing => "there is no such folder",
        Found::File => "it is no folder",
        Found::Empty => "the folder is empty",
        Found::Objects => "its `config` is gone, but not what it stores",
        Found::Others => "the folder holds something else",
    }
}

/// Folders that hold what a repository stores.
const STORES: [&str; 3] = ["packs", "snapshots", "keys"];

impl Absent {
    /// Looks at a place at which no repository could be opened.
    pub fn look(place: &Path) -> Self {
        let place = &std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
        let found = match fs::read_dir(place) {
            Ok(mut entries) => match entries.next() {
                None => Found::Empty,
                Some(_) if STORES.iter().any(|name| holds_files(&place.join(name), 2)) => {
                    Found::Objects
                }
                Some(_) if is_laid_out(place) => Found::Empty,
                Some(_) => Found::Others,
            },
            Err(error) if error.kind() == ErrorKind::NotADirectory => Found::File,
            Err(_) => Found::Nothing,
        };
        let above = place.ancestors().skip(1).find(|above| above.is_dir());
        let is_empty =
            |folder: &&Path| fs::read_dir(folder).is_ok_and(|mut it| it.next().is_none());
        Self {
            found,
            near: near(place),
            empty_above: above.filter(is_empty).map(Path::to_owned),
            place: place.to_owned(),
        }
    }

    fn hint(&self) -> String {
        if let Found::Objects = self.found {
            return "`cairn repair --config` puts `config` back from the copy that this client \
                    keeps; otherwise fetch that one file from a copy of the repository. Make no \
                    new one there"
                .to_owned();
        }
        if let Some(near) = &self.near {
            return format!("there is one at {}", near.display());
        }
        match (&self.empty_above, self.found) {
            (Some(above), Found::Nothing) => format!(
                "{} is empty: is a disk to be mounted there? Only where there never was one does \
                 `cairn init` make a new repository",
                above.display()
            ),
            (_, Found::Empty) => "is a disk to be mounted there? Only where there never was one \
                                  does `cairn init` make a new repository"
                .to_owned(),
            (_, Found::Nothing) => "look at how it is spelt, and whether its disk is mounted; \
                                    `cairn init` makes a new repository"
                .to_owned(),
            _ => "look at how it is spelt; a new repository needs a folder of its own".to_owned(),
        }
    }
}

/// Returns whether a folder holds a file, in itself or in folders down to a depth.
fn holds_files(folder: &Path, depth: usize) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => depth > 0 && holds_files(&entry.path(), depth - 1),
        Ok(kind) => kind.is_file(),
        Err(_) => false,
    })
}

/// Returns whether a folder is what an `init` leaves that did not come to its end.
fn is_laid_out(place: &Path) -> bool {
    STORES.iter().all(|name| place.join(name).is_dir())
}

/// Returns whether a folder is that of a repository.
fn is_repository(folder: &Path) -> bool {
    folder.join("config").is_file() && folder.join("packs").is_dir()
}

/// Returns a repository in the folder, beside it or above it.
fn near(place: &Path) -> Option<PathBuf> {
    let below = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut folders = entries.map(|entry| entry.path());
        folders.find(|path| is_repository(path))
    };
    let above = place.ancestors().skip(1);
    let mut above = above.filter(|folder| folder.parent().is_some());
    below(place)
        .or_else(|| place.parent().and_then(below))
        .or_else(|| {
            above
                .find(|folder| is_repository(folder))
                .map(Path::to_owned)
        })
}

/// There is a repository where one was to be made.
#[derive(Debug, thiserror::Error)]
#[error("there is a repository at {} already{}", place.display(), match is_whole {
    true => "",
    false => ", though its `config` is gone",
})]
pub struct Taken {
    place: PathBuf,
    is_whole: bool,
}

impl Taken {
    /// Says of a place at which none could be made if that is since there is one.
    pub fn look(place: &Path, error: StorageError) -> anyhow::Error {
        let is_whole = is_repository(place);
        let is_there = is_whole || Absent::look(place).found == Found::Objects;
        match error {
            StorageError::NotEmpty { .. } if is_there => Self {
                place: place.to_owned(),
                is_whole,
            }
            .into(),
            error => error.into(),
        }
    }

    fn hint(&self) -> String {
        match self.is_whole {
            true => format!(
                "`cairn -r {} snapshots` lists what it holds",
                self.place.display()
            ),
            false => "`cairn repair --config` puts it back".to_owned(),
        }
    }
}

/// Returns the exit code of a place without a repository.
pub(super) fn outcome(cause: Cause<'_>) -> Option<Outcome> {
    cause.is::<Absent>().then_some(Outcome::NoRepository)
}

/// Returns what to do about it.
pub(super) fn hint(cause: Cause<'_>) -> Option<String> {
    let absent = cause.downcast_ref().map(Absent::hint);
    absent.or_else(|| cause.downcast_ref().map(Taken::hint))
}
