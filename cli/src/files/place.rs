//! How files inside a snapshot are named: `SNAPSHOT:TARGET[pN]/path`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use cairn_engine::guest::open::AreaName;
use cairn_engine::repository::Snapshot;
use cairn_engine::repository::reference::ResolveError;

use crate::exit::CliError;
use crate::files::shown;
use crate::session::Snapshots;

/// For the help of commands that take places.
pub const PLACE_HELP: &str = "\
SNAPSHOT is as for `cairn show`. TARGET is one of its disks, TARGETpN the partition N of it,
TARGET:GROUP/VOLUME a logical volume; without either it is the only file system of the disk.
Where a disk's own name ends like that (`vdap1`), it is the disk that is meant.
Paths are the guest's, from the top of the file system. Symbolic links lead on within it.";

/// A place inside a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The disk's name in the VM.
    pub target: String,
    /// Which part of it.
    pub area: AreaName,
    /// The path within that, if there was one: empty, or with a `/` at the beginning.
    pub path: Vec<u8>,
}

/// Finds the snapshot that a text begins with, and what follows it.
///
/// Only the time of a snapshot (`web1@2026-11-20T08:30`) may hold a `:` of its own. Each `:` is
/// tried from the left, and counts if a snapshot stands before it and one of its disks after it.
pub fn find<'s>(snapshots: &'s Snapshots, text: &OsStr) -> Result<(&'s Snapshot, Option<Inside>)> {
    let bytes = text.as_bytes();
    let mut first_error = None;
    let mut in_doubt = None;
    let mut no_disk = None;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b':') {
        let Ok(head) = std::str::from_utf8(&bytes[..at]) else {
            break;
        };
        let rest = &bytes[at + 1..];
        match snapshots.find(head) {
            Ok(snapshot) => {
                if let Some(inside) = parse_inside(rest, &targets(snapshot)) {
                    return Ok((snapshot, Some(inside)));
                }
                no_disk = Some((snapshot, rest));
            }
            Err(error) if is_in_doubt(&error) => in_doubt = in_doubt.or(Some(error)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let whole = match text.to_str() {
        Some(text) => snapshots.find(text),
        None => Err(CliError::Usage("a snapshot's name is not UTF-8".to_owned()).into()),
    };
    match (whole, no_disk) {
        (Ok(snapshot), _) => Ok((snapshot, None)),
        // An older snapshot must not be taken for one that is lost.
        (Err(error), _) if in_doubt.is_some() => Err(in_doubt.unwrap_or(error)),
        (Err(_), Some((snapshot, rest))) => {
            let (rest, targets) = (shown(rest), targets(snapshot).join(", "));
            let text = format!("`{rest}` names no disk of the snapshot, which has: {targets}");
            Err(CliError::Usage(text).into())
        }
        (Err(error), None) => Err(first_error.unwrap_or(error)),
    }
}

fn is_in_doubt(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ResolveError::InDoubt { .. }))
}

fn targets(snapshot: &Snapshot) -> Vec<&str> {
    let disks = snapshot.manifest.disks.iter();
    disks.map(|disk| disk.target.as_str()).collect()
}

/// Reads what follows a snapshot's name. The longest name of a disk that fits is meant.
fn parse_inside(text: &[u8], targets: &[&str]) -> Option<Inside> {
    let mut targets = targets.to_vec();
    targets.sort_by_key(|target| std::cmp::Reverse(target.len()));
    targets.iter().find_map(|target| {
        let rest = text.strip_prefix(target.as_bytes())?;
        let (area, path) = parse_area(rest)?;
        Some(Inside {
            target: (*target).to_owned(),
            area,
            path: path.to_vec(),
        })
    })
}

fn parse_area(rest: &[u8]) -> Option<(AreaName, &[u8])> {
    match rest {
        [] | [b'/', ..] => Some((AreaName::Whole, rest)),
        [b'p', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b'/');
            let (number, path) = rest.split_at(end.unwrap_or(rest.len()));
            let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(number).ok().filter(|_| is_number)?;
            Some((AreaName::Partition(number.parse().ok()?), path))
        }
        [b':', rest @ ..] => {
            let slash = rest.iter().position(|byte| *byte == b'/')?;
            let (group, rest) = (&rest[..slash], &rest[slash + 1..]);
            let end = rest.iter().position(|byte| *byte == b'/');
            let (volume, path) = rest.split_at(end.unwrap_or(rest.len()));
            let name = |bytes: &[u8]| {
                let name = std::str::from_utf8(bytes).ok()?;
                (!name.is_empty()).then(|| name.to_owned())
            };
            let (group, volume) = (name(group)?, name(volume)?);
            Some((AreaName::Logical { group, volume }, path))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, String, String)> {
        let inside = parse_inside(text.as_bytes(), &["vd", "vda", "vdap1", "a disk"])?;
        let path = String::from_utf8(inside.path).expect("it was text");
        Some((inside.target, inside.area.to_string(), path))
    }

    fn some(target: &str, area: &str, path: &str) -> Option<(String, String, String)> {
        Some((target.to_owned(), area.to_owned(), path.to_owned()))
    }

    #[test]
    fn disks_parts_and_paths_are_told_apart() {
        assert_eq!(parsed("vda"), some("vda", "", ""));
        assert_eq!(parsed("vda/"), some("vda", "", "/"));
        assert_eq!(parsed("vda/etc/a:b"), some("vda", "", "/etc/a:b"));
        assert_eq!(parsed("vdap2"), some("vda", "p2", ""));
        assert_eq!(parsed("vdap12/p3/x"), some("vda", "p12", "/p3/x"));
        assert_eq!(parsed("vda:vg0/root"), some("vda", ":vg0/root", ""));
        assert_eq!(parsed("vda:vg-0/a.b/etc"), some("vda", ":vg-0/a.b", "/etc"));
        assert_eq!(parsed("a disk/x"), some("a disk", "", "/x"));
    }

    #[test]
    fn a_disk_of_that_name_comes_before_a_partition() {
        assert_eq!(parsed("vdap1/x"), some("vdap1", "", "/x"));
        assert_eq!(parsed("vdap1p2/x"), some("vdap1", "p2", "/x"));
        assert_eq!(parsed("vdap11"), some("vda", "p11", ""));
    }

    #[test]
    fn what_names_no_disk_is_nothing() {
        for text in [
            "", "vdb", "vdaq", "vdap", "vdap1x", "vda:", "vda:vg", "vda:/lv", "30:vda",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(parsed("vdap99999999999"), None);
    }
}
