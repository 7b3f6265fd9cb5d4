//! One domain: its state, its XML, and what may be done to it.

use std::path::{Path, PathBuf};

use virt::domain::Domain as Raw;
use virt::sys;

use super::{Connection, LibvirtError, ffi};

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// Its guest runs.
    Running,
    /// Its guest is stopped by an I/O error.
    PausedByIoError,
    /// Its guest is stopped for another reason.
    Paused,
    /// Its QEMU is ending.
    InShutdown,
    /// It is off, or crashed.
    Off,
}

impl DomainState {
    /// Returns whether there is a QEMU that can be talked to.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::PausedByIoError)
    }
}

/// A domain of a libvirt host. May be used by any thread; finds its domain again when the
/// connection was lost.
#[derive(Clone)]
pub struct Domain {
    connection: Connection,
    name: String,
    uuid: String,
}

type Result<T> = std::result::Result<T, LibvirtError>;

impl Domain {
    pub(super) fn new(connection: Connection, raw: Raw) -> Result<Self> {
        let failed = |error| LibvirtError::of("name the domain", &error);
        let name = raw.name().map_err(failed)?;
        let uuid = raw.uuid_string().map_err(failed)?;
        Ok(Self {
            connection,
            name,
            uuid,
        })
    }

    /// Returns the connection that it was found by.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Finds the domain again by its UUID: after a restart of the daemon old handles are void.
    pub(super) fn raw(&self) -> Result<Raw> {
        let found = self
            .connection
            .raw()
            .lookup_domain_by_uuid_string(&self.uuid);
        found.map_err(|error| LibvirtError::of("find the domain", &error))
    }

    fn call<T>(
        &self,
        call: &'static str,
        ask: impl FnOnce(&Raw) -> std::result::Result<T, virt::error::Error>,
    ) -> Result<T> {
        ask(&self.raw()?).map_err(|error| LibvirtError::of(call, &error))
    }

    /// Returns what it is doing. One that is not there any more is off.
    pub fn state(&self) -> Result<DomainState> {
        // It may go between the two questions.
        let info = self.raw().and_then(|raw| {
            let state = raw.state();
            state.map_err(|error| LibvirtError::of("tell the state", &error))
        });
        let info = match info {
            Err(error) if error.reason == super::Reason::NoDomain => return Ok(DomainState::Off),
            info => info?,
        };
        let io_error = sys::VIR_DOMAIN_PAUSED_IOERROR;
        Ok(match info.0.to_raw() {
            sys::VIR_DOMAIN_PAUSED if reason_of(&info.1) == io_error => {
                DomainState::PausedByIoError
            }
            sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Paused,
            sys::VIR_DOMAIN_SHUTDOWN => DomainState::InShutdown,
            sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED => DomainState::Off,
            _ => DomainState::Running,
        })
    }

    /// Returns whether its memory is saved, to go on from at the next start.
    pub fn has_saved_memory(&self) -> Result<bool> {
        self.call("tell whether the domain's memory is saved", |raw| {
            raw.has_managed_save(0)
        })
    }

    /// Returns whether its definition outlives its process.
    pub fn is_persistent(&self) -> Result<bool> {
        self.call("tell whether the domain is persistent", Raw::is_persistent)
    }

    /// Returns the XML of the domain as it runs, or of its definition where it does not.
    pub fn xml(&self) -> Result<String> {
        self.call("describe the domain", |raw| raw.xml_desc(0))
    }

