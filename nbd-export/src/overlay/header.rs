//! The two pages before the maps: what the overlay belongs to, and when it was last written.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

use cairn_engine::id::{NodeId, RepositoryId, SnapshotId};

use super::Origin;
use super::layout::{BLOCK_LEN, PAGE_LEN};

/// The format that this code writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;

const MAGIC: [u8; 16] = *b"CAIRN OVERLAY\r\n\x1a";
/// Everything of a page but its check.
const CHECKED_LEN: usize = PAGE_LEN - CHECK_LEN;
const CHECK_LEN: usize = 32;
/// As the names of targets; the length is stored in two bytes.
const TARGET_LEN_MAX: usize = 255;
const BOOT_LEN: usize = 36;

const HEADER_CONTEXT: &str = "Cairn 2026 overlay 1 header";
const STATE_CONTEXT: &str = "Cairn 2026 overlay 1 state";

/// What stands in the first page, once and for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Random: tells the maps of one overlay from those of another.
    pub(super) id: [u8; 32],
    /// The disk's size in bytes.
    pub(super) size: u64,
    pub(super) origin: Origin,
}

/// Why a header is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    NotAnOverlay,
    UnsupportedVersion(u32),
    Damaged,
}

/// The time from one start of the machine to the next, as the kernel names it. What the kernel
/// held of a file at one of its times is lost to the next, unless it was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BootId(pub(super) [u8; BOOT_LEN]);

impl BootId {
    /// No time at all: nothing that the kernel holds is to be relied on.
    pub(super) const NONE: Self = Self([0; BOOT_LEN]);

    /// Takes what the kernel's file holds.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let id = text.strip_suffix(b"\n").unwrap_or(text);
        id.try_into().ok().map(Self)
    }
}

fn check(context: &str, bytes: &[u8]) -> [u8; CHECK_LEN] {
    blake3::derive_key(context, bytes)
}

/// Fills a page from its start with `parts`, and ends it with the check.
fn seal(context: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut page = parts.concat();
    assert!(page.len() <= CHECKED_LEN, "the parts have known lengths");
    page.resize(CHECKED_LEN, 0);
    let check = check(context, &page);
    page.extend_from_slice(&check);
    page
}

/// Returns the checked part of a page, if its check is right.
fn unseal<'a>(context: &str, page: &'a [u8; PAGE_LEN]) -> Option<&'a [u8]> {
    let (bytes, stored) = page.split_last_chunk::<CHECK_LEN>()?;
    (check(context, bytes) == *stored).then_some(bytes)
}

/// Takes fields off the front of a page.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }
}

impl Header {
    /// Returns the page.
    pub(super) fn encode(&self) -> Vec<u8> {
        let target = self.origin.target.as_bytes();
        assert!(target.len() <= TARGET_LEN_MAX, "targets are checked names");
        let target_len = u16::try_from(target.len()).expect("checked above");
        let parts: [&[u8]; 10] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &u32::try_from(BLOCK_LEN).expect("a constant").to_le_bytes(),
            &self.id,
            self.origin.repository.as_bytes(),
            self.origin.snapshot.as_bytes(),
            self.origin.recipe.as_bytes(),
            &self.size.to_le_bytes(),
            &target_len.to_le_bytes(),
            target,
        ];
        seal(HEADER_CONTEXT, &parts)
    }

    /// Reads the page. The version is looked at before anything that depends on it.
    pub(super) fn decode(page: &[u8; PAGE_LEN]) -> Result<Self, HeaderError> {
        let mut fields = Fields(page);
        if fields.array() != Some(MAGIC) {
            return Err(HeaderError::NotAnOverlay);
        }
        let version = u32::from_le_bytes(fields.array().ok_or(HeaderError::Damaged)?);
        if version != VERSION {
            return Err(HeaderError::UnsupportedVersion(version));
        }
        let bytes = unseal(HEADER_CONTEXT, page).ok_or(HeaderError::Damaged)?;
        Self::fields(bytes).ok_or(HeaderError::Damaged)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        fields.slice(MAGIC.len())?;
        fields.array::<4>()?;
        let block_len = u32::from_le_bytes(fields.array()?);
        let id = fields.array()?;
        let repository = RepositoryId::from_bytes(fields.array()?);
        let snapshot = SnapshotId::from_bytes(fields.array()?);
        let recipe = NodeId::from_bytes(fields.array()?);
        let size = u64::from_le_bytes(fields.array()?);
        let target_len = usize::from(u16::from_le_bytes(fields.array()?));
        let target = str::from_utf8(fields.slice(target_len)?).ok()?.to_owned();
        (u64::from(block_len) == BLOCK_LEN && target_len <= TARGET_LEN_MAX).then_some(Self {
            id,
            size,
            origin: Origin {
                repository,
                snapshot,
                target,
                recipe,
            },
        })
    }
}

