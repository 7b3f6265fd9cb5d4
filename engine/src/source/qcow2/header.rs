//! The header cluster: fields, feature bits, extensions and the backing file's name.
//!
//! Field offsets are those of qcow2's specification (`docs/interop/qcow2.rst` in QEMU).

use super::compressed::Compression;
use super::types::{Fault, Geometry, HostOffset, be_u32, be_u64, malformed};
use crate::limits::{DISK_LEN_MAX, MIB};
use crate::source::file::ReadAt;
use crate::source::spec::printable;

const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a version 2 header.
const V2_LEN: u32 = 72;
/// Bytes that a version 3 header has at least.
const V3_LEN_MIN: u32 = 104;
/// Longest L1 table. QEMU's limit.
const L1_LEN_MAX: u64 = 32 * MIB;
/// Longest name of a backing file. The specification's limit.
const BACKING_NAME_MAX: u32 = 1023;
/// `autoclear_features` bit that vouches for the bitmaps extension.
const AUTOCLEAR_BITMAPS: u64 = 1;

const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// Bit 0 says that reference counts may be stale: of no concern to a reader.
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;

/// The bitmaps extension.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitmapsExtension {
    pub count: u32,
    pub directory_len: u64,
    pub directory: HostOffset,
}

/// A decoded and checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub geometry: Geometry,
    /// Disk size in bytes, at most [`DISK_LEN_MAX`].
    pub size: u64,
    /// The active L1 table; lies within the file.
    pub l1: HostOffset,
    pub l1_entries: u64,
    pub snapshot_count: u32,
    pub snapshots: HostOffset,
    pub compression: Compression,
    /// Whether guest data lies in an external file.
    pub has_data_file: bool,
    pub data_file: Option<Vec<u8>>,
    pub backing: Option<Vec<u8>>,
    pub backing_format: Option<Vec<u8>>,
    pub bitmaps: Option<BitmapsExtension>,
    /// Whether whoever wrote last knew of bitmaps, so that the extension can be trusted.
    pub bitmaps_valid: bool,
}

/// The header extensions that mean something to a reader.
#[derive(Default)]
struct Extensions<'a> {
    backing_format: Option<&'a [u8]>,
    data_file: Option<&'a [u8]>,
    bitmaps: Option<&'a [u8]>,
    feature_names: Option<&'a [u8]>,
    encryption: bool,
}

impl Header {
    /// Reads the header cluster of `file` and decodes it.
    pub fn read(file: &dyn ReadAt) -> Result<Self, Fault> {
        let prelude = read_start(file, u64::from(V2_LEN))?;
        if be_u32(&prelude, 0) != Some(MAGIC) {
            return malformed("it does not begin as a qcow2 image does");
        }
        let cluster_bits = field_u32(&prelude, 20)?;
        let cluster_len = Geometry::new(cluster_bits, false)?.cluster_len();
        Header::decode(&read_start(file, cluster_len)?, file.size())
    }

    /// Decodes the header cluster (or as much of it as the file has) of a file of `file_len` bytes.
    pub fn decode(cluster: &[u8], file_len: u64) -> Result<Self, Fault> {
        let version = field_u32(cluster, 4)?;
        if !(2..=3).contains(&version) {
            return Err(Fault::Unsupported(format!("qcow2 version {version}")));
        }
        let is_v3 = version >= 3;
        let (incompatible, autoclear) = if is_v3 {
            (field_u64(cluster, 72)?, field_u64(cluster, 88)?)
        } else {
            (0, 0)
        };
        let cluster_bits = field_u32(cluster, 20)?;
        let header_len = header_len(cluster, is_v3, cluster_bits)?;
        let extensions = extensions(cluster, header_len);
        check_incompatible(incompatible, extensions.as_ref().ok())?;
        let extensions = extensions?;
        let method = field_u32(cluster, 32)?;
        check_encryption(method, extensions.encryption)?;

        let geometry = Geometry::new(cluster_bits, incompatible & INCOMPATIBLE_EXTENDED_L2 != 0)?;
        let size = field_u64(cluster, 24)?;
        if size > DISK_LEN_MAX {
            let feature = format!("a disk of {size} bytes (at most {DISK_LEN_MAX})");
            return Err(Fault::Unsupported(feature));
        }
        let l1 = HostOffset(field_u64(cluster, 40)?);
        let l1_entries = u64::from(field_u32(cluster, 36)?);
        check_l1("the L1 table", geometry, l1, l1_entries, file_len)?;
        let needed = geometry.l1_entries_for(size);
        if l1_entries < needed {
            return malformed(format!(
                "its L1 table of {l1_entries} entries is too small for the disk's {needed}"
            ));
        }
        let has_data_file = incompatible & INCOMPATIBLE_DATA_FILE != 0;
        Ok(Header {
            version,
            geometry,
            size,
            l1,
            l1_entries,
            snapshot_count: field_u32(cluster, 60)?,
            snapshots: HostOffset(field_u64(cluster, 64)?),
            compression: compression(cluster, header_len, incompatible)?,
            has_data_file,
            data_file: extensions.data_file.map(<[u8]>::to_vec),
            backing: backing_name(cluster, geometry)?,
            backing_format: extensions.backing_format.map(<[u8]>::to_vec),
            bitmaps: extensions.bitmaps.map(bitmaps_extension).transpose()?,
            bitmaps_valid: autoclear & AUTOCLEAR_BITMAPS != 0,
        })
    }
}