    /// Returns the XML that a next start would use; with secrets where the connection may.
    pub fn inactive_xml(&self) -> Result<String> {
        let all = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
        self.call("describe the domain", |raw| raw.xml_desc(all))
            .or_else(|_| {
                self.call("describe the domain", |raw| {
                    raw.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)
                })
            })
    }

    /// Returns the XML that a domain's saved memory is started with: what it is now, without what
    /// is only of this run; with secrets where the connection may.
    pub fn migratable_xml(&self) -> Result<String> {
        let flags = sys::VIR_DOMAIN_XML_MIGRATABLE;
        let all = flags | sys::VIR_DOMAIN_XML_SECURE;
        let xml = self.call("describe the domain", |raw| raw.xml_desc(all));
        xml.or_else(|_| self.call("describe the domain", |raw| raw.xml_desc(flags)))
    }

    /// Starts it.
    pub fn start(&self) -> Result<()> {
        self.call("start the domain", |raw| raw.create().map(drop))
    }

    /// Ends its QEMU at once.
    pub fn destroy(&self) -> Result<()> {
        self.call("stop the domain", |raw| raw.destroy().map(drop))
    }

    /// Asks the guest to shut down.
    pub fn shutdown(&self) -> Result<()> {
        self.call("shut the domain down", |raw| raw.shutdown().map(drop))
    }

    /// Stops the guest's processors.
    pub fn suspend(&self) -> Result<()> {
        self.call("suspend the domain", |raw| raw.suspend().map(drop))
    }

    /// Lets the guest's processors go on.
    pub fn resume(&self) -> Result<()> {
        self.call("resume the domain", |raw| raw.resume().map(drop))
    }

    /// Takes its definition away; its disks, NVRAM and TPM state stay.
    pub fn undefine(&self) -> Result<()> {
        let flags = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE;
        self.call("undefine the domain", |raw| {
            raw.undefine_flags(flags).map(drop)
        })
    }

    /// Changes the size of a disk of a running domain, in bytes.
    pub fn block_resize(&self, disk: &str, size: u64) -> Result<()> {
        let bytes = sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES;
        self.call("resize a disk", |raw| {
            raw.block_resize(disk, size, bytes).map(drop)
        })
    }

    /// Returns a disk's size in bytes, as the guest sees it.
    pub fn disk_size(&self, disk: &str) -> Result<u64> {
        self.call("tell a disk's size", |raw| raw.block_info(disk, 0))
            .map(|info| info.capacity)
    }

    /// Makes a libvirt snapshot; `flags` are libvirt's, as [`SnapshotKind`] gives them.
    pub fn snapshot(&self, xml: &str, kind: SnapshotKind) -> Result<()> {
        let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | match kind {
                SnapshotKind::DisksOnly => sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
                SnapshotKind::WithMemory => sys::VIR_DOMAIN_SNAPSHOT_CREATE_LIVE,
            };
        self.call("make a libvirt snapshot", |raw| {
            raw.create_snapshot_xml(xml, flags).map(drop)
        })
    }

    /// Takes a picture of the first screen: its MIME type and its bytes, at most `len_max`.
    pub fn screenshot(&self, len_max: usize) -> Result<(String, Vec<u8>)> {
        let failed = |error| LibvirtError::of("take a picture of the screen", &error);
        let stream = virt::stream::Stream::new(&self.connection.raw(), 0).map_err(failed)?;
        let mime = self.call("take a picture of the screen", |raw| {
            raw.screenshot(&stream, 0, 0)
        })?;
        let mut picture = Vec::new();
        let mut part = vec![0; 64 * 1024];
        while picture.len() < len_max {
            let len = stream.recv(&mut part).map_err(failed)?;
            let Some(read) = usize::try_from(len).ok().and_then(|len| part.get(..len)) else {
                break;
            };
            if read.is_empty() {
                break;
            }
            picture.extend_from_slice(read);
        }
        stream.finish().map_err(failed)?;
        Ok((mime, picture))
    }

    /// Returns the process id of the domain's QEMU, where its host is this one.
    pub fn pid(&self) -> Option<u32> {
        find_process(&self.name, &self.uuid)
    }

    pub(super) fn ffi<T>(&self, call: impl FnOnce(&Raw) -> Result<T>) -> Result<T> {
        call(&self.raw()?)
    }

    /// Freezes all of the guest's file systems, and returns how many.
    pub fn freeze(&self) -> Result<u32> {
        self.ffi(ffi::freeze)
    }

    /// Thaws all of the guest's file systems, and returns how many. Once more does no harm.
    pub fn thaw(&self) -> Result<u32> {
        self.ffi(ffi::thaw)
    }
}

/// What a libvirt snapshot holds beside the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Nothing.
    DisksOnly,
    /// The guest's memory, saved while it runs.
    WithMemory,
}

/// Returns the raw number of the reason for a state.
fn reason_of(reason: &virt::domain::DomainStateReasonEnum) -> u32 {
    use virt::domain::{DomainStateReason, DomainStateReasonEnum as Known};
    match reason {
        Known::Known(DomainStateReason::Paused(reason)) => reason.to_raw(),
        _ => 0,
    }
}

/// Finds a QEMU of this host by the UUID on its command line.
fn find_process(name: &str, uuid: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let is_qemu = |folder: &Path| {
        let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let has_uuid = words.clone().any(|word| word == uuid.as_bytes());
        has_uuid && words.any(|word| word.starts_with(format!("guest={name},").as_bytes()))
    };
    let mut folders = processes.flatten().map(|entry| entry.path());
    let found: PathBuf = folders.find(|folder| is_qemu(folder))?;
    found.file_name()?.to_str()?.parse().ok()
}
