//! Files: their names, times and kinds.

use super::record::{Attribute, Record, Value, kind};
use super::stream::Stream;
use super::{Disk, WHAT};
use crate::guest::fields::{Fields, damaged, time, unsupported};
use crate::guest::tree::{FileId, FileKind, FileTime, GuestError, Stat};

/// The longest list of attributes that the system makes.
const LIST_MAX: u64 = 256 << 10;

/// What the records of one file may come to: as many of the usual length as a list can name.
const RECORDS_LEN_MAX: usize = 16 << 20;

/// Runs that the attributes of one file may have; Windows ends at some 1.5 million.
const RUNS_MAX: usize = 2 << 20;

/// The longest reparse point.
const REPARSE_MAX: u64 = 16 << 10;

/// The name space of the short names that stand beside long ones.
const DOS_NAMES: u8 = 2;

const TAG_LINK: u32 = 0xa000_000c;
const TAG_MOUNT_POINT: u32 = 0xa000_0003;
const TAG_LX_LINK: u32 = 0xa000_001d;
const TAG_LX_SOCKET: u32 = 0x8000_0023;
const TAG_LX_FIFO: u32 = 0x8000_0024;

/// A file: all of its attributes, wherever they are.
pub(super) struct File {
    pub attributes: Vec<Attribute>,
    folder: bool,
    reparse: Option<Vec<u8>>,
}

impl File {
    /// Reads a file by its reference: number of its record, and above it the times that the record
    /// was used.
    pub fn read(disk: &Disk, file: FileId) -> Result<Self, GuestError> {
        let number = file.0 & Disk::NUMBER_MASK;
        let record = disk.record(number)?;
        let sequence = u16::try_from(file.0 >> 48).unwrap_or_default();
        if record.base != 0 || sequence != 0 && sequence != record.sequence {
            return Err(damaged(WHAT, "a name names no file"));
        }
        let folder = record.folder;
        let attributes = with_list(disk, number, record)?;
        let reparse = Stream::find(&attributes, kind::REPARSE_POINT, b"")?;
        let reparse = reparse.map(|stream| stream.read_whole(disk, REPARSE_MAX));
        Ok(Self {
            attributes,
            folder,
            reparse: reparse.transpose()?,
        })
    }

    /// Returns what the file is.
    pub fn kind(&self) -> Result<FileKind, GuestError> {
        Ok(match self.reparse_tag()? {
            Some(TAG_LINK | TAG_MOUNT_POINT | TAG_LX_LINK) => FileKind::Symlink,
            Some(TAG_LX_SOCKET) => FileKind::Socket,
            Some(TAG_LX_FIFO) => FileKind::Fifo,
            _ if self.folder => FileKind::Folder,
            _ => FileKind::File,
        })
    }

    fn reparse_tag(&self) -> Result<Option<u32>, GuestError> {
        let reparse = self.reparse.as_deref();
        reparse
            .map(|bytes| Fields::new(WHAT, bytes).le32(0))
            .transpose()
    }

    /// Returns what is known of the file.
    pub fn stat(&self) -> Result<Stat, GuestError> {
        let information = self
            .attributes
            .iter()
            .find_map(|attribute| match &attribute.value {
                Value::Resident(bytes) if attribute.kind == kind::INFORMATION => Some(bytes),
                _ => None,
            });
        let information = information.ok_or_else(|| damaged(WHAT, "a file has no times"))?;
        let information = Fields::new(WHAT, information);
        let kind = self.kind()?;
        let size = match kind {
            FileKind::File => self.data_size(),
            FileKind::Symlink => u64::try_from(self.link_target()?.len()).unwrap_or(u64::MAX),
            _ => 0,
        };
        Ok(Stat {
            kind,
            mode: None,
            owner: None,
            size,
            links: self.links()?,
            modified: nt_time(information.le64(8)?),
            accessed: Some(nt_time(information.le64(24)?)),
        })
    }

