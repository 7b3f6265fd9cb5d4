//! Restores a snapshot to a domain that is defined anew: its disks and files are written, its XML
//! is rewritten, and libvirt is given both.

pub(in crate::domain) mod files;
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use files::FileRights;
use files::Made;
pub use place::Place;

use super::DomainError;
use super::backup::{DOMAIN_XML, NVRAM, TPM};
use super::lock::DomainLock;
use super::rewrite::{DiskFormat, NewDisk, Rewrite, RewriteError, Rewritten};
use crate::domain::vm_name::vm_name;
use crate::format::manifest::DiskRecord;
use crate::repository::{Contents, Snapshot};
use crate::restore::{RestoreError, RestoreOptions, restore_disk};
use crate::source::SourceError;
use crate::source::libvirt::xml::{Element, XmlError};
use crate::source::libvirt::{Connection, Domain, DomainState, LibvirtError, Transport};
use crate::source::raw::RawSource;
use crate::target::{self, Abandoned, TargetError, TargetFormat, TargetOptions};

/// A domain that was not defined. What this run had written is removed then, unless the error says
/// otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefineError {
    /// libvirt refused, or cannot be reached.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// The domain that is to be replaced cannot be worked on.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The domain cannot be rewritten.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// A disk or file could not be restored.
    #[error("cannot restore {name}")]
    Restore {
        /// The disk or file.
        name: String,
        /// Why not.
        source: RestoreError,
    },
    /// A disk could not be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A file that would be overwritten cannot be looked at, or is in use.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The snapshot is not that of a domain.
    #[error("the snapshot has no domain XML: it was not made of a libvirt domain")]
    NoDomain,
    /// The disks would be written here, and the domain defined elsewhere.
    #[error("{uri} is another host: disks can be written on this one only")]
    NotLocal {
        /// The daemon.
        uri: String,
    },
    /// A domain has that name already.
    #[error("there is a domain {name} already")]
    NameTaken {
        /// The name.
        name: String,
        /// Whether it is the domain of the snapshot, so that it may be replaced.
        is_same: bool,
    },
    /// Another domain has the snapshot's UUID.
    #[error("domain {name} has the UUID {uuid} of the snapshot")]
    UuidTaken {
        /// The domain that has it.
        name: String,
        /// The UUID.
        uuid: String,
    },
    /// The domain that is to be replaced is not off.
    #[error("domain {name} is not off")]
    NotOff {
        /// The domain.
        name: String,
    },
    /// The pool keeps no files in a folder.
    #[error("the storage pool {pool} has no folder: it is of type {kind}")]
    NoFolder {
        /// The pool.
        pool: String,
        /// Its type.
        kind: String,
    },
    /// A file could not be made or changed.
    #[error("cannot {op} {path}", path = path.display())]
    File {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The domain is defined and whole, and does not start.
    #[error("domain {name} is restored and defined, but does not start")]
    NotStarted {
        /// The domain.
        name: String,
        /// libvirt's reason.
        source: LibvirtError,
    },
}

type Result<T> = std::result::Result<T, DefineError>;

/// What is to be defined.
#[derive(Clone)]
pub struct DefineOptions<'o> {
    /// The domain's name.
    pub name: String,
    /// Where its files go.
    pub place: Place,
    /// The format of its disks.
    pub format: DiskFormat,
    /// Whether it gets ids of its own.
    pub new_ids: bool,
    /// Whether it loses its network interfaces.
    pub no_nic: bool,
    /// Whether its network interfaces have no link.
    pub no_ip: bool,
    /// Whether disks that are not in the snapshot stay.
    pub keep_foreign_disks: bool,
    /// Whose its files are.
    pub rights: FileRights,
    /// Whether files are overwritten, and the domain itself where it is off.
    pub force: bool,
    /// Where locks of domains are: one that is replaced is locked.
    pub run_folder: PathBuf,
    /// Whether it is started.
    pub start: bool,
    /// The domain's XML, in place of the snapshot's own.
    pub domain_xml: Option<&'o str>,
    /// What makes the disks, where they are not written whole.
    pub maker: Option<&'o dyn DiskMaker>,
    /// How the disks are written.
    pub restore: RestoreOptions<'o>,
}

/// Makes disks that are read from elsewhere until they are whole.
pub trait DiskMaker {
    /// Makes the file of a disk. Nothing is at its path.
    fn make(&self, uuid: &str, disk: &DiskRecord, path: &Path) -> io::Result<()>;

    /// Returns the `backingStore` of a disk.
    fn backing(&self, uuid: &str, target: &str) -> Element;

    /// Makes all else ready, at the last moment before the domain is defined.
    fn before_define(&self, uuid: &str, disks: &[DefinedDisk]) -> io::Result<()>;
}

/// A domain that was restored.
#[derive(Debug, Clone)]
pub struct Defined {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its disks.
    pub disks: Vec<DefinedDisk>,
    /// Its other files.
    pub files: Vec<PathBuf>,
    /// What it has no more, in words for the user.
    pub dropped: Vec<String>,
    /// Whether it was started.
    pub is_started: bool,
}

