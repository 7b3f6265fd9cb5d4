//! Disks, drives and shared folders.

use super::{DiskFormat, NewDisk, Rewrite, RewriteError, shown, utf8};
use crate::source::libvirt::xml::{Element, Node};

/// Returns a disk's name in the guest.
pub(super) fn target(disk: &Element) -> Option<&str> {
    disk.first("target")?.get("dev")
}

/// Rewrites a disk, or drops it.
pub(super) fn rewrite(
    how: &Rewrite,
    mut disk: Element,
    dropped: &mut Vec<String>,
) -> Result<Option<Element>, RewriteError> {
    let name = target(&disk).unwrap_or_default().to_owned();
    disk.retain(|child| !["backingStore", "mirror"].contains(&child.name.as_str()));
    if let Some(new) = how.disks.get(&name) {
        place(&mut disk, &name, new, dropped)?;
        return Ok(Some(disk));
    }
    if how.keep_foreign_disks {
        return Ok(Some(disk));
    }
    if matches!(disk.get("device"), Some("cdrom" | "floppy")) {
        if disk.retain(|child| child.name != "source") > 0 {
            dropped.push(format!("medium in the drive {}", shown(&name)));
        }
        // Without a medium a drive is of the kind that takes any.
        disk.set("type", "file");
        disk.retain(|child| !["auth", "encryption"].contains(&child.name.as_str()));
        return Ok(Some(disk));
    }
    dropped.push(format!("disk {}: it is not in the snapshot", shown(&name)));
    Ok(None)
}

/// Puts a disk onto a file.
fn place(
    disk: &mut Element,
    name: &str,
    new: &NewDisk,
    dropped: &mut Vec<String>,
) -> Result<(), RewriteError> {
    if disk.get("device") == Some("lun") {
        disk.set("device", "disk");
        dropped.push(format!("disk {name}: SCSI commands to the host's device"));
    }
    disk.set("type", "file");
    for only_of_devices in ["rawio", "sgio"] {
        disk.unset(only_of_devices);
    }
    let in_source = |child: &str| {
        disk.first("source")
            .is_some_and(|s| s.first(child).is_some())
    };
    if disk.first("encryption").is_some() || in_source("encryption") {
        dropped.push(format!("disk {name}: encryption of its file"));
    }
    let is_qcow2 = new.format == DiskFormat::Qcow2;
    disk.retain(|child| match child.name.as_str() {
        "source" | "auth" | "encryption" => false,
        "shareable" => !is_qcow2,
        _ => true,
    });
    let mut driver = disk.first("driver").cloned();
    let driver = driver.get_or_insert_with(|| Element::new("driver"));
    driver.set("name", "qemu");
    driver.set("type", new.format.name());
    driver.retain(|child| is_qcow2 || child.name != "metadata_cache");
    disk.put(driver.clone());
    let mut after = Vec::new();
    let source = Element::new("source").attribute("file", utf8(&new.path)?);
    after.push(Node::Element(source));
    after.extend(new.backing.clone().map(Node::Element));
    let driver_at = (disk.children.iter())
        .position(|node| matches!(node, Node::Element(element) if element.name == "driver"));
    let at = driver_at.map_or(0, |at| at.saturating_add(1));
    disk.children.splice(at..at, after);
    Ok(())
}
