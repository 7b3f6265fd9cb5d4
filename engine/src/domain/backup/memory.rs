//! The guest's memory, saved with its disks at one moment, so that it goes on where it was.

use std::path::PathBuf;

use super::scratch::Scratch;
use super::view::Run;
use crate::backup::FileRequest;
use crate::domain::DomainError;
use crate::limits::MIB;
use crate::source::libvirt::xml::{Element, XmlError};
use crate::source::raw::RawSource;

/// Name of the memory's file in a snapshot: what libvirt saved.
pub const MEMORY: &str = "memory";
/// Key of the XML that the memory is started with in a manifest's metadata: only a machine that is
/// the same to the guest can go on with it.
pub const MEMORY_XML: &str = "memory-xml";

/// What is saved beside the memory itself: the devices' state, the screen's memory.
const BESIDE: u64 = 256 * MIB;

/// Where the memory goes.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) path: PathBuf,
    /// The domain as it runs.
    pub(super) xml: String,
}

impl Memory {
    /// Chooses a file, and looks whether the memory and the overlays find room.
    pub(super) fn plan(run: &Run<'_>, scratch: &Scratch) -> Result<Self, DomainError> {
        let xml = run.domain.migratable_xml()?;
        let failed = |source| DomainError::Xml {
            domain: run.domain.name().to_owned(),
            source,
        };
        let len = len(&Element::parse(&xml, "domain").map_err(failed)?).map_err(failed)?;
        let name = format!(".cairn-{}.memory", run.name.drawn());
        let path = scratch.more(&name, len.saturating_add(BESIDE))?;
        Ok(Self { path, xml })
    }

    /// Opens the file that libvirt has written.
    pub(super) fn request(&self) -> Result<FileRequest, DomainError> {
        let source = RawSource::open(&self.path).map_err(|source| DomainError::Source {
            target: MEMORY.to_owned(),
            source,
        })?;
        Ok(FileRequest {
            name: MEMORY.to_owned(),
            source: Box::new(source),
        })
    }
}

/// Returns how long a domain's memory is at most, in bytes.
fn len(domain: &Element) -> Result<u64, XmlError> {
    let missing = XmlError::Missing { what: "memory" };
    let memory = domain.first("memory").ok_or(missing.clone())?;
    let unit: u64 = match memory.get("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        // What libvirt itself writes.
        _ => 1 << 10,
    };
    let count: u64 = memory.own_text().trim().parse().map_err(|_| missing)?;
    Ok(count.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_measured_in_its_unit() {
        let of = |xml: &str| len(&Element::parse(xml, "domain").expect("it is right"));
        let kib = "<domain><memory unit='KiB'>2048</memory></domain>";
        assert_eq!(of(kib), Ok(2 * MIB));
        assert_eq!(of("<domain><memory>1024</memory></domain>"), Ok(MIB));
        assert!(of("<domain/>").is_err());
    }
}
