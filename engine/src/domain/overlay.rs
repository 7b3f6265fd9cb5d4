//! Overlays that take a guest's writes while its images are read. They hold what the guest wrote,
//! so they are committed back into the images whatever happens, and removed only after that.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crossbeam_channel::after;
use serde::{Deserialize, Serialize};

use super::DomainError;
use crate::child;
use crate::source::libvirt::xml::{DiskSource, DomainDescription, Element};
use crate::source::libvirt::{Domain, DomainState, LibvirtError, Reason};

/// How long a daemon that is gone, or a domain that is ending, is waited for.
const REACH_MAX: Duration = Duration::from_secs(60);
/// How long a commit may make no progress.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How long libvirt may take to name the image again.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How often is looked how far a commit is.
const TICK: Duration = Duration::from_millis(100);

/// An overlay of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The disk.
    pub target: String,
    /// The overlay's file.
    pub path: PathBuf,
    /// The image below it.
    pub base: PathBuf,
    /// The image's format.
    pub format: String,
    /// Whether the image is a block device.
    pub is_device: bool,
}

/// Where an overlay stands in a disk's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The guest writes to it.
    Active,
    /// Another overlay is above it.
    Below,
    /// The disk does without it.
    Unused,
}

/// What became of an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    Committed,
    Unused,
}

type Result<T> = std::result::Result<T, DomainError>;

impl Overlay {
    /// Returns where it stands in a domain's XML.
    pub(super) fn place(&self, domain: &DomainDescription) -> Place {
        let Some(disk) = domain.disk(&self.target) else {
            return Place::Unused;
        };
        match &disk.source {
            DiskSource::File(path) if *path == self.path => Place::Active,
            _ if disk.backing.contains(&self.path) => Place::Below,
            _ => Place::Unused,
        }
    }

