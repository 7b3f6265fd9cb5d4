//! Making and opening an overlay.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use cairn_engine::storage::{FileSystem, RealFs};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::error::io_error;
use super::header::{BootId, Header, encode_state};
use super::io::regions;
use super::layout::{Layout, STATE_AT};
use super::load::load;
use super::lock::{is_still_named, lock};
use super::map::Map;
use super::mark::Mark;
use super::medium::{Medium, RealMedium};
use super::sector::SectorCodec;
use super::{Opened, Origin, Overlay, OverlayError};
use crate::disk::Disk;
use crate::log::Log;

/// Where the kernel tells one run of the machine from the next.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// Disks hold secrets: for the owner alone.
const FILE_MODE: u32 = 0o600;
/// How often a file is looked for that others make or remove meanwhile.
const TRIES: usize = 3;

impl Overlay {
    /// Opens the overlay at `path` over a disk, or makes one if there is nothing of that name.
    ///
    /// One that is made is durable, though empty, on return. One process at a time has an overlay
    /// open: for one that is ending this waits some seconds, and up to a minute for one that was
    /// killed; `log` is told of it.
    ///
    /// # Errors
    ///
    /// [`OverlayError::OtherDisk`] if the overlay was made over anything else than `origin`,
    /// [`OverlayError::Unsuitable`] on a file system of another machine and the like. What was
    /// flushed is there after any error.
    pub fn open(
        path: &Path,
        base: Arc<dyn Disk>,
        origin: &Origin,
        log: &Log,
    ) -> Result<Self, OverlayError> {
        check_file_system(path)?;
        let boot = read_boot_id().map_err(io_error("learn the boot id for", path))?;
        let layout = layout_of(path, &*base)?;
        let (file, is_new) = open_or_create(path, &layout, origin, boot, log)?;
        let len = file.metadata().map_err(io_error("open", path))?.len();
        let mut overlay = load(
            path,
            Box::new(RealMedium::new(file)),
            len,
            base,
            origin,
            boot,
        )?;
        if is_new {
            overlay.opened = Opened::New;
        }
        Ok(overlay)
    }

    /// Makes an overlay that ends with the process and never has a name for long, in a folder with
    /// space for what is to be written. A flush does nothing.
    pub fn temporary(folder: &Path, base: Arc<dyn Disk>) -> Result<Self, OverlayError> {
        let size = base.size();
        let too_large = || OverlayError::TooLarge {
            path: folder.to_owned(),
            size,
        };
        let layout = Layout::bare(size).ok_or_else(too_large)?;
        let path = folder.join(draw_name("cairn".into()).map_err(io_error("name", folder))?);
        let file = create_new(&path).map_err(io_error("make", &path))?;
        fs::remove_file(&path).map_err(io_error("unlink", &path))?;
        file.set_len(size).map_err(io_error("size", &path))?;
        let medium = Box::new(RealMedium::new(file));
        let map = Map::new(layout.blocks());
        Ok(Self::over(base, medium, layout, map, None))
    }

    pub(super) fn over(
        base: Arc<dyn Disk>,
        medium: Box<dyn Medium>,
        layout: Layout,
        map: Map,
        kept: Option<(SectorCodec, Mark)>,
    ) -> Self {
        let (codec, mark) = kept.unzip();
        Self {
            base,
            medium,
            layout,
            map,
            codec,
            mark,
            opened: Opened::New,
            regions: regions(),
            unflushed: Mutex::new(BTreeSet::new()),
            // Those before us may have left writes: the first flush is never needless.
            writes: AtomicU64::new(1),
            flushed: Mutex::new(0),
            has_failed: AtomicBool::new(false),
        }
    }
}

