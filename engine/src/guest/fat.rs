//! FAT with entries of 12, 16 and 32 bits, with long names. It keeps neither owners nor modes, and
//! times without a zone, which are taken as UTC.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod folder;
mod geometry;

use std::io;
use std::sync::Arc;

use folder::{ENTRY_SIZE, Entry, LongName, Meaning};
use geometry::Geometry;

use super::fields::{check_name, damaged};
use super::tree::{
    DirEntry, FileId, FileKind, FileSystem, FileTime, GuestError, Stat, Volume, lookup_in_any_case,
};

const WHAT: &str = "fat file system";

/// What is handed out at once.
const RUN_LEN: u64 = 1 << 20;

/// The largest folder that the format allows.
const FOLDER_MAX: u64 = 2 << 20;

/// Returns whether a volume that starts with these bytes, at least 512 of them, holds FAT, or
/// exFAT, which [`open`] refuses by its name.
pub fn is(start: &[u8]) -> bool {
    geometry::is(start) || geometry::is_exfat(start)
}

/// Opens the file system of a volume.
pub fn open(volume: Arc<dyn Volume>) -> Result<Box<dyn FileSystem>, GuestError> {
    let mut start = vec![0; 512];
    volume.read_at(0, &mut start)?;
    let geometry = Geometry::decode(&start)?;
    let volume = volume;
    let mut caveats = Vec::new();
    if geometry.is_dirty(&*volume)? {
        caveats.push(
            "the fat file system was not unmounted: the last changes before the snapshot may be \
             missing"
                .to_owned(),
        );
    }
    Ok(Box::new(Fat {
        volume,
        geometry,
        caveats,
    }))
}

struct Fat {
    volume: Arc<dyn Volume>,
    geometry: Geometry,
    caveats: Vec<String>,
}

impl Fat {
    /// The top folder has no entry; that of any other file is at the offset that its id is.
    const ROOT: FileId = FileId(0);

    fn entry(&self, file: FileId) -> Result<[u8; ENTRY_SIZE], GuestError> {
        let mut bytes = [0; ENTRY_SIZE];
        self.volume.read_at(file.0, &mut bytes)?;
        if Entry::new(&bytes).meaning()? != Meaning::File {
            return Err(GuestError::NotFound);
        }
        Ok(bytes)
    }

    /// Hands runs of clusters of a chain to `sink`: where they are and how long they are, in
    /// bytes, up to `len` in all; returns how much of that the chain had.
    fn chain(
        &self,
        first: u64,
        len: u64,
        sink: &mut dyn FnMut(u64, u64) -> Result<bool, GuestError>,
    ) -> Result<u64, GuestError> {
        let size = self.geometry.cluster_size.get();
        let mut cluster = Some(first);
        // `len` bounds the steps, so that a chain that bites its tail ends.
        let mut done: u64 = 0;
        while let Some(start) = cluster.filter(|_| done < len) {
            let at = self.geometry.cluster_offset(start)?;
            let (mut last, mut run) = (start, size);
            loop {
                cluster = self.geometry.next(&*self.volume, last)?;
                let follows = cluster.is_some_and(|next| next == last.saturating_add(1));
                let whole = done.saturating_add(run) >= len || run >= RUN_LEN;
                if !follows || whole {
                    break;
                }
                last = last.saturating_add(1);
                run = run.saturating_add(size);
            }
            let run = run.min(len.saturating_sub(done));
            done = done.saturating_add(run);
            if !sink(at, run)? {
                break;
            }
        }
        Ok(done)
    }

    /// Reads the entries of `len` bytes at an offset; `false` where they end, or `sink` does.
    fn entries(
        &self,
        offset: u64,
        len: u64,
        long: &mut LongName,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<bool, GuestError> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.volume.read_at(offset, &mut bytes)?;
        let mut at = offset;
        for entry in bytes.chunks_exact(ENTRY_SIZE) {
            let (entry, id) = (Entry::new(entry), FileId(at));
            at = at.saturating_add(32);
            match entry.meaning()? {
                Meaning::End => return Ok(false),
                Meaning::Nothing => *long = LongName::default(),
                Meaning::Long => long.take(&entry)?,
                Meaning::File => {
                    let name = long.name_of(&entry)?;
                    if name == b"." || name == b".." {
                        continue;
                    }
                    check_name(WHAT, &name)?;
                    if !sink(DirEntry { name, id }) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }
}

impl FileSystem for Fat {
    fn kind(&self) -> &'static str {
        "fat"
    }

    fn caveats(&self) -> &[String] {
        &self.caveats
    }

    fn root(&self) -> FileId {
        Self::ROOT
    }

    fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
        if file == Self::ROOT {
            return Ok(Stat {
                kind: FileKind::Folder,
                mode: None,
                owner: None,
                size: 0,
                links: 1,
                modified: FileTime::default(),
                accessed: None,
            });
        }
        Entry::new(&self.entry(file)?).stat()
    }

    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError> {
        let mut long = LongName::default();
        let first = if folder == Self::ROOT {
            self.geometry.root_cluster
        } else {
            let entry = self.entry(folder)?;
            if Entry::new(&entry).stat()?.kind != FileKind::Folder {
                return Err(GuestError::NotAFolder);
            }
            Entry::new(&entry).cluster(self.geometry.width)?
        };
        if first == 0 {
            let (offset, len) = (self.geometry.root_offset, self.geometry.root_len);
            self.entries(offset, len, &mut long, sink)?;
            return Ok(());
        }
        self.chain(first, FOLDER_MAX, &mut |offset, len| {
            self.entries(offset, len, &mut long, sink)
        })?;
        Ok(())
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<FileId, GuestError> {
        lookup_in_any_case(self, folder, name)
    }

    fn read_link(&self, _: FileId) -> Result<Vec<u8>, GuestError> {
        Err(GuestError::NotFound)
    }

    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        if file == Self::ROOT {
            return Err(GuestError::NotFound);
        }
        let bytes = self.entry(file)?;
        let entry = Entry::new(&bytes);
        let stat = entry.stat()?;
        if stat.kind != FileKind::File {
            return Err(GuestError::NotFound);
        }
        if stat.size == 0 {
            return Ok(());
        }
        let mut at: u64 = 0;
        let mut run = Vec::new();
        let had = self.chain(
            entry.cluster(self.geometry.width)?,
            stat.size,
            &mut |offset, len| {
                run.resize(usize::try_from(len).unwrap_or_default(), 0);
                self.volume.read_at(offset, &mut run)?;
                sink(at, &run)?;
                at = at.saturating_add(len);
                Ok(true)
            },
        )?;
        if had < stat.size {
            return Err(damaged(WHAT, "a file ends early"));
        }
        Ok(())
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
        Ok(Vec::new())
    }
}