/// A disk of it.
#[derive(Debug, Clone)]
pub struct DefinedDisk {
    /// Its name in the guest.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that were written; the rest are holes.
    pub written_bytes: u64,
}

/// Restores a snapshot to a domain of a new definition.
pub fn define(
    contents: &Contents,
    snapshot: &Snapshot,
    connection: &Connection,
    options: &DefineOptions<'_>,
) -> Result<Defined> {
    if connection.transport() != Transport::Local {
        let uri = connection.uri().to_owned();
        return Err(DefineError::NotLocal { uri });
    }
    let manifest = &*snapshot.manifest;
    let own = || manifest.metadata.get(DOMAIN_XML).map(String::as_str);
    let text = options.domain_xml.or_else(own);
    let text = text.ok_or(DefineError::NoDomain)?;
    let xml = Element::parse(text, "domain").map_err(RewriteError::from)?;
    let _lock = lock(&xml, options)?;
    check_free(connection, &xml, options)?;
    let folder = options.place.folder(connection)?;
    let mut plan = plan(snapshot, &xml, &folder, options)?;
    check_paths(&plan, options.force)?;
    fs::create_dir_all(&folder).map_err(file("make the folder", &folder))?;
    let mut made = Made::default();
    let disks = match options.maker {
        Some(maker) => make_disks(maker, snapshot, &mut plan, &mut made)?,
        None => write_disks(contents, snapshot, &plan, options, &mut made)?,
    };
    files::write(contents, manifest, &plan, options, &mut made)?;
    for path in made.paths() {
        options.rights.apply(path)?;
    }
    if let Some(maker) = options.maker {
        let ready = maker.before_define(&plan.rewritten.uuid, &disks);
        ready.map_err(file("serve the disks of", &folder))?;
    }
    let domain = connection.define(&plan.rewritten.xml.to_string())?;
    let files = made.keep();
    options.place.refresh(connection);
    let name = domain.name().to_owned();
    if options.start {
        let started = domain.start();
        started.map_err(|source| DefineError::NotStarted {
            name: name.clone(),
            source,
        })?;
    }
    let is_disk = |path: &PathBuf| disks.iter().any(|disk| disk.path == *path);
    Ok(Defined {
        name,
        uuid: plan.rewritten.uuid,
        files: files.into_iter().filter(|path| !is_disk(path)).collect(),
        disks,
        dropped: plan.rewritten.dropped,
        is_started: options.start,
    })
}

/// What is about to be made.
struct Plan {
    disks: BTreeMap<String, NewDisk>,
    nvram: Option<PathBuf>,
    tpm: Option<PathBuf>,
    rewritten: Rewritten,
}

fn plan(
    snapshot: &Snapshot,
    xml: &Element,
    folder: &Path,
    options: &DefineOptions<'_>,
) -> Result<Plan> {
    let manifest = &*snapshot.manifest;
    // Fit for files, too.
    let name = vm_name(&options.name, "");
    let new_disk = |disk: &DiskRecord| NewDisk {
        path: folder.join(format!("{name}-{}.{}", disk.target, options.format.name())),
        format: options.format,
        backing: None,
    };
    let disks = manifest.disks.iter();
    let disks: BTreeMap<String, NewDisk> = disks
        .map(|disk| (disk.target.clone(), new_disk(disk)))
        .collect();
    let has_file = |name: &str| manifest.files.iter().any(|file| file.name == name);
    let has_nvram = has_file(NVRAM) && xml.at("os/nvram").is_some();
    let nvram = has_nvram.then(|| folder.join(format!("{name}-nvram.fd")));
    let has_tpm = has_file(TPM) && xml.at("devices/tpm").is_some();
    let emulator = xml.text_at("devices/emulator");
    let rewrite = Rewrite {
        name: options.name.clone(),
        new_ids: options.new_ids,
        disks: disks.clone(),
        no_nic: options.no_nic,
        no_ip: options.no_ip,
        keep_foreign_disks: options.keep_foreign_disks,
        nvram: nvram.clone(),
        has_tpm_state: has_tpm,
        drop_emulator: emulator.is_some_and(|path| !Path::new(&*path).exists()),
        drop_line_files: has_lost_line_file(xml),
    };
    let rewritten = rewrite.apply(xml)?;
    let tpm = has_tpm
        .then(|| files::tpm_folder(&rewritten.uuid))
        .flatten();
    Ok(Plan {
        disks,
        nvram,
        tpm,
        rewritten,
    })
}

/// Returns whether a serial line is kept in a file whose folder is not there.
fn has_lost_line_file(xml: &Element) -> bool {
    let devices = xml.first("devices").into_iter().flat_map(Element::elements);
    let lines = devices.filter(|device| ["serial", "console", "parallel"].contains(&&*device.name));
    let files = lines.filter(|line| line.get("type") == Some("file"));
    let mut paths = files.filter_map(|line| line.first("source")?.get("path"));
    paths.any(|path| {
        Path::new(path)
            .parent()
            .is_none_or(|folder| !folder.exists())
    })
}

