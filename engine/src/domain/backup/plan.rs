//! Which of a domain's disks are backed up, and against what. Pure.
//!
//! A disk is read by its changes only with proof: a published snapshot of this repository holds the
//! disk of this domain, its checkpoint is there with an intact bitmap on this disk, and the image
//! is the one that the bitmap was made on. Every doubt means that all of it is read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::options::Reading;
use crate::domain::DomainError;
use crate::format::Unknown;
use crate::format::domain::{DiskIdentity, LeftOut};
use crate::format::manifest::DiskRecord;
use crate::repository::Snapshot;
use crate::source::Origin;
use crate::source::libvirt::xml::{Checkpoint, DiskSource, DomainDescription, DomainDisk};

/// One disk of a plan.
#[derive(Debug, Clone)]
pub(super) struct PlannedDisk {
    pub(super) disk: DomainDisk,
    pub(super) identity: DiskIdentity,
    /// Why it is not read by its changes; `None` if it is.
    pub(super) doubt: Option<String>,
    /// Why its image can keep no bitmap; `None` if it can.
    pub(super) no_bitmap: Option<String>,
    /// Whether it was in an earlier snapshot, so that the doubt is worth a word.
    pub(super) is_known: bool,
}

impl PlannedDisk {
    /// Returns whether its image can keep a bitmap.
    pub(super) fn can_have_bitmap(&self) -> bool {
        self.no_bitmap.is_none()
    }

    /// Returns what the user should know of how it is read. That a raw disk has no bitmap is no
    /// news while nobody waits for its changes.
    pub(super) fn remark(&self, reading: Reading) -> Option<String> {
        let target = &self.disk.target;
        match (&self.no_bitmap, &self.doubt) {
            (Some(why), Some(_)) if self.disk.format == "qcow2" => Some(format!(
                "disk {target} is read whole, and so it will be the next time: {why}"
            )),
            (Some(why), None) => Some(format!(
                "disk {target} will be read whole the next time: {why}"
            )),
            (_, Some(doubt)) if self.is_known && reading == Reading::Auto => {
                Some(format!("disk {target} is read whole: {doubt}"))
            }
            _ => None,
        }
    }
}

/// What is to be backed up.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) disks: Vec<PlannedDisk>,
    /// Left out as a matter of course, or because the user wants it so.
    pub(super) left_out: Vec<LeftOut>,
    /// Left out because nothing can read them.
    pub(super) unreadable: Vec<LeftOut>,
}

impl Plan {
    /// Returns the domain's disks that take no part.
    pub(super) fn others(&self) -> Vec<String> {
        let out = self.left_out.iter().chain(&self.unreadable);
        out.map(|out| out.target.clone()).collect()
    }
}

/// What is known of a snapshot whose checkpoint may serve.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    pub(super) snapshot: Snapshot,
    /// The checkpoint as libvirt and QEMU know it now.
    pub(super) checkpoint: Checkpoint,
    /// Why a disk's bitmap cannot be used, where that is known.
    pub(super) faults: BTreeMap<String, String>,
}

/// A domain's disks, told apart.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    pub(super) chosen: Vec<DomainDisk>,
    /// As in [`Plan`].
    pub(super) left_out: Vec<LeftOut>,
    /// As in [`Plan`].
    pub(super) unreadable: Vec<LeftOut>,
}

impl Parent {
    /// Returns whether its checkpoint has an intact bitmap on some disk.
    pub(super) fn is_proven(&self) -> bool {
        self.checkpoint
            .disks
            .iter()
            .any(|(_, marked)| marked.is_some())
    }

    /// Returns the image that a disk's bitmap was made on.
    pub(super) fn origin(&self, target: &str) -> Option<Origin> {
        let identity = self.snapshot.disk(target)?.identity.as_ref();
        identity.map(|identity| Origin {
            path: PathBuf::from(&identity.path),
            inode: identity.inode,
        })
    }
}

/// Chooses the disks.
pub(super) fn select(
    domain: &DomainDescription,
    only: &[String],
    exclude: &[String],
) -> Result<Selected, DomainError> {
    if let Some(target) = only
        .iter()
        .chain(exclude)
        .find(|t| domain.disk(t).is_none())
    {
        let there: Vec<&str> = domain.disks.iter().map(|disk| &*disk.target).collect();
        return Err(DomainError::NoSuchDisk {
            domain: domain.name.clone(),
            target: target.clone(),
            there: there.join(", "),
        });
    }
    let (mut chosen, mut left_out, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for disk in &domain.disks {
        let out = |reason: &str| LeftOut {
            target: disk.target.clone(),
            reason: reason.to_owned(),
            unknown: Unknown::new(),
        };
        if exclude.contains(&disk.target) {
            left_out.push(out("excluded"));
        } else if !only.is_empty() && !only.contains(&disk.target) {
            left_out.push(out("not asked for"));
        } else if let Some(reason) = matter_of_course(disk) {
            left_out.push(out(reason));
        } else if let Some(reason) = unreadable_for(disk) {
            unreadable.push(out(&reason));
        } else {
            chosen.push(disk.clone());
        }
    }
    if chosen.is_empty() {
        let out = left_out.iter().chain(&unreadable);
        let reasons = out.map(|out| format!("{}: {}", out.target, out.reason));
        let reasons: Vec<String> = reasons.collect();
        return Err(DomainError::NothingToDo {
            domain: domain.name.clone(),
            reasons: reasons.join("; "),
        });
    }
    Ok(Selected {
        chosen,
        left_out,
        unreadable,
    })
}

fn matter_of_course(disk: &DomainDisk) -> Option<&'static str> {
    match disk.device.as_str() {
        "cdrom" => Some("a CD-ROM drive"),
        "floppy" => Some("a floppy drive"),
        _ if disk.is_transient => Some("transient: what is written is lost when the domain stops"),
        _ if disk.is_read_only => Some("read-only"),
        _ if disk.source == DiskSource::Empty => Some("empty"),
        _ => None,
    }
}

