//! The label of a physical volume, and the metadata of its group that it leads to.

use super::super::checksum::crc32;
use super::super::fields::{array, le32, le64};
use super::super::tree::{GuestError, Volume};
use super::damaged;

/// What checksums begin with.
const SEED: u32 = 0xf597_a6cf;
/// A label stands in one of the first four sectors.
const LABEL_SECTORS: usize = 4;
const SECTOR_LEN: usize = 512;
const ID_LEN: usize = 32;
/// Where an area of metadata goes on when its end is reached.
const AREA_HEADER_LEN: u64 = 512;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// An area whose text is not kept up.
const FLAG_IGNORED: u32 = 0x1;
/// Longest metadata that is read. What LVM makes by default fits 1 MiB.
const METADATA_LEN_MAX: u64 = 16 * 1024 * 1024;

/// What a physical volume says of itself.
#[derive(Debug)]
pub(super) struct Label {
    /// Its id, without hyphens.
    pub id: String,
    /// The metadata of its group; a member may be without.
    pub metadata: Option<Vec<u8>>,
}

/// Reads the label of a physical volume.
pub(super) fn read(volume: &dyn Volume) -> Result<Label, GuestError> {
    let mut sectors = vec![0; LABEL_SECTORS.saturating_mul(SECTOR_LEN)];
    volume.read_at(0, &mut sectors)?;
    let label = (0_u64..)
        .zip(sectors.chunks_exact(SECTOR_LEN))
        .find_map(decode);
    let (id, areas) = label.ok_or_else(|| damaged("the label of a physical volume is damaged"))?;
    let mut metadata = None;
    for (offset, len) in &areas {
        metadata = metadata.or(read_area(volume, *offset, *len)?);
    }
    if metadata.is_none() && !areas.is_empty() {
        return Err(damaged("no copy of its metadata is whole"));
    }
    Ok(Label { id, metadata })
}

type Areas = Vec<(u64, u64)>;

/// Decodes a label that stands in the sector of this number, if one does.
fn decode((number, sector): (u64, &[u8])) -> Option<(String, Areas)> {
    let is_label = sector.starts_with(b"LABELONE") && le64(sector, 8)? == number;
    if !is_label || crc32(SEED, sector.get(20..)?) != le32(sector, 16)? {
        return None;
    }
    let header = sector.get(usize::try_from(le32(sector, 20)?).ok()?..)?;
    let id = array::<ID_LEN>(header, 0)?;
    let id = std::str::from_utf8(&id).ok()?.to_owned();
    // Two lists follow, each ended by zeros: where extents are, and where metadata is.
    let mut rest = header.get(40..)?.chunks_exact(16);
    let mut list = || {
        let pairs = rest.by_ref().map_while(|pair| {
            let (offset, len) = (le64(pair, 0)?, le64(pair, 8)?);
            (offset != 0).then_some((offset, len))
        });
        pairs.collect::<Areas>()
    };
    drop(list());
    Some((id, list()))
}

/// Reads the text of an area, if it is whole.
fn read_area(
    volume: &dyn Volume,
    start: u64,
    area_len: u64,
) -> Result<Option<Vec<u8>>, GuestError> {
    let mut header = vec![0; SECTOR_LEN];
    let end = start
        .checked_add(area_len)
        .filter(|end| *end <= volume.size());
    if end.is_none() || area_len < AREA_HEADER_LEN {
        return Ok(None);
    }
    volume.read_at(start, &mut header)?;
    let Some(text) = Text::decode(&header, start, area_len) else {
        return Ok(None);
    };
    let mut bytes = vec![0; usize::try_from(text.len).unwrap_or_default()];
    let first = text.len.min(area_len.saturating_sub(text.offset));
    let first = usize::try_from(first).unwrap_or_default();
    let first = first.min(bytes.len());
    let (before, after) = bytes.split_at_mut(first);
    volume.read_at(start.saturating_add(text.offset), before)?;
    volume.read_at(start.saturating_add(AREA_HEADER_LEN), after)?;
    let is_whole = crc32(SEED, &bytes) == text.checksum;
    Ok(is_whole.then_some(bytes))
}

/// Where the text stands in its area.
struct Text {
    offset: u64,
    len: u64,
    checksum: u32,
}

impl Text {
    fn decode(header: &[u8], start: u64, area_len: u64) -> Option<Self> {
        let is_sound = crc32(SEED, header.get(4..)?) == le32(header, 0)?
            && array::<16>(header, 4)? == *AREA_MAGIC
            && le64(header, 24)? == start
            && le32(header, 60)? & FLAG_IGNORED == 0;
        let text = Self {
            offset: le64(header, 40)?,
            len: le64(header, 48)?,
            checksum: le32(header, 56)?,
        };
        let room = area_len.checked_sub(AREA_HEADER_LEN)?;
        let is_inside = (AREA_HEADER_LEN..area_len).contains(&text.offset)
            && (1..=room.min(METADATA_LEN_MAX)).contains(&text.len);
        (is_sound && is_inside).then_some(text)
    }
}