    fn data_size(&self) -> u64 {
        let unnamed = self
            .attributes
            .iter()
            .filter(|attribute| attribute.kind == kind::DATA && attribute.name.is_empty());
        unnamed
            .map(|attribute| match &attribute.value {
                Value::Resident(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                Value::Runs { size, .. } => *size,
            })
            .max()
            .unwrap_or_default()
    }

    /// Counts the names, but those that only stand in for a long one.
    fn links(&self) -> Result<u32, GuestError> {
        let mut links: u32 = 0;
        for attribute in &self.attributes {
            if attribute.kind == kind::FILE_NAME
                && let Value::Resident(bytes) = &attribute.value
                && Fields::new(WHAT, bytes).u8(65)? != DOS_NAMES
            {
                links = links.saturating_add(1);
            }
        }
        Ok(links)
    }

    /// Returns the content.
    pub fn content(&self) -> Result<Stream, GuestError> {
        if let Some(tag) = self.reparse_tag()? {
            return Err(unsupported(
                WHAT,
                format!("reparse points of kind {tag:#x}"),
            ));
        }
        let data = Stream::find(&self.attributes, kind::DATA, b"")?;
        Ok(data.unwrap_or(Stream::Resident(Vec::new())))
    }

    /// Returns where the link points, with `/` for `\`.
    pub fn link_target(&self) -> Result<Vec<u8>, GuestError> {
        let bytes = self.reparse.as_deref().ok_or(GuestError::NotFound)?;
        let fields = Fields::new(WHAT, bytes);
        let data = Fields::new(WHAT, fields.get(8, usize::from(fields.le16(4)?))?);
        let paths = match fields.le32(0)? {
            TAG_LX_LINK => return Ok(data.from(4)?.bytes().to_vec()),
            TAG_LINK => 12,
            TAG_MOUNT_POINT => 8,
            _ => return Err(GuestError::NotFound),
        };
        // The printed name is the one for people; the other may have a prefix of the system's.
        const SUBSTITUTE: usize = 0;
        const PRINTED: usize = 4;
        let at = if data.le16(PRINTED + 2)? > 0 {
            PRINTED
        } else {
            SUBSTITUTE
        };
        let (start, len) = (
            usize::from(data.le16(at)?),
            data.le16(at.saturating_add(2))?,
        );
        let path = data.from(paths)?.get(start, usize::from(len))?;
        let mut path = text(path);
        for byte in &mut path {
            if *byte == b'\\' {
                *byte = b'/';
            }
        }
        Ok(path)
    }
}

/// Adds the attributes that lie in other records.
fn with_list(disk: &Disk, number: u64, record: Record) -> Result<Vec<Attribute>, GuestError> {
    let mut attributes = record.attributes;
    let Some(list) = Stream::find(&attributes, kind::LIST, b"")? else {
        return Ok(attributes);
    };
    let list = list.read_whole(disk, LIST_MAX)?;
    let mut rest = Fields::new(WHAT, &list);
    let mut others = Vec::new();
    while !rest.bytes().is_empty() {
        others.push(rest.le64(16)? & Disk::NUMBER_MASK);
        let len = usize::from(rest.le16(4)?);
        if len < 26 {
            return Err(damaged(WHAT, "a list of attributes makes no sense"));
        }
        rest = rest.from(len)?;
    }
    others.sort_unstable();
    others.dedup();
    others.retain(|other| *other != number);
    if others.len().saturating_mul(disk.record_size) > RECORDS_LEN_MAX {
        return Err(damaged(WHAT, "a file has too many records"));
    }
    let mut runs_left = RUNS_MAX;
    for other in others {
        let record = disk.record(other)?;
        if record.base & Disk::NUMBER_MASK != number {
            return Err(damaged(WHAT, "a list of attributes leads to another file"));
        }
        for attribute in record.attributes {
            if let Value::Runs { runs, .. } = &attribute.value {
                runs_left = runs_left
                    .checked_sub(runs.len())
                    .ok_or_else(|| damaged(WHAT, "a file is in too many pieces"))?;
            }
            attributes.push(attribute);
        }
    }
    Ok(attributes)
}

/// Returns UTF-16 as UTF-8; halves of pairs are written as if they were characters, so that
/// different names stay different.
pub(super) fn text(utf16: &[u8]) -> Vec<u8> {
    let units = utf16.chunks_exact(2).map(|unit| match unit {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let mut out = Vec::with_capacity(utf16.len());
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(character) => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Err(half) => {
                let [low, high] = half.unpaired_surrogate().to_le_bytes();
                let middle = 0x80 | (high & 0x0f) << 2 | low >> 6;
                out.extend_from_slice(&[0xe0 | high >> 4, middle, 0x80 | low & 0x3f]);
            }
        }
    }
    out
}

/// Counted in 100 ns since 1601.
fn nt_time(word: u64) -> FileTime {
    const TO_1970: i64 = 11_644_473_600;
    const PER_SECOND: u64 = 10_000_000;
    let seconds = i64::try_from(word / PER_SECOND).unwrap_or(i64::MAX);
    let rest = u32::try_from(word % PER_SECOND).unwrap_or_default();
    time(seconds.saturating_sub(TO_1970), rest.saturating_mul(100))
}
