//! Every file below a folder, in order, however many or deep they are.

use std::collections::HashSet;

use super::tree::{FileId, FileKind, FileSystem, GuestError, Stat};

/// Folders within one another that are walked. The kernel's paths end at half of that.
const DEPTH_MAX: usize = 4096;
/// Bytes that the names of all folders in which a walk is may take: some ten million files. While
/// these are read it may be twice that.
const NAMES_LEN_MAX: usize = 512 * 1024 * 1024;

/// The names of one folder, in as little memory as they need.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    entries: Vec<NameAt>,
}

/// Where a name begins, its length, and its file.
type NameAt = (usize, u16, FileId);

impl Names {
    /// Reads a folder, whose names may take `room` bytes; they come in the order of their bytes.
    fn read(file_system: &dyn FileSystem, folder: FileId, room: usize) -> Result<Self, GuestError> {
        let mut names = Self::default();
        let mut is_full = false;
        file_system.read_folder(folder, &mut |entry| {
            let len = u16::try_from(entry.name.len()).unwrap_or_default();
            is_full = names.size() + size_of::<NameAt>() + entry.name.len() > room;
            if is_full {
                return false;
            }
            // Whatever a reader lets through, no name leads elsewhere.
            if is_plain(&entry.name) && len > 0 {
                names.entries.push((names.bytes.len(), len, entry.id));
                names.bytes.extend(entry.name);
            }
            true
        })?;
        if is_full {
            return Err(GuestError::TooLarge);
        }
        let Self { bytes, entries } = &mut names;
        entries.sort_unstable_by_key(|(start, len, id)| (slice(bytes, *start, *len), *id));
        Ok(names)
    }

    /// Returns how many bytes they take.
    fn size(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<NameAt>()
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns one of them, with its file.
    pub fn get(&self, index: usize) -> Option<(&[u8], FileId)> {
        let (start, len, id) = self.entries.get(index)?;
        Some((slice(&self.bytes, *start, *len), *id))
    }
}

fn slice(bytes: &[u8], start: usize, len: u16) -> &[u8] {
    let rest = bytes.get(start..).unwrap_or_default();
    rest.get(..usize::from(len)).unwrap_or_default()
}

fn is_plain(name: &[u8]) -> bool {
    name != b"." && name != b".." && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// What comes next on a walk.
#[derive(Debug)]
pub enum Event {
    /// A folder; what is in it follows, then that it is left.
    Folder(FileId, Stat),
    /// Anything else.
    File(FileId, Stat),
    /// A folder, whose path it is again, has been walked.
    Leave,
    /// Something cannot be read; the walk goes on after it.
    Failed(GuestError),
}

/// A walk below a folder.
pub struct Walk<'f> {
    file_system: &'f dyn FileSystem,
    /// Path of what the last event was about, relative to where the walk began.
    path: Vec<u8>,
    /// Length of the last name in it.
    name_len: usize,
    frames: Vec<Frame>,
    /// Every folder has one place. A second one is damage, and may be a circle.
    seen: HashSet<FileId>,
    /// A folder whose event was handed out, to be entered next.
    ahead: Option<FileId>,
    /// Bytes that names of further folders may take.
    room: usize,
}

struct Frame {
    names: Names,
    next: usize,
    path_len: usize,
}

impl<'f> Walk<'f> {
    /// Begins in a folder, which is no event itself.
    pub fn new(file_system: &'f dyn FileSystem, folder: FileId) -> Self {
        Self {
            file_system,
            path: Vec::new(),
            name_len: 0,
            frames: Vec::new(),
            seen: HashSet::new(),
            ahead: Some(folder),
            room: NAMES_LEN_MAX,
        }
    }

    /// Returns the path of what the last event was about, from the folder where the walk began.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Returns the last name of that path.
    pub fn name(&self) -> &[u8] {
        let start = self.path.len().saturating_sub(self.name_len);
        self.path.get(start..).unwrap_or_default()
    }

    /// Does not enter the folder that the last event was about.
    pub fn skip(&mut self) {
        self.ahead = None;
    }

