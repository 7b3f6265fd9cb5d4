//! Internal snapshots: states of the disk kept in the image itself.

use super::header::{Header, check_l1};
use super::image::State;
use super::types::{Fault, HostOffset, be_u16, be_u32, be_u64, malformed};
use crate::limits::{DISK_LEN_MAX, MIB};
use crate::source::file::ReadAt;

/// Most snapshots in an image. QEMU's limit.
const COUNT_MAX: u32 = 65_536;
/// Longest snapshot table. QEMU's limit.
const TABLE_LEN_MAX: u64 = 64 * MIB;
/// Longest extra data of one snapshot. QEMU's limit.
const EXTRA_LEN_MAX: usize = 1024;
/// Bytes of a table entry before its variable parts.
const FIXED_LEN: usize = 40;

/// One entry of the snapshot table.
struct Entry {
    l1: HostOffset,
    l1_entries: u64,
    id: Vec<u8>,
    name: Vec<u8>,
    /// Absent in tables of old QEMU versions: the disk had its present size.
    disk_size: Option<u64>,
}

/// Returns the state of the internal snapshot whose id, or else whose name, is `wanted`; `None`
/// where there is none.
pub(super) fn find(
    file: &dyn ReadAt,
    header: &Header,
    wanted: &str,
) -> Result<Option<State>, Fault> {
    let entries = read_table(file, header)?;
    let by_id = entries.iter().find(|entry| entry.id == wanted.as_bytes());
    let by_name = || entries.iter().find(|entry| entry.name == wanted.as_bytes());
    let Some(entry) = by_id.or_else(by_name) else {
        return Ok(None);
    };
    let size = entry.disk_size.unwrap_or(header.size);
    if size > DISK_LEN_MAX {
        return malformed(format!("an internal snapshot has a disk of {size} bytes"));
    }
    let what = "the L1 table of an internal snapshot";
    check_l1(
        what,
        header.geometry,
        entry.l1,
        entry.l1_entries,
        file.size(),
    )?;
    Ok(Some(State {
        size,
        l1: entry.l1,
        l1_entries: entry.l1_entries,
    }))
}

fn read_table(file: &dyn ReadAt, header: &Header) -> Result<Vec<Entry>, Fault> {
    if header.snapshot_count == 0 {
        return Ok(Vec::new());
    }
    if header.snapshot_count > COUNT_MAX {
        return malformed(format!(
            "it is said to have {} snapshots",
            header.snapshot_count
        ));
    }
    if !header.geometry.is_aligned(header.snapshots) {
        return malformed("its snapshot table begins within a cluster");
    }
    let mut entries = Vec::new();
    let mut place = header.snapshots;
    for _ in 0..header.snapshot_count {
        let (entry, len) = read_entry(file, place)?;
        entries.push(entry);
        place = place.plus(len.next_multiple_of(8));
        if place.0.saturating_sub(header.snapshots.0) > TABLE_LEN_MAX {
            return malformed(format!(
                "its snapshot table is longer than {TABLE_LEN_MAX} bytes"
            ));
        }
    }
    Ok(entries)
}

/// Reads the entry at `place` and returns it with its length.
fn read_entry(file: &dyn ReadAt, place: HostOffset) -> Result<(Entry, u64), Fault> {
    let fixed = read(file, place, FIXED_LEN)?;
    let (id_len, name_len, extra_len) =
        (be_u16(&fixed, 12), be_u16(&fixed, 14), be_u32(&fixed, 36));
    let id_len = usize::from(id_len.unwrap_or(0));
    let name_len = usize::from(name_len.unwrap_or(0));
    let extra_len = usize::try_from(extra_len.unwrap_or(0)).unwrap_or(usize::MAX);
    if extra_len > EXTRA_LEN_MAX {
        return malformed(format!(
            "an internal snapshot has {extra_len} bytes of extra data"
        ));
    }
    let variable_len = extra_len.saturating_add(id_len).saturating_add(name_len);
    let fixed_len = u64::try_from(FIXED_LEN).unwrap_or(0);
    let variable = read(file, place.plus(fixed_len), variable_len)?;
    let (extra, names) = variable.split_at_checked(extra_len).unwrap_or_default();
    let (id, name) = names.split_at_checked(id_len).unwrap_or_default();
    let entry = Entry {
        l1: HostOffset(be_u64(&fixed, 0).unwrap_or(0)),
        l1_entries: u64::from(be_u32(&fixed, 8).unwrap_or(0)),
        id: id.to_vec(),
        name: name.to_vec(),
        disk_size: be_u64(extra, 8),
    };
    let variable_len = u64::try_from(variable_len).unwrap_or(0);
    Ok((entry, fixed_len.saturating_add(variable_len)))
}

fn read(file: &dyn ReadAt, place: HostOffset, len: usize) -> Result<Vec<u8>, Fault> {
    let end = place.plus(u64::try_from(len).unwrap_or(u64::MAX));
    if end.0 > file.size() {
        return malformed("its snapshot table lies outside the file");
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(place.0, &mut bytes)?;
    Ok(bytes)
}
