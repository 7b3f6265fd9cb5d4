//! Files and folders that are this user's own: what another user made, or can change, is not
//! believed. Root's records say what root then deletes, writes and runs.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::limits::SMALL_DOCUMENT_LEN_MAX;

/// What others may do to a file or a folder by its mode.
const WRITTEN_BY_OTHERS: u32 = 0o022;
/// A folder with it lets others rename and remove nothing that is not theirs.
const STICKY: u32 = 0o1000;
/// What everybody needs to get through a folder.
const THROUGH: u32 = 0o011;

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns why a file or folder is not this user's alone.
fn check(found: &Metadata) -> io::Result<()> {
    let owner = found.uid();
    if owner != user() {
        return Err(refused(format!("it belongs to user {owner}")));
    }
    if found.mode() & WRITTEN_BY_OTHERS != 0 {
        return Err(refused("others may write to it".to_owned()));
    }
    Ok(())
}

fn check_file(found: &Metadata) -> io::Result<()> {
    if found.is_symlink() {
        return Err(refused("it is a symbolic link".to_owned()));
    }
    if !found.is_file() {
        return Err(refused("it is not a file".to_owned()));
    }
    if found.nlink() != 1 {
        return Err(refused("it has another name too".to_owned()));
    }
    check(found)
}

/// Opens a file without following a link, and without waiting for whoever would write to a pipe.
pub fn open_unfollowed(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) => Err(refused("it is a symbolic link".to_owned())),
        opened => Ok(opened?.into()),
    }
}

/// Opens a file that this user has made: one with a single name that nobody else may write to.
///
/// # Errors
///
/// Where it is not so the error says why.
pub fn open(path: &Path) -> io::Result<File> {
    // A device is not even opened: that alone may do something.
    check_file(&fs::symlink_metadata(path)?)?;
    let file = open_unfollowed(path, OFlags::RDONLY)?;
    check_file(&file.metadata()?)?;
    Ok(file)
}

/// Opens such a file and reads it. One that is too long for a record is refused.
pub fn read(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let file = open(path)?;
    let mut text = Vec::new();
    (&file)
        .take(SMALL_DOCUMENT_LEN_MAX + 1)
        .read_to_end(&mut text)?;
    match text.len() as u64 > SMALL_DOCUMENT_LEN_MAX {
        true => Err(io::Error::other("it is too long to be a record")),
        false => Ok((file, text)),
    }
}

/// Makes a file that is not there yet, for this user alone.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// Opens a file for a lock, which is made where it is not there. No one else can open it.
pub fn open_lock(path: &Path) -> io::Result<File> {
    match create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    check_file(&fs::symlink_metadata(path)?)?;
    let file = open_unfollowed(path, OFlags::RDWR)?;
    check_file(&file.metadata()?)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Requires that a folder is this user's own, and no link to one.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    match found.is_dir() {
        true => check(&found),
        false => Err(refused("it is not a folder".to_owned())),
    }
}

/// Makes a folder that nobody else can look into, or closes this user's own to all others.
pub fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    check_folder(path)?;
    let folder = open_unfollowed(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    check(&folder.metadata()?)?;
    folder.set_permissions(Permissions::from_mode(0o700))
}

/// Makes a folder that others get through to what is theirs in it, and can change nothing in. One
/// that is there must be this user's or root's.
pub fn make_passage(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().create(path) {
        // Past the umask. Nobody has to list what is here.
        Ok(()) => return fs::set_permissions(path, Permissions::from_mode(0o711)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::metadata(path)?;
    let (owner, mode) = (found.uid(), found.mode());
    if !found.is_dir() {
        return Err(refused("it is not a folder".to_owned()));
    }
    if owner != user() && owner != 0 {
        return Err(refused(format!("it belongs to user {owner}")));
    }
    if mode & WRITTEN_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(refused("others may write to it".to_owned()));
    }
    if owner == user() && mode & THROUGH != THROUGH {
        return fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | THROUGH));
    }
    Ok(())
}

/// Returns whether a symbolic link may be followed: one that this user or root has made.
pub fn may_follow(link: &Metadata) -> bool {
    [user(), 0].contains(&link.uid())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_nobody_else_made_or_can_change_is_read() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let at = |name: &str| folder.path().join(name);
        let said = |name: &str| read(&at(name)).expect_err("it is refused").to_string();
        drop(create(&at("own")).expect("it is new"));
        fs::write(at("own"), "text").expect("it is there");
        assert_eq!(read(&at("own")).expect("it is ours").1, b"text");
        symlink("own", at("link")).expect("links can be made");
        assert!(said("link").contains("symbolic link"));
        fs::hard_link(at("own"), at("twin")).expect("links can be made");
        assert!(said("own").contains("another name"));
        fs::remove_file(at("twin")).expect("it is there");
        fs::set_permissions(at("own"), Permissions::from_mode(0o620)).expect("it is ours");
        assert!(said("own").contains("others may write"));
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).expect("pipes can be made");
        assert!(said("pipe").contains("not a file"));
        let long = File::create(at("long")).expect("it is new");
        long.set_len(SMALL_DOCUMENT_LEN_MAX + 1)
            .expect("it is ours");
        assert!(said("long").contains("too long"));
        assert_eq!(
            read(&at("gone")).expect_err("it is not there").kind(),
            io::ErrorKind::NotFound
        );
        // Only root can give a file away.
        if user() == 0 {
            drop(create(&at("given")).expect("it is new"));
            std::os::unix::fs::chown(at("given"), Some(65534), None).expect("root may");
            assert!(said("given").contains("user 65534"));
        }
    }

    #[test]
    fn folders_are_made_once_and_only_own_ones_are_taken() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| {
            let found = fs::symlink_metadata(at(name)).expect("it is there");
            found.mode() & 0o7777
        };
        for _ in 0..2 {
            make_private(&at("private")).expect("it is ours");
            make_passage(&at("a/passage")).expect("it is ours");
        }
        assert_eq!((mode("private"), mode("a/passage")), (0o700, 0o711));
        // One of an earlier version is closed, and one that root may have made is let through.
        fs::set_permissions(at("private"), Permissions::from_mode(0o755)).expect("it is ours");
        fs::set_permissions(at("a/passage"), Permissions::from_mode(0o700)).expect("it is ours");
        make_private(&at("private")).expect("it is ours");
        make_passage(&at("a/passage")).expect("it is ours");
        assert_eq!((mode("private"), mode("a/passage")), (0o700, 0o711));
        symlink("private", at("link")).expect("links can be made");
        assert!(make_private(&at("link")).is_err());
        fs::set_permissions(at("private"), Permissions::from_mode(0o777)).expect("it is ours");
        assert!(make_private(&at("private")).is_err());
        assert!(make_passage(&at("private")).is_err());
        fs::set_permissions(at("private"), Permissions::from_mode(0o1777)).expect("it is ours");
        assert!(make_passage(&at("private")).is_ok());
        assert!(make_private(&at("private")).is_err());
    }
}
