//! The one user of RocksDB: how it is set, opened, asked and added to.
//!
//! A database is only ever added to by ingesting sorted tables, so it has neither log nor
//! memtable, and what one ingest holds becomes visible and durable as one.

use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle,
    DBCompressionType, IngestExternalFileOptions, LogLevel, Options, ReadOptions,
    UniversalCompactOptions, UniversalCompactionStopStyle, WaitForCompactOptions,
};

use super::IndexError;
use super::packs::TakenIn;
use super::place::{Key, META_KEY, Place, RECORD_END, RECORD_PREFIX};
use crate::id::{ContentId, PackId};
use crate::limits::{KIB, MIB};

/// Ids looked up in one call: from 128 upward RocksDB gets no faster, and a batch of this size
/// pins a few megabytes of blocks at most.
pub(super) const BATCH: usize = 1024;

/// Length at which a table is closed. Bounds the memory that building a table's filter takes
/// (30 MiB for a million keys), and keeps the largest index (28 GB) within 450 open files.
pub(super) const TABLE_LEN: u64 = 64 * MIB;

/// Sorted runs that a look-up may have to ask; one more starts a merge. Each costs a miss one
/// filter probe.
const SORTED_RUNS_MAX: i32 = 6;

/// Bits of filter for a key: one miss in a hundred reads a block.
const FILTER_BITS: f64 = 10.0;

/// An open database.
pub(super) struct Db {
    inner: DB,
    options: Options,
    folder: PathBuf,
}

/// What a database is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Any number of processes at once. Every table is opened at once, so that the database stays
    /// whole for this process whatever others do to the folder.
    Read,
    /// One process; the database is made if it is missing.
    Write,
}

/// What answers a look-up.
pub(super) type Answer = Result<Option<Place>, IndexError>;

impl Db {
    pub(super) fn open(folder: &Path, access: Access, cache: u64) -> Result<Self, IndexError> {
        let options = options(cache);
        let families = [ColumnFamilyDescriptor::new("default", options.clone())];
        let opened = match access {
            Access::Read => DB::open_cf_descriptors_read_only(&options, folder, families, false),
            Access::Write => DB::open_cf_descriptors(&options, folder, families),
        };
        match opened {
            Ok(inner) => Ok(Self {
                inner,
                options,
                folder: folder.to_path_buf(),
            }),
            Err(source) => Err(IndexError::Database {
                op: "open",
                folder: folder.to_path_buf(),
                source,
            }),
        }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Looks up at most [`BATCH`] ids, which must be sorted and differ.
    pub(super) fn get(&self, ids: &[ContentId]) -> Vec<Answer> {
        assert!(ids.len() <= BATCH, "look-ups come in bounded batches");
        let mut read = ReadOptions::default();
        read.set_async_io(false);
        self.inner
            .batched_multi_get_cf_opt(
                self.family(),
                ids.iter().map(ContentId::as_bytes),
                true,
                &read,
            )
            .into_iter()
            .map(|answer| match answer {
                Ok(None) => Ok(None),
                Ok(Some(value)) => self.place(&value).map(Some),
                Err(source) => Err(self.failed("read", source)),
            })
            .collect()
    }

    /// Returns every place of an id but the one that [`Self::get`] answers with.
    pub(super) fn others(&self, id: ContentId) -> Result<Vec<Place>, IndexError> {
        let mut cursor = self.inner.raw_iterator_cf(self.family());
        // One byte more than the entry's own key: the least that sorts behind it.
        let mut from = id.as_bytes().to_vec();
        from.push(0);
        cursor.seek(&from);
        let mut places = Vec::new();
        while let Some((key, value)) = cursor.item() {
            match Key::from_bytes(key) {
                Some(Key::Other(found, _)) if found == id => places.push(self.place(value)?),
                _ => break,
            }
            cursor.next();
        }
        cursor
            .status()
            .map_err(|source| self.failed("read", source))?;
        Ok(places)
    }

    /// Returns the record that says whose index this is.
    pub(super) fn meta(&self) -> Result<Option<Vec<u8>>, IndexError> {
        self.inner
            .get_cf(self.family(), META_KEY)
            .map_err(|source| self.failed("read", source))
    }

    /// Lists the packs that have been taken in.
    pub(super) fn taken_in(&self) -> Result<Vec<TakenIn>, IndexError> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_lower_bound(RECORD_PREFIX);
        bounds.set_iterate_upper_bound(RECORD_END);
        let mut cursor = self.inner.raw_iterator_cf_opt(self.family(), bounds);
        cursor.seek_to_first();
        let mut records = Vec::new();
        while let Some((key, value)) = cursor.item() {
            let (Some(Key::TakenIn(pack)), Ok(entries)) = (Key::from_bytes(key), value.try_into())
            else {
                return Err(self.unknown_entry());
            };
            records.push(TakenIn {
                pack,
                entries: u32::from_le_bytes(entries),
            });
            cursor.next();
        }
        cursor
            .status()
            .map_err(|source| self.failed("read", source))?;
        Ok(records)
    }