/// Reads the first `len` bytes, or all where the file is shorter.
fn read_start(file: &dyn ReadAt, len: u64) -> Result<Vec<u8>, Fault> {
    let len = usize::try_from(len.min(file.size()))
        .map_err(|_| Fault::Malformed("its header is too long".to_owned()))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

fn field_u32(cluster: &[u8], at: usize) -> Result<u32, Fault> {
    be_u32(cluster, at).ok_or_else(|| Fault::Malformed("its header is cut short".to_owned()))
}

fn field_u64(cluster: &[u8], at: usize) -> Result<u64, Fault> {
    be_u64(cluster, at).ok_or_else(|| Fault::Malformed("its header is cut short".to_owned()))
}

/// Returns the length of the fields, after which the extensions begin.
fn header_len(cluster: &[u8], is_v3: bool, cluster_bits: u32) -> Result<u32, Fault> {
    if !is_v3 {
        return Ok(V2_LEN);
    }
    let len = field_u32(cluster, 100)?;
    let cluster_len = Geometry::new(cluster_bits, false)?.cluster_len();
    if len < V3_LEN_MIN || u64::from(len) > cluster_len {
        return malformed(format!("its header is said to have {len} bytes"));
    }
    Ok(len)
}

/// Collects the extensions between the fields and the backing file's name.
fn extensions(cluster: &[u8], header_len: u32) -> Result<Extensions<'_>, Fault> {
    const END: u32 = 0;
    let malformed_extension = || Fault::Malformed("a header extension is cut short".to_owned());
    let at = usize::try_from(header_len).map_err(|_| malformed_extension())?;
    let backing = usize::try_from(field_u64(cluster, 8)?).unwrap_or(usize::MAX);
    let end = if backing == 0 {
        cluster.len()
    } else {
        backing.min(cluster.len())
    };
    let mut found = Extensions::default();
    let mut rest = cluster.get(at..end).unwrap_or_default();
    while let (Some(kind), Some(len)) = (be_u32(rest, 0), be_u32(rest, 4)) {
        if kind == END {
            break;
        }
        let len = usize::try_from(len).map_err(|_| malformed_extension())?;
        let after = rest.get(8..).unwrap_or_default();
        let data = after.get(..len).ok_or_else(malformed_extension)?;
        match kind {
            0xe279_2aca => found.backing_format = Some(data),
            0x4441_5441 => found.data_file = Some(data),
            0x2385_2875 => found.bitmaps = Some(data),
            0x6803_f857 => found.feature_names = Some(data),
            0x0537_be77 => found.encryption = true,
            // Whoever writes what a reader must know uses an incompatible feature bit as well.
            _ => {}
        }
        rest = after.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(found)
}

fn check_incompatible(bits: u64, extensions: Option<&Extensions<'_>>) -> Result<(), Fault> {
    let unknown = bits & !INCOMPATIBLE_KNOWN;
    if unknown != 0 {
        let names = extensions.and_then(|extensions| extensions.feature_names);
        return Err(Fault::Unsupported(unknown_features(
            unknown,
            names.unwrap_or_default(),
        )));
    }
    if bits & INCOMPATIBLE_CORRUPT != 0 {
        return malformed(
            "it is marked as corrupt: whoever wrote it found its tables inconsistent",
        );
    }
    Ok(())
}

/// Names the feature bits, as far as the image's own table of feature names does.
fn unknown_features(unknown: u64, table: &[u8]) -> String {
    const ENTRY_LEN: usize = 48;
    const INCOMPATIBLE: u8 = 0;
    let names: Vec<String> = (0..64_u8)
        .filter(|&bit| unknown.wrapping_shr(u32::from(bit)) & 1 == 1)
        .map(|bit| {
            let entry = table
                .chunks_exact(ENTRY_LEN)
                .find(|entry| entry.starts_with(&[INCOMPATIBLE, bit]));
            let name = entry.and_then(|entry| entry.get(2..)).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            if name.is_empty() {
                format!("bit {bit}")
            } else {
                format!("bit {bit} (`{}`)", printable(name))
            }
        })
        .collect();
    format!("incompatible feature {}", names.join(", "))
}

fn check_encryption(method: u32, extension: bool) -> Result<(), Fault> {
    match method {
        0 if extension => Err(Fault::Encrypted("LUKS")),
        0 => Ok(()),
        1 => Err(Fault::Encrypted("AES")),
        2 => Err(Fault::Encrypted("LUKS")),
        _ => Err(Fault::Unsupported(format!("encryption method {method}"))),
    }
}

/// Checks that a table of L1 entries is one, and lies within the file.
pub(super) fn check_l1(
    what: &str,
    geometry: Geometry,
    offset: HostOffset,
    entries: u64,
    file_len: u64,
) -> Result<(), Fault> {
    let len = entries.saturating_mul(8);
    if len > L1_LEN_MAX {
        return malformed(format!(
            "{what} is said to have {len} bytes, more than {L1_LEN_MAX}"
        ));
    }
    if !geometry.is_aligned(offset) {
        return malformed(format!("{what} begins within a cluster, at {}", offset.0));
    }
    if len > 0 && offset.plus(len).0 > file_len {
        return malformed(format!("{what} at {} lies outside the file", offset.0));
    }
    Ok(())
}

fn compression(cluster: &[u8], header_len: u32, bits: u64) -> Result<Compression, Fault> {
    // The field came later than version 3; headers that end before it mean zlib.
    let kind = if header_len > V3_LEN_MIN {
        cluster.get(104).copied()
    } else {
        None
    };
    let flagged = bits & INCOMPATIBLE_COMPRESSION != 0;
    match (kind.unwrap_or(0), flagged) {
        (0, false) => Ok(Compression::Zlib),
        (1, true) => Ok(Compression::Zstd),
        (0, true) | (1, false) => {
            malformed("its compression type and its compression feature bit disagree")
        }
        (kind, _) => Err(Fault::Unsupported(format!("compression type {kind}"))),
    }
}

fn backing_name(cluster: &[u8], geometry: Geometry) -> Result<Option<Vec<u8>>, Fault> {
    let offset = field_u64(cluster, 8)?;
    let len = field_u32(cluster, 16)?;
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    let end = offset.checked_add(u64::from(len));
    if len > BACKING_NAME_MAX || end.is_none_or(|end| end > geometry.cluster_len()) {
        return malformed("the name of its backing file lies outside the header cluster");
    }
    let name = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    let name = name.and_then(|(at, len)| cluster.get(at..at.checked_add(len)?));
    match name {
        Some(name) => Ok(Some(name.to_vec())),
        None => malformed("the name of its backing file lies outside the file"),
    }
}

fn bitmaps_extension(data: &[u8]) -> Result<BitmapsExtension, Fault> {
    let decoded = (data.len() == 24).then(|| {
        Some(BitmapsExtension {
            count: be_u32(data, 0)?,
            directory_len: be_u64(data, 8)?,
            directory: HostOffset(be_u64(data, 16)?),
        })
    });
    decoded
        .flatten()
        .ok_or_else(|| Fault::Malformed("its bitmaps extension has the wrong length".to_owned()))
}