/// Returns the page that says that the map of what was written holds for this time.
pub(super) fn encode_state(boot: BootId) -> Vec<u8> {
    seal(STATE_CONTEXT, &[&boot.0])
}

/// Reads the page of the state. One that does not check was torn by a power cut, and holds for no
/// time.
pub(super) fn decode_state(page: &[u8; PAGE_LEN]) -> BootId {
    let id = unseal(STATE_CONTEXT, page).and_then(|bytes| Fields(bytes).array());
    id.map_or(BootId::NONE, BootId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            id: [1; 32],
            size: 0x0123_4567_89ab,
            origin: Origin {
                repository: RepositoryId::from_bytes([2; 32]),
                snapshot: SnapshotId::from_bytes([3; 32]),
                target: "vda".into(),
                recipe: NodeId::from_bytes([4; 32]),
            },
        }
    }

    fn page(bytes: Vec<u8>) -> [u8; PAGE_LEN] {
        bytes.try_into().expect("a page")
    }

    #[test]
    fn a_header_stands_where_the_documentation_says() {
        let page = header().encode();
        assert_eq!(page.len(), 4096);
        assert_eq!(&page[..16], b"CAIRN OVERLAY\r\n\x1a");
        assert_eq!(page[16..24], [1, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(page[24..56], [1; 32]);
        assert_eq!(page[56..88], [2; 32]);
        assert_eq!(page[88..120], [3; 32]);
        assert_eq!(page[120..152], [4; 32]);
        assert_eq!(page[152..160], [0xab, 0x89, 0x67, 0x45, 0x23, 1, 0, 0]);
        assert_eq!(page[160..162], [3, 0]);
        assert_eq!(&page[162..165], b"vda");
        assert!(page[165..4064].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_header_comes_back_and_no_flipped_byte_passes() {
        let bytes = page(header().encode());
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for at in 0..PAGE_LEN {
            let mut flipped = bytes;
            flipped[at] ^= 0x40;
            let expected = match at {
                0..16 => HeaderError::NotAnOverlay,
                16..20 => HeaderError::UnsupportedVersion(1 ^ (0x40 << (8 * (at - 16)))),
                _ => HeaderError::Damaged,
            };
            assert_eq!(Header::decode(&flipped), Err(expected), "byte {at}");
        }
    }

    #[test]
    fn a_state_comes_back_and_a_flipped_byte_makes_it_hold_for_no_time() {
        let boot = BootId::parse(b"01234567-89ab-cdef-0123-456789abcdef\n").expect("an id");
        let bytes = page(encode_state(boot));
        assert_eq!(decode_state(&bytes), boot);
        for at in 0..PAGE_LEN {
            let mut flipped = bytes;
            flipped[at] ^= 1;
            assert_eq!(decode_state(&flipped), BootId::NONE, "byte {at}");
        }
        assert_eq!(BootId::parse(b"short"), None);
    }
}
