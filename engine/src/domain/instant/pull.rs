//! One look at a domain, and the next thing to be done about its disks.

use serde::Serialize;

use super::chain;
use super::overlay;
use super::record::Record;
use crate::domain::DomainError;
use crate::source::libvirt::xml::Element;
use crate::source::libvirt::{Connection, Domain, Reason};

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// libvirt knows no such domain.
    Gone,
    /// The domain does not run, and its disks are not whole.
    Off,
    /// Disks are being pulled.
    Pulling,
    /// The disks are whole, and nothing of the domain needs the export.
    Whole,
}

/// How far a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskState {
    /// Its name in the guest.
    pub target: String,
    /// Whether it needs the export no more.
    pub is_whole: bool,
    /// Bytes that its job has gone through, and those that it will; none without a job.
    pub job: Option<(u64, u64)>,
}

type Result<T> = std::result::Result<T, DomainError>;

/// Finds the domain of a record.
pub fn domain_of(connection: &Connection, record: &Record) -> Result<Option<Domain>> {
    match connection.domain(&record.uuid) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.reason == Reason::NoDomain => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse(domain: &Domain, xml: &str) -> Result<Element> {
    Element::parse(xml, "domain").map_err(|source| DomainError::Xml {
        domain: domain.name().to_owned(),
        source,
    })
}

/// Returns whether a domain needs the export: as it runs, or as it would start.
pub fn needs_export(domain: &Domain, record: &Record) -> Result<bool> {
    let socket = record.socket.to_string_lossy();
    let live = parse(domain, &domain.xml()?)?;
    let next = parse(domain, &domain.inactive_xml()?)?;
    if chain::uses(&live, &socket) || chain::uses(&next, &socket) {
        return Ok(true);
    }
    // Without a `backingStore` in its XML, libvirt reads what is below from the file.
    let is_used = |xml: &Element, path| chain::disks(xml).any(|d| chain::file(d) == Some(path));
    for disk in &record.disks {
        let path = &*disk.path;
        if (is_used(&live, path) || is_used(&next, path))
            && overlay::has_backing(path).map_err(DomainError::file("read", path))?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns how far each disk of a record is.
pub fn disks(domain: &Domain, record: &Record) -> Result<Vec<DiskState>> {
    let socket = record.socket.to_string_lossy();
    let xml = parse(domain, &domain.xml()?)?;
    let state = |target: &String| {
        let mut all = chain::disks(&xml);
        let disk = all.find(|disk| chain::name(disk) == Some(target));
        let is_whole = disk.is_some_and(|disk| !chain::uses(disk, &socket));
        let job = domain.block_job(target).ok().flatten();
        DiskState {
            target: target.clone(),
            is_whole,
            job: job.map(|job| (job.done, job.total)),
        }
    };
    Ok(record
        .disks
        .iter()
        .map(|disk| state(&disk.target))
        .collect())
}

/// Looks at the domain, and begins what is to be done next: pulls of disks that are not whole and
/// have no job, and a definition without the export when all are.
///
/// Does no harm however often it is called, and relies on nothing that was done before: QEMU,
/// libvirt's daemon and this process may have ended in between.
pub fn step(connection: &Connection, record: &Record) -> Result<Step> {
    let Some(domain) = domain_of(connection, record)? else {
        return Ok(Step::Gone);
    };
    if !domain.state()?.has_process() {
        return Ok(match needs_export(&domain, record)? {
            true => Step::Off,
            false => Step::Whole,
        });
    }
    let socket = record.socket.to_string_lossy();
    let live = parse(&domain, &domain.xml()?)?;
    let mut is_pulling = false;
    for disk in chain::disks(&live).filter(|disk| chain::uses(disk, &socket)) {
        is_pulling = true;
        let Some(target) = chain::name(disk) else {
            continue;
        };
        if domain.block_job(target)?.is_none() {
            domain.block_pull(target, record.pull_limit)?;
        }
    }
    if is_pulling {
        return Ok(Step::Pulling);
    }
    if domain.is_persistent()? {
        forget_export(connection, &domain, &socket)?;
    }
    // Between the two looks the domain may have gone off: then the next step looks again.
    let is_running = domain.state()?.has_process();
    Ok(match needs_export(&domain, record)? {
        true if is_running => Step::Pulling,
        true => Step::Off,
        false => Step::Whole,
    })
}

/// Defines the domain without the export below its disks. They are whole as it runs.
fn forget_export(connection: &Connection, domain: &Domain, socket: &str) -> Result<()> {
    let mut next = parse(domain, &domain.inactive_xml()?)?;
    if chain::strip(&mut next, socket) {
        connection.define(&next.to_string())?;
    }
    Ok(())
}
