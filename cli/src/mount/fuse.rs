//! A flat folder of volumes, as files that the kernel can make block devices of.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use cairn_engine::threads::Joined;
use cairn_nbd_export::disk::{Disk, DiskError};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

use crate::context;
use crate::files::described;

/// Nothing here ever changes its name or its size.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The most bytes of one request: what the kernel allows without a setting of its own.
const REQUEST_LEN_MAX: u32 = 1024 * 1024;
/// Requests on their way at once, such as for read-ahead.
const BACKGROUND_MAX: u16 = 64;
/// Failures beyond these are not said: the kernel repeats what fails.
const FAILURES_SAID_MAX: u32 = 10;

// The modes of fallocate(2).
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

/// A volume with the name of its file.
pub struct VolumeFile {
    /// The file's name, without a slash.
    pub name: String,
    /// Its bytes; can be written where the disk can.
    pub disk: Arc<dyn Disk>,
}

/// The threads that answer the kernel. Dropped, it waits for all of them: until the file system is
/// unmounted and nobody uses it, or its connection is broken off.
#[derive(Debug)]
pub struct Fuse {
    /// The thread that waits for the others.
    thread: Option<Joined>,
    /// Disconnected once the last of them has let go of the volumes.
    let_go: Receiver<()>,
}

impl Fuse {
    /// Waits a while for the threads, and returns whether they have ended.
    pub fn ends_within(&self, time: Duration) -> bool {
        self.let_go.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        drop(self.thread.take());
        // Where one of them failed, the library does not wait for the others.
        let _: Result<(), mpsc::RecvError> = self.let_go.recv();
    }
}

/// Mounts a folder of `files` at `folder`, and answers the kernel in `threads` threads until it is
/// unmounted; then calls `at_end`.
pub fn serve(
    files: Vec<VolumeFile>,
    folder: &Path,
    threads: usize,
    at_end: impl FnOnce() + Send + 'static,
) -> io::Result<Fuse> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("cairn".to_owned()),
        MountOption::Subtype("cairn".to_owned()),
        MountOption::NoAtime,
        MountOption::NoExec,
    ];
    config.n_threads = Some(threads);
    let (held, let_go) = mpsc::channel();
    let volumes = Volumes {
        files,
        failures: AtomicU32::new(0),
        _held: held,
    };
    let session = Session::new(volumes, folder, &config)?;
    let thread = Joined::start("fuse", move || {
        if let Err(error) = session.run() {
            context::warn(&format!("the volumes are served no longer: {error}"));
        }
        at_end();
    })?;
    Ok(Fuse {
        thread: Some(thread),
        let_go,
    })
}

struct Volumes {
    files: Vec<VolumeFile>,
    failures: AtomicU32,
    /// Goes with the volumes, and after them.
    _held: Sender<()>,
}

impl Volumes {
    fn file(&self, number: INodeNo) -> Option<&VolumeFile> {
        let index = u64::from(number).checked_sub(FIRST)?;
        self.files.get(usize::try_from(index).ok()?)
    }

    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        if number == INodeNo::ROOT {
            return Some(attributes(number, FileType::Directory, 0, 0o500));
        }
        let disk = &self.file(number)?.disk;
        let mode = if disk.writer().is_some() {
            0o600
        } else {
            0o400
        };
        Some(attributes(number, FileType::RegularFile, disk.size(), mode))
    }

    /// Returns what the kernel is told about a failure, and says the rest to the user.
    fn failed(&self, file: &VolumeFile, error: &DiskError) -> Errno {
        if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES_SAID_MAX {
            context::warn(&format!("{}: {}", file.name, described(error)));
        }
        match error {
            DiskError::Overlay { source, .. } if source.raw_os_error().is_some() => {
                Errno::from_i32(source.raw_os_error().unwrap_or_default())
            }
            _ => Errno::EIO,
        }
    }

    fn read_file(&self, number: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(number).ok_or(Errno::ENOENT)?;
        let len = file.disk.size().saturating_sub(offset).min(size.into());
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| Errno::EINVAL)?];
        file.disk
            .read_at(offset, &mut bytes)
            .map_err(|error| self.failed(file, &error))?;
        Ok(bytes)
    }

    fn write_file(&self, number: INodeNo, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let file = self.file(number).ok_or(Errno::ENOENT)?;
        let writer = file.disk.writer().ok_or(Errno::EROFS)?;
        let len = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        let end = offset.checked_add(len.into()).ok_or(Errno::EFBIG)?;
        if end > file.disk.size() {
            return Err(Errno::EFBIG);
        }
        writer
            .write_at(offset, data)
            .map_err(|error| self.failed(file, &error))?;
        Ok(len)
    }

    fn zero(&self, number: INodeNo, offset: u64, length: u64, mode: i32) -> Result<(), Errno> {
        let file = self.file(number).ok_or(Errno::ENOENT)?;
        let writer = file.disk.writer().ok_or(Errno::EROFS)?;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let range = offset..end.min(file.disk.size());
        if range.is_empty() {
            return Ok(());
        }
        let done = match mode & !KEEP_SIZE {
            PUNCH_HOLE => writer.trim(range),
            ZERO_RANGE => writer.write_zeroes(range, false),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        done.map_err(|error| self.failed(file, &error))
    }
}

/// The number of the first file; 1 is the folder.
const FIRST: u64 = 2;

fn attributes(number: INodeNo, kind: FileType, size: u64, mode: u16) -> FileAttr {
    FileAttr {
        ino: number,
        size,
        blocks: size.div_ceil(512),
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Volumes {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What an older kernel does not have costs speed and nothing else.
        for flag in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(REQUEST_LEN_MAX);
        if let Err(most) = config.set_max_readahead(REQUEST_LEN_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let index = self.files.iter().position(|file| *file.name == *name);
        let number = index.map(|index| INodeNo(index as u64 + FIRST));
        let attributes = number.and_then(|number| self.attributes(number));
        match attributes.filter(|_| parent == INodeNo::ROOT) {
            Some(found) => reply.entry(&TTL, &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_file(number, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_file(number, offset, data) {
            Ok(len) => reply.written(len),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // What is written is given up at the end, and need not survive a power cut.
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.zero(number, offset, length, mode) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if number != INodeNo::ROOT {
            reply.error(Errno::ENOTDIR);
            return;
        }
        let folders = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = self
            .files
            .iter()
            .zip(FIRST..)
            .map(|(file, number)| (INodeNo(number), FileType::RegularFile, file.name.as_str()));
        let entries = (1_u64..).zip(folders.into_iter().chain(files));
        for (next, (number, kind, name)) in entries {
            if next > offset && reply.add(number, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
