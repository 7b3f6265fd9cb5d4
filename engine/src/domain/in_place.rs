//! Sets the disks of a domain back to a snapshot, and writes only where they differ.
//!
//! What differs goes into an overlay beside each disk first. Once all overlays are durable, a
//! journal says so: that is the moment from which the domain is the snapshot. Then the overlays are
//! committed into the disks. A crash before the journal leaves the disks as they were; after it,
//! [`recover`] finishes what was begun.
//!
//! Meanwhile no QEMU can open the disks for writing: this process holds the lock that QEMU asks
//! for, and `qemu-img` inherits it. While overlays are committed, the disks have hidden names too,
//! so that a domain cannot start from half a disk after a crash, when no lock is held.

mod compare;
mod journal;
mod plan;
mod qemu;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use journal::{is_unfinished, recover};
pub use plan::{Plan, PlannedDisk, plan};

use self::compare::Compared;
use self::journal::{Journal, JournalDisk, Names};
use self::qemu::Held;
use super::lock::DomainLock;
use super::{DomainError, named};
use crate::format::domain::DomainRecord;
use crate::format::manifest::DiskRecord;
use crate::image::ImageError;
use crate::pool::NoThread;
use crate::repository::{Contents, Snapshot};
use crate::restore::RestoreOptions;
use crate::source::SourceError;
use crate::source::libvirt::xml::{DiskSource, DomainDescription, DomainDisk};
use crate::source::libvirt::{Domain, DomainState, ImageLock, LibvirtError, Transport};
use crate::source::raw::RawSource;
use crate::target::TargetError;

/// A restore in place that failed. Unless it says otherwise, the disks are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InPlaceError {
    /// libvirt refused, or cannot be reached.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// The domain cannot be worked on.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The snapshot is not that of a domain.
    #[error("the snapshot was not made of a libvirt domain")]
    NoDomain,
    /// The domain is not the one of the snapshot.
    #[error("domain {name} is not the one of the snapshot, whose UUID is {uuid}")]
    AnotherDomain {
        /// The domain.
        name: String,
        /// The snapshot's UUID.
        uuid: String,
    },
    /// The daemon is on another host.
    #[error("{uri} is another host: disks can be set back on this one only")]
    NotLocal {
        /// The daemon.
        uri: String,
    },
    /// The domain is not off.
    #[error("domain {name} is not off")]
    NotOff {
        /// The domain.
        name: String,
    },
    /// The domain would go on with memory that does not fit the disks.
    #[error("domain {name} has saved memory, which would not fit its disks any more")]
    SavedMemory {
        /// The domain.
        name: String,
    },
    /// The snapshot has no such disk.
    #[error("the snapshot has no disk `{target}`")]
    NoSuchDisk {
        /// The disk.
        target: String,
    },
    /// The domain's disk is none that can be set back.
    #[error("disk {target} cannot be set back in place: {reason}")]
    Unfit {
        /// The disk.
        target: String,
        /// Why not.
        reason: String,
    },
    /// The disk has become larger, and cutting it could lose what nobody meant to.
    #[error("disk {target} has {size} bytes, and had {wanted} in the snapshot")]
    Larger {
        /// The disk.
        target: String,
        /// Its size.
        size: u64,
        /// The snapshot's.
        wanted: u64,
    },
    /// A disk cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An overlay, a journal or a name cannot be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// The lock of an image cannot be taken.
    #[error("cannot lock {path}", path = path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `qemu-img` cannot be run.
    #[error("cannot run qemu-img")]
    NoQemuImg(#[source] std::io::Error),
    /// `qemu-img` failed.
    #[error("qemu-img {what} failed: {said}")]
    QemuImg {
        /// What it was to do.
        what: &'static str,
        /// Its own words.
        said: String,
    },
    /// All that differs is safe in overlays, and could not be committed.
    #[error("the disks are half set back and kept from starting until that is finished")]
    HalfDone(#[source] Box<InPlaceError>),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

type Result<T> = std::result::Result<T, InPlaceError>;

/// How disks are set back.
pub struct InPlaceOptions<'o> {
    /// The disk; all of the snapshot's without one.
    pub only: Option<String>,
    /// Where locks of domains are.
    pub run_folder: PathBuf,
    /// Memory for what is read of the snapshot, in bytes.
    pub cache_bytes: usize,
    /// How it runs.
    pub restore: RestoreOptions<'o>,
    /// Told what the user should know while it happens.
    pub say: &'o (dyn Fn(&str) + Sync),
}

/// A disk that was set back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetBack {
    /// Its name in the guest.
    pub target: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that were compared; a bitmap proved the rest equal.
    pub compared_bytes: u64,
    /// Bytes that differed, in whole blocks.
    pub changed_bytes: u64,
    /// Bytes that were written: to the overlay, and from there to the disk.
    pub written_bytes: u64,
    /// Why all of it was compared, where it was.
    pub doubt: Option<String>,
}

/// A disk that is about to be set back.
struct Work<'a> {
    record: &'a DiskRecord,
    disk: &'a DomainDisk,
    names: Names,
    lock: ImageLock,
}

impl Work<'_> {
    fn held(&self) -> Held<'_> {
        Held {
            path: &self.names.disk,
            format: &self.disk.format,
            lock: &self.lock,
        }
    }
}

