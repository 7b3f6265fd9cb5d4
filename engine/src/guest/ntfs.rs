//! NTFS: names, times and content. Its journal is not replayed; an unclean one is told.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod file;
mod folder;
mod record;
mod stream;

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use file::File;
use record::{Record, kind};
use stream::Stream;

use super::fields::{Fields, damaged};
use super::tree::{
    DirEntry, FileId, FileKind, FileSystem, GuestError, Stat, Volume, lookup_in_any_case,
};

const WHAT: &str = "ntfs file system";

/// Returns whether a volume that starts with these bytes holds NTFS.
pub fn is(start: &[u8]) -> bool {
    start.get(3..11) == Some(b"NTFS    ")
}

/// Opens the file system of a volume.
pub fn open(volume: Arc<dyn Volume>) -> Result<Box<dyn FileSystem>, GuestError> {
    let mut start = vec![0; 512];
    volume.read_at(0, &mut start)?;
    let mut disk = Disk::decode(Fields::new(WHAT, &start), volume)?;
    let mut table = vec![0; disk.record_size];
    disk.volume
        .read_at(disk.bytes_of(disk.table_cluster), &mut table)?;
    let table = Record::decode(&mut table)?;
    let missing = || damaged(WHAT, "the master file table is missing");
    let first = Stream::find(&table.attributes, kind::DATA, b"")?;
    // Where the table itself is in many parts, its first part has the records with the others.
    disk.table = first.ok_or_else(missing)?;
    let whole = File::read(&disk, FileId(TABLE))?;
    let whole = Stream::find(&whole.attributes, kind::DATA, b"")?;
    disk.table = whole.ok_or_else(missing)?;
    let caveats = caveats(&disk)?;
    let ntfs = Ntfs { disk, caveats };
    if ntfs.stat(ntfs.root())?.kind != FileKind::Folder {
        return Err(damaged(WHAT, "the top folder is none"));
    }
    Ok(Box::new(ntfs))
}

/// Numbers of the records of the system's own files.
const TABLE: u64 = 0;
const LOG: u64 = 2;
const VOLUME: u64 = 3;
const TOP: u64 = 5;

/// A volume, and where its files are.
struct Disk {
    volume: Arc<dyn Volume>,
    cluster_size: NonZeroU64,
    record_size: usize,
    table_cluster: u64,
    table: Stream,
}

impl Disk {
    /// Bits of a reference to a file that are the number of its record.
    const NUMBER_MASK: u64 = 0xffff_ffff_ffff;

    fn decode(fields: Fields<'_>, volume: Arc<dyn Volume>) -> Result<Self, GuestError> {
        let bad = || damaged(WHAT, "the boot sector's sizes are impossible");
        if !is(fields.bytes()) {
            return Err(damaged(WHAT, "it has no boot sector"));
        }
        let sector_size = u64::from(fields.le16(11)?);
        let sectors = match fields.u8(13)? {
            few @ 0..=0x80 => u64::from(few),
            log => 1_u64
                .checked_shl(256_u32.saturating_sub(u32::from(log)))
                .ok_or_else(bad)?,
        };
        let cluster_size = sector_size.checked_mul(sectors).ok_or_else(bad)?;
        let record_size = match fields.u8(64)?.cast_signed() {
            clusters @ 0.. => cluster_size.checked_mul(u64::from(clusters.unsigned_abs())),
            log => 1_u64.checked_shl(u32::from(log.unsigned_abs())),
        };
        let record_size = record_size.filter(|size| (512..=65536).contains(size));
        if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
            return Err(bad());
        }
        Ok(Self {
            volume,
            cluster_size: NonZeroU64::new(cluster_size).ok_or_else(bad)?,
            record_size: record_size
                .and_then(|size| usize::try_from(size).ok())
                .ok_or_else(bad)?,
            table_cluster: fields.le64(48)?,
            table: Stream::Resident(Vec::new()),
        })
    }

    /// Returns the length of clusters in bytes.
    fn bytes_of(&self, clusters: u64) -> u64 {
        clusters.saturating_mul(self.cluster_size.get())
    }

    /// Reads a record of the table.
    fn record(&self, number: u64) -> Result<Record, GuestError> {
        let size = u64::try_from(self.record_size).unwrap_or(u64::MAX);
        let mut bytes = vec![0; self.record_size];
        self.table
            .read_at(self, number.saturating_mul(size), &mut bytes)?;
        Record::decode(&mut bytes)
    }
}

/// Tells what keeps files from being as the guest would see them.
fn caveats(disk: &Disk) -> Result<Vec<String>, GuestError> {
    let mut caveats = Vec::new();
    let volume = File::read(disk, FileId(VOLUME))?;
    let information = Stream::find(&volume.attributes, kind::VOLUME_INFORMATION, b"")?;
    let information = information.ok_or_else(|| damaged(WHAT, "the volume has no flags"))?;
    let information = information.read_whole(disk, 4096)?;
    if Fields::new(WHAT, &information).le16(10)? & 1 != 0 {
        caveats.push("the ntfs file system is marked as one to be checked".to_owned());
    }
    if !log_is_clean(disk)? {
        caveats.push(
            "the log of the ntfs file system was not replayed: \
             the last changes before the snapshot may be missing"
                .to_owned(),
        );
    }
    Ok(caveats)
}

/// Tells by the newer of the two restart pages whether the log was closed.
fn log_is_clean(disk: &Disk) -> Result<bool, GuestError> {
    const NO_CLIENT: u16 = 0xffff;
    const FLAG_CLEAN: u16 = 2;
    let log = File::read(disk, FileId(LOG))?;
    let Some(log) = Stream::find(&log.attributes, kind::DATA, b"")? else {
        return Ok(true);
    };
    let mut newest: Option<(u64, bool)> = None;
    let mut page = vec![0; 4096];
    for offset in [0, 4096] {
        log.read_at(disk, offset, &mut page)?;
        let fields = Fields::new(WHAT, &page);
        if fields.get(0, 4)? != b"RSTR" {
            continue;
        }
        let area = fields.from(usize::from(fields.le16(24)?))?;
        let clean = area.le16(12)? == NO_CLIENT || area.le16(14)? & FLAG_CLEAN != 0;
        let written = area.le64(0)?;
        if newest.is_none_or(|(newest, _)| newest < written) {
            newest = Some((written, clean));
        }
    }
    Ok(newest.is_none_or(|(_, clean)| clean))
}

struct Ntfs {
    disk: Disk,
    caveats: Vec<String>,
}

impl Ntfs {
    fn file(&self, file: FileId, kind: FileKind) -> Result<File, GuestError> {
        let file = File::read(&self.disk, file)?;
        match kind {
            _ if file.kind()? == kind => Ok(file),
            FileKind::Folder => Err(GuestError::NotAFolder),
            _ => Err(GuestError::NotFound),
        }
    }
}

impl FileSystem for Ntfs {
    fn kind(&self) -> &'static str {
        "ntfs"
    }

    fn caveats(&self) -> &[String] {
        &self.caveats
    }

    fn root(&self) -> FileId {
        FileId(TOP)
    }

    fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
        File::read(&self.disk, file)?.stat()
    }

    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError> {
        folder::read(&self.disk, &self.file(folder, FileKind::Folder)?, sink)
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<FileId, GuestError> {
        lookup_in_any_case(self, folder, name)
    }

    fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError> {
        self.file(link, FileKind::Symlink)?.link_target()
    }

    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        let content = self.file(file, FileKind::File)?.content()?;
        content.read(&self.disk, sink)
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
        Ok(Vec::new())
    }
}
