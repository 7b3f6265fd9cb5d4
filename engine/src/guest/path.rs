//! From a path to a file, by the rules of the guest: symbolic links lead on within the file
//! system, and never out of it.

use super::tree::{FileId, FileKind, FileSystem, GuestError};

/// Links that one path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;
/// Folders and files that one path may name, with those that links add.
const STEPS_MAX: usize = 65536;

/// Whether the last name of a path is followed where it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// What it points to is meant.
    Follow,
    /// The link itself is meant, unless the path ends in `/`.
    Keep,
}

/// A file that a path led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub id: FileId,
    /// Names from the top folder to it, with all links resolved.
    pub names: Vec<Vec<u8>>,
}

/// Finds the file that a path names. Paths begin at the top folder, with or without `/`.
pub fn resolve(
    file_system: &dyn FileSystem,
    path: &[u8],
    last: LastLink,
) -> Result<Found, GuestError> {
    // Names still to come, the next one last.
    let mut ahead = Vec::new();
    push_names(&mut ahead, path);
    // Folders on the way, so that `..` leads back to where one came from.
    let mut way: Vec<(Vec<u8>, FileId)> = Vec::new();
    let mut links = 0_usize;
    let mut steps = 0_usize;
    while let Some(name) = ahead.pop() {
        steps += 1;
        if steps > STEPS_MAX {
            return Err(GuestError::TooManyLinks);
        }
        let folder = way.last().map_or(file_system.root(), |(_, id)| *id);
        if file_system.stat(folder)?.kind != FileKind::Folder {
            return Err(GuestError::NotAFolder);
        }
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                drop(way.pop());
                continue;
            }
            _ => {}
        }
        let id = file_system.lookup(folder, &name)?;
        let is_kept = ahead.is_empty() && last == LastLink::Keep;
        if is_kept || file_system.stat(id)?.kind != FileKind::Symlink {
            way.push((name, id));
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(GuestError::TooManyLinks);
        }
        let target = file_system.read_link(id)?;
        if target.first() == Some(&b'/') {
            way.clear();
        }
        push_names(&mut ahead, &target);
    }
    Ok(Found {
        id: way.last().map_or(file_system.root(), |(_, id)| *id),
        names: way.into_iter().map(|(name, _)| name).collect(),
    })
}

/// A `/` at the end leaves an empty name, which asks for a folder.
fn push_names(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
    ahead.extend(names.rev());
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::guest::tree::{DirEntry, FileTime, Stat};

    /// `(folder, name, file)`; files from 100 on are regular, from 200 on links.
    struct Tree {
        entries: Vec<(u64, &'static str, u64)>,
        links: Vec<(u64, &'static str)>,
    }

    impl FileSystem for Tree {
        fn kind(&self) -> &'static str {
            "test"
        }

        fn caveats(&self) -> &[String] {
            &[]
        }

        fn root(&self) -> FileId {
            FileId(1)
        }

        fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
            let kind = match file.0 {
                0..100 => FileKind::Folder,
                100..200 => FileKind::File,
                _ => FileKind::Symlink,
            };
            Ok(Stat {
                kind,
                mode: None,
                owner: None,
                size: 0,
                links: 1,
                modified: FileTime::default(),
                accessed: None,
            })
        }

        fn read_folder(
            &self,
            folder: FileId,
            sink: &mut dyn FnMut(DirEntry) -> bool,
        ) -> Result<(), GuestError> {
            for (within, name, id) in &self.entries {
                let entry = DirEntry {
                    name: name.as_bytes().to_vec(),
                    id: FileId(*id),
                };
                if *within == folder.0 && !sink(entry) {
                    break;
                }
            }
            Ok(())
        }

        fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError> {
            let found = self.links.iter().find(|(id, _)| *id == link.0);
            found
                .map(|(_, target)| target.as_bytes().to_vec())
                .ok_or(GuestError::NotFound)
        }

        fn read_file(
            &self,
            _: FileId,
            _: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
        ) -> Result<(), GuestError> {
            Ok(())
        }

        fn xattrs(&self, _: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
            Ok(Vec::new())
        }
    }

    fn tree() -> Tree {
        Tree {
            entries: vec![
                (1, "etc", 2),
                (1, "usr", 3),
                (3, "lib", 4),
                (4, "os-release", 100),
                (2, "os-release", 200),
                (1, "lib", 201),
                (1, "loop", 202),
                (2, "up", 203),
            ],
            links: vec![
                (200, "../usr/lib/os-release"),
                (201, "/usr/lib"),
                (202, "loop"),
                (203, "../../../.."),
            ],
        }
    }

    fn found(path: &str, last: LastLink) -> Result<(u64, String), String> {
        let found = resolve(&tree(), path.as_bytes(), last).map_err(|error| error.to_string())?;
        let names: Vec<_> = found
            .names
            .iter()
            .map(|name| String::from_utf8_lossy(name))
            .collect();
        Ok((found.id.0, names.join("/")))
    }

    #[test]
    fn links_are_followed_within() {
        let follow = LastLink::Follow;
        let release = Ok((100, "usr/lib/os-release".to_owned()));
        assert_eq!(found("/etc/os-release", follow), release);
        assert_eq!(found("lib/os-release", follow), release);
        assert_eq!(found("//usr/./lib/../lib/os-release", follow), release);
        assert_eq!(found("/etc/up/etc", follow), Ok((2, "etc".to_owned())));
        assert_eq!(found("", follow), Ok((1, String::new())));
        assert_eq!(found("/../..", follow), Ok((1, String::new())));
    }

    #[test]
    fn the_last_link_is_kept_on_request() {
        let keep = LastLink::Keep;
        assert_eq!(
            found("/etc/os-release", keep),
            Ok((200, "etc/os-release".to_owned()))
        );
        assert_eq!(found("/lib/", keep), Ok((4, "usr/lib".to_owned())));
    }

    #[test]
    fn wrong_paths_are_told_apart() {
        let error = |path| found(path, LastLink::Follow).expect_err("it leads nowhere");
        assert_eq!(error("/etc/nothing"), "no such file or folder");
        assert_eq!(error("/usr/lib/os-release/x"), "not a folder");
        assert_eq!(error("/usr/lib/os-release/"), "not a folder");
        assert_eq!(error("/loop"), "too many symbolic links");
    }
}
