//! Restores a snapshot with the guest's memory: the domain is defined with its disks, and its guest
//! goes on where it was.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::backup::{MEMORY, MEMORY_XML};
use super::define::{self, DefineError, DefineOptions, Defined};
use super::overlay::point_at;
use crate::format::manifest::FileRecord;
use crate::repository::{Contents, Snapshot};
use crate::restore::restore_file;
use crate::source::libvirt::xml::{Element, XmlError};
use crate::source::libvirt::{Connection, LibvirtError};

/// A guest that does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The domain could not be defined.
    #[error(transparent)]
    Define(#[from] DefineError),
    /// The snapshot has no memory.
    #[error("the snapshot has no memory: it was not made with --memory")]
    NoMemory,
    /// The memory knows the domain under its own name and UUID alone.
    #[error("the memory of domain {name} cannot go on under another name or UUID")]
    OtherDomain {
        /// The domain.
        name: String,
    },
    /// The XML that belongs to the memory makes no sense.
    #[error("cannot read the XML that the memory is started with")]
    Xml(#[from] XmlError),
    /// The domain is defined and its disks are whole, and it does not go on from its memory.
    #[error("domain {name} is restored and defined, but does not go on from its memory")]
    NotStarted {
        /// The domain.
        name: String,
        /// libvirt's reason.
        source: LibvirtError,
    },
}

/// Returns the name under which a snapshot's guest knows itself.
pub fn name(snapshot: &Snapshot) -> Option<String> {
    let xml = snapshot.manifest.metadata.get(MEMORY_XML)?;
    let xml = Element::parse(xml, "domain").ok()?;
    Some(xml.text_at("name")?.into_owned())
}

/// Restores a snapshot's disks and files, defines its domain, and lets it go on from its memory.
/// `options` name the domain as it was, and do not start it.
///
/// # Errors
///
/// As [`define::define`]; after [`MemoryError::NotStarted`] the domain is there, and off.
pub fn restore(
    contents: &Contents,
    snapshot: &Snapshot,
    connection: &Connection,
    options: &DefineOptions<'_>,
) -> Result<Defined, MemoryError> {
    let manifest = &*snapshot.manifest;
    let record = manifest.files.iter().find(|file| file.name == MEMORY);
    let xml = manifest.metadata.get(MEMORY_XML);
    let (Some(record), Some(xml)) = (record, xml) else {
        return Err(MemoryError::NoMemory);
    };
    let mut xml = Element::parse(xml, "domain")?;
    let name = xml.text_at("name").unwrap_or_default().into_owned();
    if options.name != name || options.new_ids || options.start {
        return Err(MemoryError::OtherDomain { name });
    }
    let defined = define::define(contents, snapshot, connection, options)?;
    place(&mut xml, &defined, options);
    let folder = defined.disks.first().and_then(|disk| disk.path.parent());
    let path = folder.unwrap_or(Path::new("/var/tmp"));
    let saved = Saved(path.join(format!(
        ".cairn-{}-{}.memory",
        std::process::id(),
        defined.uuid
    )));
    write(contents, record, &saved.0)?;
    let started = connection.restore_saved(&saved.0.to_string_lossy(), &xml.to_string());
    started.map_err(|source| MemoryError::NotStarted { name, source })?;
    Ok(Defined {
        is_started: true,
        ..defined
    })
}

/// Lets the running domain have the files that it was just given; all else must be as it was.
fn place(xml: &mut Element, defined: &Defined, options: &DefineOptions<'_>) {
    let nvram = defined.files.iter().find(|file| file.is_file());
    if let (Some(path), Some(old)) = (
        nvram,
        xml.first_mut("os").and_then(|os| os.first_mut("nvram")),
    ) {
        old.set_text(&path.to_string_lossy());
    }
    let devices = xml.first_mut("devices").into_iter();
    for disk in devices.flat_map(Element::elements_mut) {
        let target = disk.first("target").and_then(|target| target.get("dev"));
        let new = defined.disks.iter().find(|new| target == Some(&new.target));
        if let (Some(new), "disk") = (new, disk.name.as_str()) {
            point_at(disk, &new.path, options.format.name(), false);
        }
    }
}

/// A file with what libvirt saved; removed when dropped.
struct Saved(PathBuf);

impl Drop for Saved {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Writes what libvirt saved. It holds the guest's secrets.
fn write(contents: &Contents, record: &FileRecord, path: &Path) -> Result<(), DefineError> {
    let failed = |op| {
        let path = path.to_owned();
        move |source| DefineError::File { op, path, source }
    };
    let mut opening = File::options();
    let opened = opening
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create"))?;
    let mut out = BufWriter::new(opened);
    restore_file(contents, record, &mut out).map_err(|source| DefineError::Restore {
        name: "the memory".to_owned(),
        source,
    })?;
    out.flush().map_err(failed("write"))
}
