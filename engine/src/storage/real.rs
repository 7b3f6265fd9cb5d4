//! The file system of this machine.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::StorageError;
use super::fs::{Entry, EntryKind, FileSystem, LockMode, OpenFile, RenameMode};

/// Bytes after which the system is asked to begin writing them out, so that the fsync of a whole
/// pack finds little left to do.
const WRITEBACK_LEN: u64 = 8 * crate::limits::MIB;

/// Backups hold the guests' secrets: files are for their owner alone, and for the group of a root
/// that is shared with it.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
/// As [`FILE_MODE`], for folders.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);
/// What a group may do with a file of a shared root at most.
const GROUP_FILE_MODE: Mode = Mode::from_raw_mode(0o060);
/// As [`GROUP_FILE_MODE`], for folders.
const GROUP_FOLDER_MODE: Mode = Mode::from_raw_mode(0o070);

/// Kinds of file system that cannot keep a repository, by the number that `statfs(2)` gives:
/// network and pass-through kinds, whose locks and fsyncs depend on a server, and the FAT kinds,
/// where a rename that a power cut interrupts can lose both names.
const UNSUITABLE: [(u32, &str); 26] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "kAFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0000_564c, "NCP"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x1983_0326, "BeeGFS"),
    (0x4750_4653, "GPFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0xbeef_dead, "StorNext"),
    (0xa501_fcf5, "VxFS"),
    (0x6163_6673, "ACFS"),
    (0x7c7c_6673, "a Parallels shared folder"),
    (0x786f_4256, "a VirtualBox shared folder"),
    (0xbacb_acbc, "a VMware shared folder"),
    (0x0000_4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
];

/// A folder of this machine and what lies below it.
///
/// Everything goes through a handle of the root folder: when another file system is mounted over
/// the path, or the one below is unmounted, nothing lands in the wrong place.
#[derive(Debug)]
pub struct RealFs {
    root: OwnedFd,
    path: PathBuf,
    /// What the root's group may do with what is made below it.
    group: Mode,
}

impl RealFs {
    /// Opens a folder that is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            group: group_mode(rustix::fs::fstat(&root)?.st_mode),
            root,
            path: path.to_owned(),
        })
    }

    /// Opens the root to its group, as git does with `--shared=group`: what is made below it from
    /// now on is the group's too.
    pub(super) fn share_with_group(&mut self) -> io::Result<()> {
        rustix::fs::fchmod(&self.root, FOLDER_MODE | GROUP_FOLDER_MODE | Mode::SGID)?;
        self.group = group_mode(rustix::fs::fstat(&self.root)?.st_mode);
        match self.group.is_empty() {
            // Who is not in the group cannot set the bit, and is not told.
            true => Err(Errno::PERM.into()),
            false => Ok(()),
        }
    }

    /// Opens a folder, and makes it and those above it where they are missing, each durable in the
    /// one above before this returns.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        let mut missing = Vec::new();
        let mut at = path;
        while !at.as_os_str().is_empty() && !at.exists() {
            missing.push(at);
            let Some(above) = at.parent() else { break };
            at = above;
        }
        for folder in missing.into_iter().rev() {
            match rustix::fs::mkdir(folder, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(err) => return Err(refused("create", folder, err.into())),
            }
            let above = match folder.parent() {
                Some(above) if !above.as_os_str().is_empty() => above,
                _ => Path::new("."),
            };
            Self::open(above)
                .and_then(|above| above.sync_folder(""))
                .map_err(|err| refused("fsync", above, err))?;
        }
        Self::open(path).map_err(|err| refused("open", path, err))
    }

    fn open_with(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        retry(|| rustix::fs::openat(&self.root, path, flags | OFlags::CLOEXEC, FILE_MODE))
    }

    fn stat(&self, path: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(
            &self.root,
            path,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Renames where the file system has no rename that refuses to replace: a hard link refuses
    /// too. Between the two steps the file has both names, which nobody minds.
    fn rename_by_link(&self, from: &str, to: &str) -> io::Result<()> {
        self.link(from, to)?;
        self.remove_file(from)
    }
}

/// Returns what the group of a root of this mode may do with what is below it: what it may do with
/// the root, where that is shared. The setgid bit says so, and gives all below the same group.
fn group_mode(root: u32) -> Mode {
    let mode = Mode::from_raw_mode(root);
    match mode.contains(Mode::SGID) {
        true => mode & GROUP_FOLDER_MODE,
        false => Mode::empty(),
    }
}

/// Returns whether the folder of a repository is shared with a group.
pub(crate) fn is_shared(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| !group_mode(stat.st_mode).is_empty())
}

