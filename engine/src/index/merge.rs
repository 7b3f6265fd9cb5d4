//! Adds places to a database without losing any that it has.
//!
//! One id may lie in several packs, and packs vanish. So every place of an id is kept: one under
//! the id itself, which look-ups find in one step, the others behind it under the id and their
//! pack. Whichever packs vanish, the places in those that stay can be found.

use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::{fs, io, vec};

use rocksdb::SstFileWriter;

use super::IndexError;
use super::db::{BATCH, Db, TABLE_LEN};
use super::place::{Key, PackPrefix, Place};
use crate::id::ContentId;

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// Adds all of `places`, sorted by id, and `records`, sorted by key, in one step. `folder` is for
/// the tables while they are built; it must be on the database's file system.
///
/// `is_present` says which packs' entries count; of an id's places, one in such a pack answers.
pub(super) fn merge_into(
    db: &Db,
    folder: &Path,
    places: impl Iterator<Item = Result<(ContentId, Place), IndexError>>,
    records: Vec<Pair>,
    is_present: impl Fn(PackPrefix) -> bool,
) -> Result<(), IndexError> {
    let mut merge = Merge {
        db,
        records: records.into_iter().peekable(),
        tables: Tables::new(db, folder)?,
        is_present,
    };
    let mut batch: Vec<(ContentId, Place)> = Vec::with_capacity(2 * BATCH);
    for place in places {
        let (id, place) = place?;
        let begins = batch.last().is_some_and(|(last, _)| *last != id);
        if begins && batch.len() >= BATCH {
            merge.add(&batch)?;
            batch.clear();
        }
        batch.push((id, place));
    }
    merge.add(&batch)?;
    merge.add_records_before(None)?;
    let tables = merge.tables.finish()?;
    if tables.is_empty() {
        return Ok(());
    }
    db.ingest(tables)
}

struct Merge<'d, P> {
    db: &'d Db,
    records: Peekable<vec::IntoIter<Pair>>,
    tables: Tables<'d>,
    is_present: P,
}

impl<P: Fn(PackPrefix) -> bool> Merge<'_, P> {
    fn add(&mut self, batch: &[(ContentId, Place)]) -> Result<(), IndexError> {
        let same_id = |a: &(ContentId, Place), b: &(ContentId, Place)| a.0 == b.0;
        let groups: Vec<_> = batch.chunk_by(same_id).collect();
        for groups in groups.chunks(BATCH) {
            let ids: Vec<_> = groups.iter().map(|group| group[0].0).collect();
            for (group, answer) in groups.iter().zip(self.db.get(&ids)) {
                self.add_id(group[0].0, answer?, group)?;
            }
        }
        Ok(())
    }

    fn add_id(
        &mut self,
        id: ContentId,
        known: Option<Place>,
        group: &[(ContentId, Place)],
    ) -> Result<(), IndexError> {
        self.add_records_before(Some(id))?;
        if let (None, [(_, place)]) = (known, group) {
            return self.tables.put(id.as_bytes(), &place.to_bytes());
        }
        let mut places: Vec<_> = group.iter().map(|(_, place)| *place).collect();
        places.retain(|place| known.is_none_or(|known| known.pack != place.pack));
        places.sort_unstable();
        places.dedup_by_key(|place| place.pack);
        if places.is_empty() {
            return Ok(());
        }
        if known.is_none_or(|known| !(self.is_present)(known.pack)) {
            let first = places.remove(0);
            self.tables.put(id.as_bytes(), &first.to_bytes())?;
            places.extend(known);
            places.sort_unstable();
        }
        for place in places {
            let key = Key::Other(id, place.pack).to_bytes();
            self.tables.put(&key, &place.to_bytes())?;
        }
        Ok(())
    }

    /// Adds the records whose keys come before an id's, or all that are left.
    fn add_records_before(&mut self, id: Option<ContentId>) -> Result<(), IndexError> {
        let comes = |record: &Pair| id.is_none_or(|id| record.0[..] < id.as_bytes()[..]);
        while let Some((key, value)) = self.records.next_if(comes) {
            self.tables.put(&key, &value)?;
        }
        Ok(())
    }
}

/// Tables being written, one after the other.
struct Tables<'d> {
    db: &'d Db,
    folder: &'d Path,
    writer: Option<SstFileWriter<'d>>,
    written: u64,
    finished: Vec<PathBuf>,
}

impl<'d> Tables<'d> {
    /// Makes `folder` empty: what a process that died has left there is of no use.
    fn new(db: &'d Db, folder: &'d Path) -> Result<Self, IndexError> {
        remove_folder(folder)?;
        fs::create_dir(folder).map_err(|source| IndexError::Io {
            op: "make",
            path: folder.to_path_buf(),
            source,
        })?;
        Ok(Self {
            db,
            folder,
            writer: None,
            written: 0,
            finished: Vec::new(),
        })
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        if self.written >= TABLE_LEN {
            self.close()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let path = self.folder.join(format!("{}.sst", self.finished.len()));
                let writer = SstFileWriter::create(self.db.options());
                writer
                    .open(&path)
                    .map_err(|source| self.db.failed("add to", source))?;
                self.finished.push(path);
                none.insert(writer)
            }
        };
        writer
            .put(key, value)
            .map_err(|source| self.db.failed("add to", source))?;
        self.written += (key.len() + value.len()) as u64;
        Ok(())
    }

    fn close(&mut self) -> Result<(), IndexError> {
        self.written = 0;
        match self.writer.take() {
            None => Ok(()),
            Some(mut writer) => writer
                .finish()
                .map_err(|source| self.db.failed("add to", source)),
        }
    }

    fn finish(mut self) -> Result<Vec<PathBuf>, IndexError> {
        self.close()?;
        Ok(self.finished)
    }
}

/// Removes a folder with everything in it. One that is not there is no error.
pub(super) fn remove_folder(path: &Path) -> Result<(), IndexError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(IndexError::Io {
            op: "remove",
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}
