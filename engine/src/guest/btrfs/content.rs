//! The content of files and of symbolic links.

use std::io::{self, Read};

use super::inode::Subvolume;
use super::tree::Tree;
use super::{Btrfs, WHAT};
use crate::guest::fields::{Fields, damaged, unsupported};
use crate::guest::guard::guarded;
use crate::guest::tree::GuestError;

const EXTENT_DATA: u8 = 108;

/// What is handed out at once.
const RUN_LEN: u64 = 1 << 20;

/// The longest target of a symbolic link.
const LINK_MAX: usize = 4095;

/// The most that one compressed extent holds, packed and unpacked. The kernel makes none above
/// 128 KiB.
const COMPRESSED_MAX: u64 = 1 << 20;

/// Takes runs of content with their offsets.
type Sink<'s> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 's;

/// Hands the content of a file of `size` bytes to `sink`, without its holes.
pub(super) fn read(
    fs: &Btrfs,
    subvolume: Subvolume,
    inode: u64,
    size: u64,
    sink: &mut Sink<'_>,
) -> Result<(), GuestError> {
    let mut end = 0;
    fs.tree
        .all_of(subvolume.root, (inode, EXTENT_DATA), &mut |start, item| {
            if start >= size {
                return Ok(false);
            }
            if start < end {
                return Err(damaged(WHAT, "the extents of a file overlap"));
            }
            let extent = Extent::decode(Fields::new(WHAT, item))?;
            let len = extent.len.min(size.saturating_sub(start));
            end = start.saturating_add(extent.len);
            extent.read(fs, start, len, sink)?;
            Ok(true)
        })
}

/// Returns where a symbolic link points.
pub(super) fn read_link(
    fs: &Btrfs,
    subvolume: Subvolume,
    inode: u64,
    size: u64,
) -> Result<Vec<u8>, GuestError> {
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    if len > LINK_MAX {
        return Err(damaged(WHAT, "the target of a symbolic link is too long"));
    }
    let mut target = Vec::new();
    read(fs, subvolume, inode, size, &mut |_, run| {
        target.extend_from_slice(run);
        Ok(())
    })?;
    if target.len() != len {
        return Err(damaged(WHAT, "the target of a symbolic link is cut short"));
    }
    Ok(target)
}

/// Where the bytes of an extent are.
enum Place<'a> {
    Hole,
    /// In the item.
    Inline(&'a [u8]),
    /// At a logical address; as many bytes as the extent has, or as many as are given packed.
    At {
        logical: u64,
        packed_len: u64,
    },
}

/// A run of a file.
struct Extent<'a> {
    place: Place<'a>,
    /// Bytes of the file that it holds.
    len: u64,
    compression: u8,
    /// Bytes of the unpacked content that lie before those of this file.
    skip: u64,
    /// Bytes of the unpacked content.
    unpacked_len: u64,
}

impl<'a> Extent<'a> {
    const INLINE: u8 = 0;
    const REGULAR: u8 = 1;
    const PREALLOCATED: u8 = 2;

    fn decode(fields: Fields<'a>) -> Result<Self, GuestError> {
        let (unpacked_len, compression) = (fields.le64(8)?, fields.u8(16)?);
        if fields.u8(17)? != 0 {
            return Err(unsupported(WHAT, "encryption"));
        }
        let kind = fields.u8(20)?;
        if kind == Self::INLINE {
            return Ok(Self {
                place: Place::Inline(fields.from(21)?.bytes()),
                len: unpacked_len,
                compression,
                skip: 0,
                unpacked_len,
            });
        }
        let logical = fields.le64(21)?;
        let place = match kind {
            Self::REGULAR if logical != 0 => Place::At {
                logical,
                packed_len: fields.le64(29)?,
            },
            Self::REGULAR | Self::PREALLOCATED => Place::Hole,
            _ => return Err(damaged(WHAT, "an extent is of no known kind")),
        };
        Ok(Self {
            place,
            len: fields.le64(45)?,
            compression,
            skip: fields.le64(37)?,
            unpacked_len,
        })
    }