    /// Commits what the guest wrote back into the image, and removes the overlay. `was_made` is
    /// whether the guest may ever have written to it. Returns what the user should know.
    ///
    /// # Errors
    ///
    /// The overlay is still there then, and the disk may still need it.
    pub(super) fn bring_back(&self, domain: &Domain, was_made: bool) -> Result<Option<String>> {
        let back = self.commit_back(domain)?;
        if back == Back::Unused && was_made && self.path.exists() {
            let (path, target) = (self.path.display(), &self.target);
            return Ok(Some(format!(
                "disk {target} does not use overlay {path} any more; it is left as it is"
            )));
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let path = self.path.display();
                Ok(Some(format!("cannot remove overlay {path}: {error}")))
            }
            _ => Ok(None),
        }
    }

    fn commit_back(&self, domain: &Domain) -> Result<Back> {
        let begun = Instant::now();
        loop {
            let state = domain.state();
            let tried = match &state {
                Ok(DomainState::InShutdown) => Err(self.stuck("the domain is ending")),
                Ok(state) if state.has_process() => self.commit_live(domain),
                Ok(_) => self.commit_offline(domain),
                Err(_) => Err(self.stuck("libvirt cannot be reached")),
            };
            let Err(error) = tried else {
                return tried;
            };
            // The daemon, or the domain, may have gone in the midst of it.
            let has_changed = match (state, domain.state()) {
                (Ok(before), Ok(now)) => before != now || before == DomainState::InShutdown,
                _ => true,
            };
            if !has_changed || begun.elapsed() >= REACH_MAX {
                return Err(error);
            }
            drop(domain.connection().revive());
            let _now = after(TICK).recv();
        }
    }

    fn commit_live(&self, domain: &Domain) -> Result<Back> {
        match self.place(&describe(domain, &domain.xml()?)?) {
            Place::Unused => return Ok(Back::Unused),
            Place::Below => return Err(self.stuck("another overlay was put on top of it")),
            Place::Active => {}
        }
        match domain.block_job(&self.target)? {
            Some(job) if !job.is_active_commit() => {
                return Err(self.stuck("the disk has another block job"));
            }
            // One that a killed run had begun.
            Some(_) => {}
            None => {
                let base = self.base.to_string_lossy();
                domain.block_commit_active(&self.target, &base)?;
            }
        }
        self.pivot(domain)?;
        Ok(Back::Committed)
    }

    /// Waits until all is committed, and lets the guest write to the image again.
    fn pivot(&self, domain: &Domain) -> Result<()> {
        let (mut seen, mut moved, mut refused) = (0, Instant::now(), None);
        while let Some(job) = domain.block_job(&self.target)? {
            if job.total > 0 && job.done >= job.total {
                match domain.block_job_pivot(&self.target) {
                    Ok(()) => break,
                    Err(error) if error.is_disconnected() => return Err(error.into()),
                    // It is at its end, and not yet ready.
                    Err(error) => refused = Some(error),
                }
            }
            if job.done != seen {
                (seen, moved) = (job.done, Instant::now());
            }
            if moved.elapsed() > STALL_MAX {
                let stalled = "its commit makes no progress".to_owned();
                let reason = refused.map_or(stalled, |error| error.to_string());
                return Err(self.stuck(&reason));
            }
            let _now = after(TICK).recv();
        }
        let begun = Instant::now();
        while self.place(&describe(domain, &domain.xml()?)?) != Place::Unused {
            if begun.elapsed() > SETTLE_MAX {
                return Err(self.stuck("its commit ended, and the disk still uses it"));
            }
            let _now = after(TICK).recv();
        }
        Ok(())
    }

    /// Commits while nobody has the image open, and lets the domain's definition name the image.
    fn commit_offline(&self, domain: &Domain) -> Result<Back> {
        let xml = match domain.inactive_xml() {
            Ok(xml) => Some(xml),
            // A transient domain leaves no definition; what its guest wrote is to be kept still.
            Err(error) if error.reason == Reason::NoDomain => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(xml) = &xml {
            match self.place(&describe(domain, xml)?) {
                Place::Unused => return Ok(Back::Unused),
                Place::Below => return Err(self.stuck("another overlay was put on top of it")),
                Place::Active => {}
            }
        }
        if !self.path.exists() {
            return Err(self.stuck("it is gone"));
        }
        self.run_commit()?;
        if let Some(xml) = &xml {
            domain.connection().define(&self.restored(domain, xml)?)?;
        }
        Ok(Back::Committed)
    }

    fn run_commit(&self) -> Result<()> {
        let mut command = child::program("qemu-img");
        // Without emptying the overlay, which is removed. Bitmaps in the image record the writes.
        command.args(["commit", "-q", "-d", "-f", "qcow2", "--"]);
        command.arg(&self.path).stdin(Stdio::null());
        let ran = command
            .output()
            .map_err(|error| self.stuck(&format!("cannot run qemu-img: {error}")))?;
        match ran.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&ran.stderr);
                let line = said.lines().next().unwrap_or("qemu-img failed");
                Err(self.stuck(line))
            }
        }
    }

    /// Returns a definition in which the disk is the image.
    fn restored(&self, domain: &Domain, xml: &str) -> Result<String> {
        let failed = |source| xml_error(domain, source);
        let mut root = Element::parse(xml, "domain").map_err(failed)?;
        let devices = root.first_mut("devices").into_iter();
        let disks = devices.flat_map(|devices| devices.elements_mut());
        let is_ours = |disk: &&mut Element| {
            let target = disk.first("target").and_then(|target| target.get("dev"));
            disk.name == "disk" && target == Some(&self.target)
        };
        for disk in disks.filter(is_ours) {
            point_at(disk, &self.base, &self.format, self.is_device);
        }
        Ok(root.to_string())
    }

    fn stuck(&self, reason: &str) -> DomainError {
        DomainError::Overlay {
            target: self.target.clone(),
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Lets a `<disk>` be an image. What is below it, its header tells.
pub(super) fn point_at(disk: &mut Element, path: &Path, format: &str, is_device: bool) {
    let (kind, attribute) = match is_device {
        true => ("block", "dev"),
        false => ("file", "file"),
    };
    disk.set("type", kind);
    disk.retain(|child| !["backingStore", "mirror"].contains(&child.name.as_str()));
    if let Some(driver) = disk.first_mut("driver") {
        driver.set("type", format);
    }
    let mut source = disk.first("source").cloned().unwrap_or_default();
    "source".clone_into(&mut source.name);
    source.attributes.clear();
    source.set(attribute, &path.to_string_lossy());
    disk.put(source);
}

pub(super) fn describe(domain: &Domain, xml: &str) -> Result<DomainDescription> {
    DomainDescription::parse(xml).map_err(|source| xml_error(domain, source))
}

fn xml_error(domain: &Domain, source: crate::source::libvirt::xml::XmlError) -> DomainError {
    DomainError::Xml {
        domain: domain.name().to_owned(),
        source,
    }
}

/// Ends the saving of memory that a killed run began: the daemon goes on with it alone.
pub(super) fn end_saving(domain: &Domain) -> std::result::Result<(), LibvirtError> {
    let begun = Instant::now();
    while begun.elapsed() < REACH_MAX {
        match domain.job_progress() {
            Ok(Some(_)) => domain.abort_job()?,
            // One that is off has no job.
            Ok(None) => return Ok(()),
            Err(error) if error.reason == Reason::Invalid => return Ok(()),
            Err(error) => return Err(error),
        }
        let _now = after(TICK).recv();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain><name>n</name><uuid>u</uuid><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
        <source file='/i/o' index='3'/><backingStore type='file'><format type='raw'/>\
        <source file='/i/a.img'/></backingStore><target dev='vda'/></disk>\
        </devices></domain>";

    fn overlay(path: &str) -> Overlay {
        Overlay {
            target: "vda".to_owned(),
            path: path.into(),
            base: "/i/a.img".into(),
            format: "raw".to_owned(),
            is_device: false,
        }
    }

    #[test]
    fn an_overlay_is_active_below_or_unused() {
        let domain = DomainDescription::parse(XML).expect("it is right");
        assert_eq!(overlay("/i/o").place(&domain), Place::Active);
        assert_eq!(overlay("/i/a.img").place(&domain), Place::Below);
        assert_eq!(overlay("/i/x").place(&domain), Place::Unused);
    }

    #[test]
    fn a_disk_becomes_its_image_again() {
        let mut root = Element::parse(XML, "domain").expect("it is right");
        let devices = root.first_mut("devices").expect("it is there");
        let disk = devices.first_mut("disk").expect("it is there");
        point_at(disk, Path::new("/i/a.img"), "raw", false);
        assert_eq!(
            disk.to_string(),
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='/i/a.img'/><target dev='vda'/></disk>"
        );
    }
}