fn refused(op: &'static str, path: &Path, err: io::Error) -> StorageError {
    StorageError::from_io(op, &path.to_string_lossy(), err)
}

/// Names the kind of a file system that cannot keep a repository. The numbers have 32 bits, in a
/// field that is wider, and on some machines signed.
fn unsuitable_kind(number: i128) -> Option<&'static str> {
    let known = |(magic, _): &&(u32, _)| i128::from(*magic) == number & 0xffff_ffff;
    UNSUITABLE.iter().find(known).map(|(_, kind)| *kind)
}

/// Calls again what a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

impl FileSystem for RealFs {
    type File = RealFile;

    fn location(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn unsuitable(&self) -> io::Result<Option<&'static str>> {
        let stat = rustix::fs::fstatfs(&self.root)?;
        Ok(unsuitable_kind(stat.f_type.into()))
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|err| match err.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::from(io::ErrorKind::Unsupported),
        })?;
        Ok(bytes)
    }

    fn create_new(&self, path: &str) -> io::Result<RealFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_with(path, flags)?;
        if !self.group.is_empty() {
            // Whatever the process's umask takes away.
            rustix::fs::fchmod(&file, FILE_MODE | (self.group & GROUP_FILE_MODE))?;
        }
        Ok(RealFile::new(file))
    }

    fn open(&self, path: &str) -> io::Result<RealFile> {
        Ok(RealFile::new(self.open_with(path, OFlags::RDONLY)?))
    }

    fn is_named(&self, file: &RealFile, path: &str) -> io::Result<bool> {
        let open = rustix::fs::fstat(&file.file)?;
        match self.stat(path) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> io::Result<()> {
        match mode {
            RenameMode::Replace => Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?),
            RenameMode::NoReplace => {
                let flags = RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(&self.root, from, &self.root, to, flags) {
                    Err(Errno::INVAL | Errno::NOSYS) => self.rename_by_link(from, to),
                    done => Ok(done?),
                }
            }
        }
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (root, flags) = (&self.root, AtFlags::empty());
        Ok(rustix::fs::linkat(root, from, root, to, flags)?)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        let folder = self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::fsync(&folder)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let folder = self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(err) => return Err(err.into()),
            };
            let (kind, len) = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => (EntryKind::File, file_len(stat.st_size)?),
                FileType::Directory => (EntryKind::Folder, 0),
                _ => (EntryKind::Other, 0),
            };
            entries.push(Entry {
                name: name.to_owned(),
                kind,
                len,
            });
        }
        Ok(entries)
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        let made = rustix::fs::mkdirat(&self.root, path, FOLDER_MODE);
        if !self.group.is_empty() && matches!(made, Ok(()) | Err(Errno::EXIST)) {
            let mode = FOLDER_MODE | self.group | Mode::SGID;
            let set = rustix::fs::chmodat(&self.root, path, mode, AtFlags::empty());
            // One that is there may be another's, who has seen to it; or its maker died before.
            made.and(set)?;
        }
        Ok(made?)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::empty())?)
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR)?)
    }
}

