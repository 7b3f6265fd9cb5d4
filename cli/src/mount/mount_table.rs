//! The kernel's table of what is mounted where.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::MountError;

const TABLE: &str = "/proc/self/mountinfo";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The kernel's number for it, of which no two are the same at one time.
    id: u32,
    /// That of the mount that it is mounted on: below it, or on top of it.
    parent: u32,
    /// Where it is mounted.
    pub directory: PathBuf,
    /// The kind of file system.
    pub kind: String,
    /// The device, or whatever name the mounting program gave.
    pub source: PathBuf,
}

/// Returns what is mounted, in the order of mounting.
pub fn read() -> Result<Vec<MountPoint>, MountError> {
    let text = std::fs::read(TABLE).map_err(|source| MountError::Io {
        op: "read",
        path: TABLE.into(),
        source,
    })?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// Reads a line as proc(5) describes it: six fields, optional ones up to a `-`, three more.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let directory = fields.nth(2)?;
    fields.find(|field| *field == b"-")?;
    let kind = fields.next()?;
    let source = fields.next()?;
    Some(MountPoint {
        id,
        parent,
        directory: unescape(directory),
        kind: String::from_utf8_lossy(kind).into_owned(),
        source: unescape(source),
    })
}

/// Undoes the kernel's `\040` for bytes that would end a field.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let octal = (*byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

impl MountPoint {
    /// Returns whether the folder's path leads to another of the `table`: one on top of this one,
    /// or of what this one is mounted below.
    pub fn is_covered(&self, table: &[Self]) -> bool {
        let mut below = Some(self);
        let mut way = Vec::new();
        while let Some(mount) = below.filter(|mount| !way.contains(&mount.id)) {
            let is_in_the_way = |other: &Self| {
                other.parent == mount.id
                    && other.id != mount.id
                    && !way.contains(&other.id)
                    && self.directory.starts_with(&other.directory)
            };
            if table.iter().any(is_in_the_way) {
                return true;
            }
            way.push(mount.id);
            below = table.iter().find(|other| other.id == mount.parent);
        }
        false
    }
}

/// Returns whether something is mounted at exactly this folder.
pub fn is_mounted(directory: &Path) -> Result<bool, MountError> {
    Ok(read()?.iter().any(|mount| mount.directory == directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        let line = br"36 35 7:0 / /mnt/a\040b rw,noatime master:1 - ext4 /dev/loop0 ro";
        let expected = MountPoint {
            id: 36,
            parent: 35,
            directory: "/mnt/a b".into(),
            kind: "ext4".into(),
            source: "/dev/loop0".into(),
        };
        assert_eq!(parse(line), Some(expected));
        let line = br"36 35 0:9 / /mnt/\134 rw - tmpfs cairn rw";
        let found = parse(line).expect("the line is whole");
        assert_eq!(found.directory, Path::new(r"/mnt/\"));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 0:9 / /mnt rw"), None);
    }

    #[test]
    fn a_mount_covers_those_at_the_same_folder_and_those_below_them() {
        let lines: [&[u8]; 5] = [
            b"1 1 0:8 / / rw - ext4 root rw",
            b"36 1 0:9 / /mnt/a rw - tmpfs one rw",
            b"40 36 0:10 / /mnt/a/inner rw - tmpfs two rw",
            b"41 36 0:12 / /mnt/a/other rw - tmpfs two rw",
            b"42 36 0:11 / /mnt/a rw - tmpfs three rw",
        ];
        let table: Vec<_> = lines.into_iter().filter_map(parse).collect();
        let covered = |table: &[MountPoint]| -> Vec<_> {
            table.iter().map(|mount| mount.is_covered(table)).collect()
        };
        assert_eq!(covered(&table), [false, true, true, true, false]);
        assert_eq!(covered(&table[..4]), [false; 4]);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(is_mounted(Path::new("/proc")).expect("the table can be read"));
        assert!(!is_mounted(Path::new("/proc/no such")).expect("the table can be read"));
    }
}