    /// Returns all places in the order of their ids, reading ahead.
    pub(super) fn places(&self) -> impl Iterator<Item = Result<(ContentId, Place), IndexError>> {
        let mut read = ReadOptions::default();
        read.fill_cache(false);
        read.set_readahead_size(256 * KIB as usize);
        let mut cursor = self.inner.raw_iterator_cf_opt(self.family(), read);
        cursor.seek_to_first();
        std::iter::from_fn(move || {
            let Some((key, value)) = cursor.item() else {
                let failed = cursor.status().err()?;
                return Some(Err(self.failed("read", failed)));
            };
            let (Some(Key::Entry(id) | Key::Other(id, _)), Ok(place)) =
                (Key::from_bytes(key), self.place(value))
            else {
                return Some(Err(self.unknown_entry()));
            };
            cursor.next();
            Some(Ok((id, place)))
        })
    }

    /// Takes finished tables over from where they lie, all of them at once. Durable on return.
    pub(super) fn ingest(&self, tables: Vec<PathBuf>) -> Result<(), IndexError> {
        let mut how = IngestExternalFileOptions::default();
        how.set_move_files(true);
        self.inner
            .ingest_external_file_cf_opts(self.family(), &how, tables)
            .map_err(|source| self.failed("add to", source))
    }

    /// Waits for merges of sorted runs to finish.
    pub(super) fn settle(&self) -> Result<(), IndexError> {
        self.inner
            .wait_for_compact(&WaitForCompactOptions::default())
            .map_err(|source| self.failed("merge", source))
    }

    pub(super) fn failed(&self, op: &'static str, source: rocksdb::Error) -> IndexError {
        IndexError::Database {
            op,
            folder: self.folder.clone(),
            source,
        }
    }

    fn family(&self) -> &ColumnFamily {
        self.inner
            .cf_handle("default")
            .expect("every database is opened with this family")
    }

    fn place(&self, value: &[u8]) -> Result<Place, IndexError> {
        Place::from_bytes(value).ok_or_else(|| self.unknown_entry())
    }

    fn unknown_entry(&self) -> IndexError {
        IndexError::UnknownEntry {
            folder: self.folder.clone(),
        }
    }
}

/// Returns the key and value that say that a pack is taken in.
pub(super) fn record(pack: PackId, entries: u32) -> (Vec<u8>, Vec<u8>) {
    (
        Key::TakenIn(pack).to_bytes(),
        entries.to_le_bytes().to_vec(),
    )
}

fn options(cache: u64) -> Options {
    let mut tables = BlockBasedOptions::default();
    let cache = usize::try_from(cache).unwrap_or(usize::MAX);
    tables.set_block_cache(&Cache::new_lru_cache(cache));
    tables.set_block_size(4 * KIB as usize);
    tables.set_format_version(6);
    tables.set_ribbon_filter(FILTER_BITS);
    tables.set_whole_key_filtering(true);

    let mut merging = UniversalCompactOptions::default();
    merging.set_stop_style(UniversalCompactionStopStyle::Total);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&tables);
    // Ids are hashes and packs' names are hashes: nothing to compress.
    options.set_compression_type(DBCompressionType::None);
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_universal_compaction_options(&merging);
    options.set_level_zero_file_num_compaction_trigger(SORTED_RUNS_MAX);
    // Nobody writes through the memtable, so nobody can be slowed down to good effect.
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    options.set_write_buffer_size(MIB as usize);
    options.set_target_file_size_base(TABLE_LEN);
    options.set_max_background_jobs(2);
    options.set_max_open_files(-1);
    options.set_max_file_opening_threads(2);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_info_logger(rocksdb::InfoLogger::new_callback_logger(
        LogLevel::Fatal,
        |_, _| {},
    ));
    options
}