    /// Goes on; nothing is left when it returns `None`.
    pub fn step(&mut self) -> Option<Event> {
        if let Some(folder) = self.ahead.take() {
            let (names, error) = match self.enter(folder) {
                Ok(names) => (names, None),
                // Where it cannot be entered it is left at once.
                Err(error) => (Names::default(), Some(error)),
            };
            self.room -= names.size();
            self.frames.push(Frame {
                names,
                next: 0,
                path_len: self.path.len(),
            });
            if let Some(error) = error {
                return Some(Event::Failed(error));
            }
        }
        let frame = self.frames.last_mut()?;
        self.path.truncate(frame.path_len);
        let Some((name, id)) = frame.names.get(frame.next) else {
            self.room += frame.names.size();
            drop(self.frames.pop());
            let start = self.path.iter().rposition(|byte| *byte == b'/');
            self.name_len = self.path.len() - start.map_or(0, |start| start + 1);
            return (!self.frames.is_empty()).then_some(Event::Leave);
        };
        frame.next += 1;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend(name);
        self.name_len = name.len();
        Some(match self.file_system.stat(id) {
            Ok(stat) if stat.kind == FileKind::Folder => {
                self.ahead = Some(id);
                Event::Folder(id, stat)
            }
            Ok(stat) => Event::File(id, stat),
            Err(error) => Event::Failed(error),
        })
    }

    fn enter(&mut self, folder: FileId) -> Result<Names, GuestError> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(GuestError::TooLarge);
        }
        let names = Names::read(self.file_system, folder, self.room)?;
        if !self.seen.insert(folder) && !names.is_empty() {
            return Err(GuestError::Damaged {
                what: "tree of folders",
                source: "a folder stands in two places".into(),
            });
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::guest::tree::{DirEntry, FileTime};

    /// Folders in folders, each with files besides.
    struct Deep;

    const FILES: u64 = 1000;

    impl FileSystem for Deep {
        fn kind(&self) -> &'static str {
            "test"
        }

        fn caveats(&self) -> &[String] {
            &[]
        }

        fn root(&self) -> FileId {
            FileId(0)
        }

        fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
            let is_folder = file.0.is_multiple_of(FILES);
            Ok(Stat {
                kind: if is_folder {
                    FileKind::Folder
                } else {
                    FileKind::File
                },
                mode: None,
                owner: None,
                size: 0,
                links: 1,
                modified: FileTime::default(),
                accessed: None,
            })
        }

        fn read_folder(
            &self,
            folder: FileId,
            sink: &mut dyn FnMut(DirEntry) -> bool,
        ) -> Result<(), GuestError> {
            // The folder comes first.
            for number in 0..FILES {
                let name = format!("{number:04}").into_bytes();
                let id = FileId(match number {
                    0 => folder.0 + FILES,
                    number => folder.0 + number,
                });
                if !sink(DirEntry { name, id }) {
                    break;
                }
            }
            Ok(())
        }

        fn read_link(&self, _: FileId) -> Result<Vec<u8>, GuestError> {
            Err(GuestError::NotFound)
        }

        fn read_file(
            &self,
            _: FileId,
            _: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
        ) -> Result<(), GuestError> {
            Err(GuestError::NotFound)
        }

        fn xattrs(&self, _: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn names_of_all_open_folders_are_bounded() {
        let mut walk = Walk::new(&Deep, Deep.root());
        // Ten folders and a half: an entry has its name of 4 bytes, and 24 beside it.
        let room = 28 * 1000 * 21 / 2;
        walk.room = room;
        let (mut folders, mut files, mut failed) = (0, 0, 0);
        while let Some(event) = walk.step() {
            match event {
                Event::Folder(..) => folders += 1,
                Event::File(..) => files += 1,
                Event::Leave => {}
                Event::Failed(error) => {
                    assert!(matches!(error, GuestError::TooLarge), "{error}");
                    failed += 1;
                }
            }
        }
        assert_eq!((folders, files, failed), (10, 10 * 999, 1));
        assert_eq!(walk.room, room);
    }
}