/// Returns the folder that a file stands in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses the kinds of file system that cannot keep a repository either: a lock there is no lock,
/// and `fdatasync` promises little.
fn check_file_system(path: &Path) -> Result<(), OverlayError> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let kind = RealFs::open(folder_of(&real)).and_then(|folder| folder.unsuitable());
    match kind.map_err(io_error("look where to keep", path))? {
        Some(kind) => Err(OverlayError::Unsuitable {
            path: path.to_owned(),
            kind,
        }),
        None => Ok(()),
    }
}

pub(super) fn layout_of(path: &Path, base: &dyn Disk) -> Result<Layout, OverlayError> {
    let size = base.size();
    let path = path.to_owned();
    Layout::of(size).ok_or(OverlayError::TooLarge { path, size })
}

fn read_boot_id() -> io::Result<BootId> {
    let text = fs::read(BOOT_ID_PATH)?;
    BootId::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|err| io::Error::other(err.to_string()))?;
    Ok(bytes)
}

/// Returns a hidden name that nobody else draws.
fn draw_name(name: OsString) -> io::Result<OsString> {
    let mut drawn = OsString::from(".");
    drawn.push(name);
    drawn.push(format!(".{}.new", hex::encode(random::<8>()?)));
    Ok(drawn)
}

fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.mode(FILE_MODE).open(path)
}

/// Returns the locked file, and whether it was made now.
fn open_or_create(
    path: &Path,
    layout: &Layout,
    origin: &Origin,
    boot: BootId,
    log: &Log,
) -> Result<(File, bool), OverlayError> {
    // Somebody may make it between our look and our making, or remove it while we wait.
    for _ in 0..TRIES {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                if !file.metadata().map_err(io_error("open", path))?.is_file() {
                    let path = path.to_owned();
                    return Err(OverlayError::NotAnOverlay { path });
                }
                lock(&file, path, log)?;
                if is_still_named(&file, path).map_err(io_error("open", path))? {
                    return Ok((file, false));
                }
                continue;
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("open", path)(err)),
        }
        match create(path, layout, origin, boot, log) {
            Ok(file) => return Ok((file, true)),
            Err(OverlayError::Io { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err),
        }
    }
    Err(io_error("make", path)(io::ErrorKind::AlreadyExists.into()))
}

/// Makes the overlay under another name, and gives it its own once it is durable.
fn create(
    path: &Path,
    layout: &Layout,
    origin: &Origin,
    boot: BootId,
    log: &Log,
) -> Result<File, OverlayError> {
    let failed = |op| io_error(op, path);
    let name = path
        .file_name()
        .ok_or_else(|| OverlayError::NotAnOverlay { path: path.into() })?;
    let folder = folder_of(path);
    let drawn = folder.join(draw_name(name.to_owned()).map_err(failed("name"))?);
    let file = create_new(&drawn).map_err(failed("make"))?;
    let done = fill(&file, layout, origin, boot)
        .map_err(failed("fill"))
        .and_then(|()| lock(&file, path, log))
        .and_then(|()| publish(&drawn, path).map_err(failed("name")));
    if let Err(err) = done {
        // What cannot be removed is empty, and says by its name what it is.
        drop(fs::remove_file(&drawn));
        return Err(err);
    }
    File::open(folder)
        .and_then(|folder| Ok(rustix::fs::fsync(folder)?))
        .map_err(failed("make durable the name of"))?;
    Ok(file)
}

fn fill(file: &File, layout: &Layout, origin: &Origin, boot: BootId) -> io::Result<()> {
    let header = Header {
        id: random()?,
        size: layout.size,
        origin: origin.clone(),
    };
    file.set_len(layout.file_len())?;
    write_fresh(&header, boot, |offset, bytes| {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    })?;
    Ok(rustix::fs::fsync(file)?)
}

/// Writes the pages of a new overlay.
pub(super) fn write_fresh(
    header: &Header,
    boot: BootId,
    write: impl Fn(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    write(0, &header.encode())?;
    write(STATE_AT, &encode_state(boot))
}

/// Renames, and never replaces.
fn publish(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some kinds of file system have no such rename; a hard link refuses to replace too.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => Ok(done?),
    }
}