fn file_len(size: i64) -> io::Result<u64> {
    u64::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// An open file of this machine.
#[derive(Debug)]
pub struct RealFile {
    file: File,
    /// Bytes appended through this handle.
    written: u64,
    /// How many of them the system was asked to write out.
    hinted: u64,
}

impl RealFile {
    fn new(fd: OwnedFd) -> Self {
        Self {
            file: File::from(fd),
            written: 0,
            hinted: 0,
        }
    }
}

impl OpenFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        let unhinted = self.written.saturating_sub(self.hinted);
        if unhinted >= WRITEBACK_LEN {
            let from = mem::replace(&mut self.hinted, self.written);
            // Linux begins to write dirty pages out when told that they are not needed. Packs are
            // not read back soon either, so nothing is lost where it drops them. Only a hint: an
            // error that comes of it is reported by fsync.
            let len = std::num::NonZeroU64::new(unhinted);
            _ = rustix::fs::fadvise(&self.file, from, len, Advice::DontNeed);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // Not tried again when a signal interrupts it: the error of a lost page comes once.
        self.file.sync_all()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // Where the system's offsets end, every file has ended; it would call that an invalid
        // argument.
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        file_len(rustix::fs::fstat(&self.file)?.st_size)
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(err) => Err(err.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs::{self, metadata};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    type Done = Result<(), Box<dyn Error>>;

    type Rename<'a> = dyn Fn(&str, &str) -> io::Result<()> + 'a;

    #[test]
    fn kinds_are_known_by_the_low_half_of_their_number() {
        assert_eq!(unsuitable_kind(0x6969), Some("NFS"));
        assert_eq!(unsuitable_kind(0x1983_0326), Some("BeeGFS"));
        assert_eq!(unsuitable_kind(0xff53_4d42), Some("CIFS"));
        assert_eq!(
            unsuitable_kind(i128::from(0xff53_4d42_u32.cast_signed())),
            Some("CIFS")
        );
        let (ext4, xfs, btrfs, tmpfs) = (0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994);
        for suitable in [ext4, xfs, btrfs, tmpfs] {
            assert_eq!(unsuitable_kind(suitable), None);
        }
    }

    #[test]
    fn both_ways_to_rename_refuse_to_replace() -> Done {
        let at = tempfile::tempdir()?;
        let fs = RealFs::open(at.path())?;
        let by_flag = |from: &str, to: &str| fs.rename(from, to, RenameMode::NoReplace);
        let by_link = |from: &str, to: &str| fs.rename_by_link(from, to);
        let ways: [&Rename; 2] = [&by_flag, &by_link];
        for rename in ways {
            fs.create_new("old")?.append(b"old")?;
            fs.create_new("new")?.append(b"new")?;
            let refused = rename("new", "old").map_err(|err| err.kind());
            assert_eq!(refused, Err(io::ErrorKind::AlreadyExists));
            assert_eq!(fs::read(at.path().join("old"))?, b"old");
            rename("new", "other")?;
            assert_eq!(fs::read(at.path().join("other"))?, b"new");
            assert_eq!(fs.list("")?.len(), 2);
            fs.rename("other", "old", RenameMode::Replace)?;
            assert_eq!(fs::read(at.path().join("old"))?, b"new");
            fs.remove_file("old")?;
        }
        Ok(())
    }

    #[test]
    fn a_file_written_out_early_is_whole_and_private() -> Done {
        let at = tempfile::tempdir()?;
        let fs = RealFs::create(&at.path().join("a/b"))?;
        let mut file = fs.create_new("file")?;
        let parts = (0..250_u8).map(|n| vec![n; 100_003]);
        parts.clone().try_for_each(|part| file.append(&part))?;
        file.sync()?;
        assert!(file.hinted > 0, "the hint was given");
        let path = at.path().join("a/b/file");
        assert!(fs::read(&path)?.iter().copied().eq(parts.flatten()));
        assert_eq!(metadata(&path)?.permissions().mode() & 0o077, 0);
        assert_eq!(
            metadata(at.path().join("a/b"))?.permissions().mode() & 0o077,
            0
        );
        Ok(())
    }
}