/// Sets a domain's disks back to a snapshot.
pub fn restore_in_place(
    contents: &Arc<Contents>,
    snapshot: &Snapshot,
    domain: &Domain,
    options: &InPlaceOptions<'_>,
) -> Result<Vec<SetBack>> {
    let manifest = &*snapshot.manifest;
    let record = manifest.domain.as_ref().ok_or(InPlaceError::NoDomain)?;
    check_domain(domain, record)?;
    let _lock = DomainLock::take(&options.run_folder, domain.name(), domain.uuid())?;
    check_off(domain)?;
    recover(domain, options.say)?;
    let description = describe(domain)?;
    let disks = manifest.disks.iter();
    let wanted = disks.filter(|disk| options.only.as_ref().is_none_or(|t| *t == disk.target));
    let work: Vec<Work<'_>> = wanted
        .map(|record| work(record, &description))
        .collect::<Result<_>>()?;
    if let (true, Some(target)) = (work.is_empty(), &options.only) {
        let target = target.clone();
        return Err(InPlaceError::NoSuchDisk { target });
    }
    let garbage = Garbage(work.iter().map(|work| work.names.overlay.clone()).collect());
    let mut done = Vec::new();
    let mut changed = Vec::new();
    for work in &work {
        let info = qemu::info(&work.held())?;
        let trust = compare::trusted_bitmap(record, work, &info);
        let compared = compare::write_overlay(contents, work, trust, options)?;
        if compared.overlay_bytes > 0 {
            changed.push((work, info));
        }
        done.push(set_back(work, compared));
    }
    if changed.is_empty() {
        return Ok(done);
    }
    let journal = Journal {
        uuid: domain.uuid().to_owned(),
        snapshot: snapshot.id.to_string(),
        disks: changed
            .iter()
            .map(|(work, info)| JournalDisk::of(work, info))
            .collect(),
    };
    // Asked last, since whoever started it meanwhile has failed by the lock.
    check_off(domain)?;
    journal.write()?;
    std::mem::forget(garbage);
    let locks: Vec<&ImageLock> = changed.iter().map(|(work, _)| &work.lock).collect();
    let finished = journal.finish(domain, &locks);
    finished.map_err(|error| InPlaceError::HalfDone(Box::new(error)))?;
    Ok(done)
}

/// Overlays that nobody needs, unless a journal says so. Removed when dropped.
struct Garbage(Vec<PathBuf>);

impl Drop for Garbage {
    fn drop(&mut self) {
        for path in &self.0 {
            // What stays is removed by the next run.
            drop(std::fs::remove_file(path));
        }
    }
}

fn set_back(work: &Work<'_>, compared: Compared) -> SetBack {
    SetBack {
        target: work.record.target.clone(),
        path: work.names.disk.clone(),
        size: work.record.size,
        compared_bytes: compared.compared_bytes,
        changed_bytes: compared.changed_bytes,
        written_bytes: compared.overlay_bytes + compared.changed_bytes,
        doubt: compared.doubt,
    }
}

fn check_domain(domain: &Domain, record: &DomainRecord) -> Result<()> {
    if domain.connection().transport() != Transport::Local {
        let uri = domain.connection().uri().to_owned();
        return Err(InPlaceError::NotLocal { uri });
    }
    if domain.uuid() != record.uuid {
        return Err(InPlaceError::AnotherDomain {
            name: domain.name().to_owned(),
            uuid: record.uuid.clone(),
        });
    }
    Ok(())
}

fn check_off(domain: &Domain) -> Result<()> {
    let name = domain.name().to_owned();
    if domain.state()? != DomainState::Off {
        return Err(InPlaceError::NotOff { name });
    }
    match domain.has_saved_memory()? {
        true => Err(InPlaceError::SavedMemory { name }),
        false => Ok(()),
    }
}

fn describe(domain: &Domain) -> Result<DomainDescription> {
    let described = DomainDescription::parse(&domain.inactive_xml()?);
    let described = described.map_err(|source| DomainError::Xml {
        domain: domain.name().to_owned(),
        source,
    });
    Ok(described?)
}

/// Finds the domain's disk and locks it.
fn work<'a>(record: &'a DiskRecord, domain: &'a DomainDescription) -> Result<Work<'a>> {
    let (disk, names) = fit(record, domain)?;
    let lock = lock(&names.disk)?;
    Ok(Work {
        record,
        disk,
        names,
        lock,
    })
}

/// Finds the domain's disk, if it is one that can be set back.
fn fit<'a>(record: &DiskRecord, domain: &'a DomainDescription) -> Result<(&'a DomainDisk, Names)> {
    let unfit = |reason: &str| InPlaceError::Unfit {
        target: record.target.clone(),
        reason: reason.to_owned(),
    };
    let disk = domain.disk(&record.target);
    let disk = disk.ok_or_else(|| unfit("the domain has it no more"))?;
    let path = match &disk.source {
        DiskSource::File(path) => path,
        DiskSource::Block(device) => {
            return Err(unfit(&format!(
                "it is a block device: set it back with `restore --disk {} --to {} --format {} \
                 --force`",
                record.target,
                device.display(),
                disk.format
            )));
        }
        _ => return Err(unfit("it is not a file")),
    };
    if !["raw", "qcow2"].contains(&disk.format.as_str()) {
        return Err(unfit("its format is neither raw nor qcow2"));
    }
    let names = Names::of(path).ok_or_else(|| unfit("its path names no file"))?;
    Ok((disk, names))
}

/// Keeps writers from an image, and fails where there is one.
fn lock(path: &Path) -> Result<ImageLock> {
    let lock = named::open(path).and_then(ImageLock::keep_writers_out_of);
    let lock = lock.map_err(|source| InPlaceError::Lock {
        path: path.to_owned(),
        source,
    })?;
    drop(RawSource::open(path)?);
    Ok(lock)
}
