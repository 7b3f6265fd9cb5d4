//! What all file systems have in common, as far as fetching files needs it.

use std::io;

/// A range of bytes that can be read at any offset: a disk, a partition, a logical volume.
pub trait Volume: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`; fails with `UnexpectedEof` where that goes beyond the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A file within its file system, by whatever number the file system has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A block device with its number, as `makedev` has it.
    BlockDevice(u64),
    /// A character device with its number.
    CharDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanoseconds: u32,
}

/// What is known of a file but its content and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, with set-user-id, set-group-id and sticky: the low 12 bits of a mode.
    /// `None` where the file system has none (FAT, NTFS).
    pub mode: Option<u16>,
    /// Owner and group; `None` where the file system has none that means anything here.
    pub owner: Option<(u32, u32)>,
    /// Length in bytes.
    pub size: u64,
    /// Number of names.
    pub links: u32,
    /// Last change of the content.
    pub modified: FileTime,
    /// Last access, if kept.
    pub accessed: Option<FileTime>,
}

/// One name in a folder; `.` and `..` are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: any bytes but `/` and NUL, and never empty, `.` or `..`.
    pub name: Vec<u8>,
    /// The file that it names.
    pub id: FileId,
}

/// An extended attribute: its full name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Why something inside a guest's disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The bytes beneath cannot be read.
    #[error("cannot read the disk")]
    Io(#[from] io::Error),
    /// The structures on the disk are damaged or make no sense.
    #[error("the {what} is damaged")]
    Damaged {
        /// What of it, such as `ext4 file system`.
        what: &'static str,
        /// What the reader said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk uses something that cannot be read here.
    #[error("the {what} uses {feature}, which cannot be read here")]
    Unsupported {
        /// What of it, such as `btrfs file system`.
        what: &'static str,
        /// The feature.
        feature: String,
    },
    /// There is no such file.
    #[error("no such file or folder")]
    NotFound,
    /// A path goes through something that is no folder.
    #[error("not a folder")]
    NotAFolder,
    /// A path goes through so many symbolic links that it may never end.
    #[error("too many symbolic links")]
    TooManyLinks,
    /// A folder holds more, or lies deeper, than any real one.
    #[error("the folder is too large or too deep")]
    TooLarge,
    /// A volume holds no file system that can be read here.
    #[error("there is no file system in it, but {found}")]
    NoFileSystem {
        /// What it holds, by the name that is in use for it.
        found: &'static str,
        /// What can be done about it, where something can.
        hint: Option<&'static str>,
    },
}

/// One file system, read-only. Shared by threads behind a lock where the reader needs one.
pub trait FileSystem: Send + Sync {
    /// Returns what it is called, such as `ext4`.
    fn kind(&self) -> &'static str;

    /// Returns what the user must know about what is read: such as that an unclean journal was not
    /// replayed. Empty where files are as the guest would see them.
    fn caveats(&self) -> &[String];

    /// Returns the top folder.
    fn root(&self) -> FileId;

    /// Returns what is known of a file.
    fn stat(&self, file: FileId) -> Result<Stat, GuestError>;

    /// Hands the entries of a folder to `sink`, in any order, until it returns `false`.
    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError>;

    /// Finds one entry of a folder.
    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<FileId, GuestError> {
        lookup(self, folder, name)
    }

    /// Returns where a symbolic link points.
    fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError>;

    /// Reads a file's content from the start to the end: hands runs of data with their offsets to
    /// `sink`, ascending; what is left out are holes. Stops early where `sink` fails.
    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError>;

    /// Returns the extended attributes: full names (`user.x`, `system.posix_acl_access` in the
    /// form that the system call takes) and values.
    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>, GuestError>;
}

/// Finds one entry of a folder by reading through it.
pub(crate) fn lookup<F: FileSystem + ?Sized>(
    file_system: &F,
    folder: FileId,
    name: &[u8],
) -> Result<FileId, GuestError> {
    let mut found = None;
    file_system.read_folder(folder, &mut |entry| {
        if entry.name == name {
            found = Some(entry.id);
        }
        found.is_none()
    })?;
    found.ok_or(GuestError::NotFound)
}

/// Finds one entry of a folder; where none has the name, one that differs from it in the case of
/// ASCII letters alone.
pub(crate) fn lookup_in_any_case<F: FileSystem + ?Sized>(
    file_system: &F,
    folder: FileId,
    name: &[u8],
) -> Result<FileId, GuestError> {
    let (mut found, mut similar) = (None, None);
    file_system.read_folder(folder, &mut |entry| {
        if entry.name == name {
            found = Some(entry.id);
        } else if entry.name.eq_ignore_ascii_case(name) {
            similar = similar.or(Some(entry.id));
        }
        found.is_none()
    })?;
    found.or(similar).ok_or(GuestError::NotFound)
}