fn unreadable_for(disk: &DomainDisk) -> Option<String> {
    match (&disk.source, disk.device.as_str()) {
        (_, "lun") => Some("a SCSI device that is passed through".to_owned()),
        (DiskSource::Other(kind), _) => Some(format!(
            "disks of type `{kind}` cannot be read by backup jobs"
        )),
        _ => None,
    }
}

/// Returns why a disk cannot be read by its changes since a parent, or `None` if it can.
pub(super) fn doubt(
    disk: &DomainDisk,
    identity: &DiskIdentity,
    no_bitmap: Option<&str>,
    parent: Option<&Parent>,
    reading: Reading,
) -> Option<String> {
    if reading == Reading::Full {
        return Some("a full backup was asked for".to_owned());
    }
    if let Some(why) = no_bitmap {
        return Some(why.to_owned());
    }
    let Some(parent) = parent else {
        return Some("no snapshot's checkpoint is left to count from".to_owned());
    };
    let Some(record) = parent.snapshot.disk(&disk.target) else {
        return Some("the parent does not have this disk".to_owned());
    };
    let marked = parent
        .checkpoint
        .disks
        .iter()
        .find(|(target, _)| *target == disk.target);
    match marked {
        None => return Some("the parent's checkpoint has no bitmap on it".to_owned()),
        Some((_, None)) => {
            let name = &parent.checkpoint.name;
            return Some(match parent.faults.get(&disk.target) {
                Some(fault) => format!("bitmap {name} is missing or broken: {fault}"),
                None => format!("bitmap {name} is missing or broken"),
            });
        }
        Some((_, Some(_))) => {}
    }
    other_image(disk, identity, record, &parent.checkpoint.name)
}

/// Returns why an image is not the one that the parent was taken from, or `None` if it is.
fn other_image(
    disk: &DomainDisk,
    identity: &DiskIdentity,
    record: &DiskRecord,
    checkpoint: &str,
) -> Option<String> {
    let Some(before) = &record.identity else {
        return Some("the parent does not say which image it was taken from".to_owned());
    };
    if before.bitmap.as_deref() != Some(checkpoint) {
        return Some("the parent made no bitmap on it".to_owned());
    }
    let is_below = disk
        .backing
        .iter()
        .any(|path| path.as_os_str() == before.path.as_str());
    if before.path == identity.path {
        let told = before.inode.zip(identity.inode);
        return told
            .filter(|(old, new)| old != new)
            .map(|_| "the image was replaced by another file".to_owned());
    }
    match is_below {
        // A libvirt snapshot was made since; QEMU carries the bitmap over.
        true => None,
        false => Some(format!("the disk was moved from {}", before.path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(target: &str, device: &str, source: DiskSource) -> DomainDisk {
        DomainDisk {
            target: target.to_owned(),
            device: device.to_owned(),
            format: "qcow2".to_owned(),
            source,
            is_read_only: false,
            is_transient: false,
            backing: Vec::new(),
        }
    }

    fn domain(disks: Vec<DomainDisk>) -> DomainDescription {
        DomainDescription {
            name: "web1".to_owned(),
            uuid: "u".to_owned(),
            disks,
            machine: None,
            cpu: None,
            nvram: None,
            has_tpm: false,
            has_agent: false,
            secrets: Vec::new(),
            label: None,
        }
    }

    #[test]
    fn drives_are_left_out_and_what_cannot_be_read_is_named() {
        let file = || DiskSource::File("/a.qcow2".into());
        let domain = domain(vec![
            disk("vda", "disk", file()),
            disk("vdb", "disk", file()),
            disk("sda", "cdrom", DiskSource::Empty),
            disk("vdc", "disk", DiskSource::Other("vhostuser".to_owned())),
        ]);
        let exclude = ["vdb".to_owned()];
        let selected = select(&domain, &[], &exclude).expect("one is left");
        let names = |out: &[LeftOut]| out.iter().map(|out| out.target.clone()).collect::<Vec<_>>();
        assert_eq!(selected.chosen.len(), 1);
        assert_eq!(names(&selected.left_out), ["vdb", "sda"]);
        assert_eq!(names(&selected.unreadable), ["vdc"]);
        let unknown = select(&domain, &["vdx".to_owned()], &[]);
        assert!(matches!(unknown, Err(DomainError::NoSuchDisk { .. })));
        let nothing = select(&domain, &["sda".to_owned()], &[]);
        assert!(matches!(nothing, Err(DomainError::NothingToDo { .. })));
    }
}