    /// Hands the first `len` bytes to `sink`, which lie at `start` in the file.
    fn read(
        &self,
        fs: &Btrfs,
        start: u64,
        len: u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), GuestError> {
        let packed = match self.place {
            Place::Hole => return Ok(()),
            Place::At { logical, .. } if self.compression == 0 => {
                let from = logical.saturating_add(self.skip);
                return copy(&fs.tree, from, start, len, sink);
            }
            Place::Inline(bytes) => bytes.to_vec(),
            Place::At {
                logical,
                packed_len,
            } => {
                let mut packed = vec![0; bounded(packed_len)?];
                fs.tree.read(logical, &mut packed)?;
                packed
            }
        };
        let content = unpack(
            self.compression,
            &packed,
            bounded(self.unpacked_len)?,
            fs.sector_size,
        )?;
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let held = content.get(skip..).unwrap_or_default();
        let run = held.get(..len.min(held.len())).unwrap_or_default();
        if !run.is_empty() {
            sink(start, run)?;
        }
        Ok(())
    }
}

fn bounded(len: u64) -> Result<usize, GuestError> {
    usize::try_from(len)
        .ok()
        .filter(|_| len <= COMPRESSED_MAX)
        .ok_or_else(|| damaged(WHAT, "a compressed extent is too large"))
}

fn copy(
    tree: &Tree,
    logical: u64,
    start: u64,
    len: u64,
    sink: &mut Sink<'_>,
) -> Result<(), GuestError> {
    let mut run = Vec::new();
    let mut done = 0;
    while done < len {
        let now = len.saturating_sub(done).min(RUN_LEN);
        run.resize(usize::try_from(now).unwrap_or_default(), 0);
        tree.read(logical.saturating_add(done), &mut run)?;
        sink(start.saturating_add(done), &run)?;
        done = done.saturating_add(now);
    }
    Ok(())
}

/// Returns at most `len` bytes of what was packed; a packer may end before the end of the extent,
/// the rest being zeros that nobody reads.
fn unpack(
    compression: u8,
    packed: &[u8],
    len: usize,
    sector_size: usize,
) -> Result<Vec<u8>, GuestError> {
    let limit = u64::try_from(len).unwrap_or(u64::MAX);
    let mut content = Vec::with_capacity(len);
    let unpacked = match compression {
        0 => packed.take(limit).read_to_end(&mut content),
        1 => flate2::read::ZlibDecoder::new(packed)
            .take(limit)
            .read_to_end(&mut content),
        2 => return guarded(WHAT, || unpack_lzo(packed, len, sector_size)),
        3 => zstd::stream::read::Decoder::with_buffer(packed)
            .and_then(|decoder| decoder.single_frame().take(limit).read_to_end(&mut content)),
        other => return Err(unsupported(WHAT, format!("compression number {other}"))),
    };
    unpacked.map_err(|source| GuestError::Damaged {
        what: WHAT,
        source: Box::new(source),
    })?;
    Ok(content)
}

/// LZO is packed by sectors, each with its length before it; a length never crosses the end of a
/// sector.
fn unpack_lzo(packed: &[u8], len: usize, sector_size: usize) -> Result<Vec<u8>, GuestError> {
    let fields = Fields::new(WHAT, packed);
    let total = usize::try_from(fields.le32(0)?).unwrap_or(usize::MAX);
    let fields = Fields::new(WHAT, fields.get(0, total)?);
    let mut content: Vec<u8> = Vec::with_capacity(len);
    let mut sector = vec![0; sector_size];
    let mut at: usize = 4;
    while at < total && content.len() < len {
        let left = at.next_multiple_of(sector_size).saturating_sub(at);
        if (1..4).contains(&left) {
            at = at.saturating_add(left);
            continue;
        }
        let packed_len = usize::try_from(fields.le32(at)?).unwrap_or(usize::MAX);
        let segment = fields.get(at.saturating_add(4), packed_len)?;
        at = at.saturating_add(4).saturating_add(packed_len);
        let unpacked = lzokay::decompress::decompress(segment, &mut sector)
            .map_err(|_| damaged(WHAT, "a compressed extent cannot be unpacked"))?;
        content.extend_from_slice(sector.get(..unpacked).unwrap_or_default());
    }
    content.truncate(len);
    Ok(content)
}