/// Locks the domain that may be replaced.
fn lock(xml: &Element, options: &DefineOptions<'_>) -> Result<Option<DomainLock>> {
    let uuid = xml
        .text_at("uuid")
        .filter(|_| options.force && !options.new_ids);
    let Some(uuid) = uuid.filter(|uuid| is_uuid(uuid)) else {
        return Ok(None);
    };
    let lock = DomainLock::take(&options.run_folder, &options.name, &uuid);
    Ok(Some(lock?))
}

/// Returns whether a text from outside is a UUID as libvirt writes it, fit to name a file.
fn is_uuid(text: &str) -> bool {
    let is_part = |byte: u8| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 36 && text.bytes().all(is_part)
}

/// Requires that the name and the UUID are free, or those of a domain that may be replaced.
fn check_free(connection: &Connection, xml: &Element, options: &DefineOptions<'_>) -> Result<()> {
    let uuid = xml.text_at("uuid").unwrap_or_default().into_owned();
    let has_uuid = |domain: &Domain| domain.uuid() == uuid && !options.new_ids;
    for domain in connection.domains()? {
        let name = domain.name().to_owned();
        match (name == options.name, has_uuid(&domain)) {
            (true, true) if options.force => match domain.state()? {
                DomainState::Off => {}
                _ => return Err(DefineError::NotOff { name }),
            },
            (true, is_same) => return Err(DefineError::NameTaken { name, is_same }),
            (false, true) => return Err(DefineError::UuidTaken { name, uuid }),
            (false, false) => {}
        }
    }
    if uuid.is_empty() && !options.new_ids {
        let missing = XmlError::Missing { what: "uuid" };
        return Err(RewriteError::from(missing).into());
    }
    Ok(())
}

/// Requires that nothing is in the way. What a QEMU has open is never overwritten.
fn check_paths(plan: &Plan, force: bool) -> Result<()> {
    let disks = plan.disks.values().map(|disk| &disk.path);
    for path in disks.chain(&plan.nvram).chain(&plan.tpm) {
        if fs::symlink_metadata(path).is_err() {
            continue;
        }
        if !force {
            let path = path.clone();
            return Err(TargetError::Exists { path }.into());
        }
        if path.is_file() {
            drop(RawSource::open(path)?);
        }
    }
    Ok(())
}

fn write_disks(
    contents: &Contents,
    snapshot: &Snapshot,
    plan: &Plan,
    options: &DefineOptions<'_>,
    made: &mut Made,
) -> Result<Vec<DefinedDisk>> {
    let mut written = Vec::new();
    for disk in &snapshot.manifest.disks {
        let Some(NewDisk { path, .. }) = plan.disks.get(&disk.target) else {
            continue;
        };
        let target_options = TargetOptions {
            format: match options.format {
                DiskFormat::Raw => TargetFormat::Raw,
                DiskFormat::Qcow2 => TargetFormat::Qcow2,
            },
            size: disk.size,
            overwrite: options.force,
        };
        let is_new = fs::symlink_metadata(path).is_err();
        let target = target::create(path, &target_options)?;
        let bytes = match restore_disk(contents, disk, &*target, &options.restore) {
            Ok(bytes) => bytes,
            Err(source) => {
                let (Abandoned::Nothing | Abandoned::IncompleteDevice(_)) = target.abandon();
                let name = format!("disk {}", disk.target);
                return Err(DefineError::Restore { name, source });
            }
        };
        let finished = target.finish()?;
        made.add(&finished.path, is_new);
        written.push(DefinedDisk {
            target: disk.target.clone(),
            path: finished.path,
            size: disk.size,
            written_bytes: bytes,
        });
    }
    Ok(written)
}

/// Makes disks that are not whole, and tells libvirt what is below them.
fn make_disks(
    maker: &dyn DiskMaker,
    snapshot: &Snapshot,
    plan: &mut Plan,
    made: &mut Made,
) -> Result<Vec<DefinedDisk>> {
    let mut disks = Vec::new();
    let uuid = &plan.rewritten.uuid;
    for disk in &snapshot.manifest.disks {
        let Some(NewDisk { path, .. }) = plan.disks.get(&disk.target) else {
            continue;
        };
        let is_new = fs::symlink_metadata(path).is_err();
        if !is_new {
            fs::remove_file(path).map_err(file("remove", path))?;
        }
        made.add(path, true);
        maker.make(uuid, disk, path).map_err(file("make", path))?;
        super::instant::set_backing(
            &mut plan.rewritten.xml,
            &disk.target,
            &maker.backing(uuid, &disk.target),
        );
        disks.push(DefinedDisk {
            target: disk.target.clone(),
            path: path.clone(),
            size: disk.size,
            written_bytes: 0,
        });
    }
    Ok(disks)
}

/// Returns a closure that names what was tried on a path.
fn file(op: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DefineError {
    let path = path.to_owned();
    move |source| DefineError::File { op, path, source }
}
