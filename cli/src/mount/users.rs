//! Who works in a folder, and so keeps it from being unmounted.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mount_table;

/// A reason why a folder cannot be unmounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A process has a file open, mapped, or stands in a folder.
    Process {
        /// Its id.
        pid: u32,
        /// Its command's name.
        command: String,
    },
    /// Another file system is mounted inside.
    Mount(String),
    /// A device is in use where this process cannot look.
    Device(String),
}

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command } => {
                write!(out, "{} (pid {pid})", command.escape_debug())
            }
            Self::Mount(directory) => write!(out, "what is mounted at {directory}"),
            Self::Device(device) => write!(out, "another mount of {device}"),
        }
    }
}

/// Returns the processes that use something at or below `folder`.
///
/// Reads links and never what they point to, so it does not wait for a file system that hangs.
pub fn processes_below(folder: &Path) -> Vec<User> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids: BTreeSet<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let users = ids.into_iter().filter_map(|pid| {
        let process = Path::new("/proc").join(pid.to_string());
        uses(&process, folder).then(|| User::Process {
            pid,
            command: command(&process),
        })
    });
    users.collect()
}

/// Returns the mounts below `folder` that are none of `ours`.
pub fn mounts_below(folder: &Path, ours: &[mount_table::MountPoint]) -> Vec<User> {
    let table = mount_table::read().unwrap_or_default();
    let others = table
        .iter()
        .filter(|mount| mount.directory.starts_with(folder) && !ours.contains(mount));
    others
        .map(|mount| User::Mount(mount.directory.display().to_string()))
        .collect()
}

fn uses(process: &Path, folder: &Path) -> bool {
    let is_there = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(folder));
    ["cwd", "root", "exe"]
        .iter()
        .any(|link| is_there(&process.join(link)))
        || fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| is_there(&entry.path()))
        || fs::read(process.join("maps")).is_ok_and(|maps| maps_name(&maps, folder))
}

/// A line of `maps` ends with the mapped file's path, after five fields.
fn maps_name(maps: &[u8], folder: &Path) -> bool {
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/');
        path.and_then(|start| line.get(start..))
            .is_some_and(|path| Path::new(OsStr::from_bytes(path)).starts_with(folder))
    })
}

fn command(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_found_by_its_whole_path() {
        let maps = b"7f00-7f01 r-xp 00000000 07:00 12   /mnt/a/lib so.6\n7f02-7f03 rw-p 0 0:0 0\n";
        assert!(maps_name(maps, Path::new("/mnt/a")));
        assert!(maps_name(maps, Path::new("/mnt/a/lib so.6")));
        assert!(!maps_name(maps, Path::new("/mnt/a/lib")));
        assert!(!maps_name(maps, Path::new("/mn")));
    }

    #[test]
    fn this_process_is_found_by_an_open_file() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().canonicalize().expect("the folder is there");
        assert_eq!(processes_below(&path), Vec::new());
        let file = fs::File::create(path.join("open")).expect("a file can be made");
        let found = processes_below(&path);
        let pid = std::process::id();
        let is_this = |user: &User| matches!(user, User::Process { pid: id, .. } if *id == pid);
        assert!(found.iter().any(is_this), "{found:?}");
        drop(file);
    }
}
