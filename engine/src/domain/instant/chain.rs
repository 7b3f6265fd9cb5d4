//! What a domain's XML says of the export below its disks.

use std::path::Path;

use crate::source::libvirt::xml::{Element, Node};

/// Seconds for which QEMU waits for a lost export before it fails the guest's reads: a day, in
/// which somebody notices.
pub const RECONNECT_SECONDS: u32 = 86_400;

/// Returns what is below the disk `target`: an export on a socket, and nothing below that.
pub fn backing(socket: &str, target: &str) -> Element {
    let host = Element::new("host")
        .attribute("transport", "unix")
        .attribute("socket", socket);
    let delay = RECONNECT_SECONDS.to_string();
    let source = Element::new("source")
        .attribute("protocol", "nbd")
        .attribute("name", target)
        .child(host)
        .child(Element::new("reconnect").attribute("delay", &delay));
    Element::new("backingStore")
        .attribute("type", "network")
        .child(Element::new("format").attribute("type", "raw"))
        .child(source)
        .child(Element::new("backingStore"))
}

/// Puts a `backingStore` below a disk of a domain, after its source.
pub fn set_backing(domain: &mut Element, target: &str, backing: &Element) {
    let Some(devices) = domain.first_mut("devices") else {
        return;
    };
    let mut all = devices.elements_mut();
    let Some(disk) = all.find(|disk| disk.name == "disk" && name(disk) == Some(target)) else {
        return;
    };
    disk.retain(|child| child.name != "backingStore");
    let is_source = |node: &Node| matches!(node, Node::Element(e) if e.name == "source");
    let at = disk.children.iter().position(is_source);
    let at = at.map_or(0, |at| at.saturating_add(1));
    disk.children.insert(at, Node::Element(backing.clone()));
    // A read error must reach the guest and stop nothing: with `stop` it would hang for ever.
    if let Some(driver) = disk.first_mut("driver") {
        driver.unset("rerror_policy");
    }
}

/// Returns a disk's name in the guest.
pub fn name(disk: &Element) -> Option<&str> {
    disk.first("target")?.get("dev")
}

/// Returns a disk's own file.
pub fn file(disk: &Element) -> Option<&Path> {
    disk.first("source")?.get("file").map(Path::new)
}

/// Returns the disks of a domain.
pub fn disks(domain: &Element) -> impl Iterator<Item = &Element> {
    let devices = domain.first("devices").into_iter();
    devices.flat_map(|devices| devices.all("disk"))
}

/// Returns whether anything in an element, however deep, is reached by a socket.
pub fn uses(element: &Element, socket: &str) -> bool {
    element.get("socket") == Some(socket) || element.elements().any(|child| uses(child, socket))
}

/// Takes what is below a domain's disks away where it is reached by a socket, and returns whether
/// there was any.
pub fn strip(domain: &mut Element, socket: &str) -> bool {
    let Some(devices) = domain.first_mut("devices") else {
        return false;
    };
    let mut any = false;
    for disk in devices.elements_mut().filter(|child| child.name == "disk") {
        let is_ours = |child: &Element| child.name == "backingStore" && uses(child, socket);
        any |= disk.retain(|child| !is_ours(child)) > 0;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::libvirt::xml::XmlError;

    const SOCKET: &str = "/run/x/nbd.sock";

    #[test]
    fn an_export_is_put_below_a_disk_found_there_and_taken_away() -> Result<(), XmlError> {
        let text = "<domain><devices>\
            <disk type='file'><driver type='qcow2' rerror_policy='stop'/><source file='/a'/>\
            <target dev='vda'/></disk>\
            <disk type='file'><source file='/b'/><target dev='vdb'/></disk>\
            </devices></domain>";
        let mut domain = Element::parse(text, "domain")?;
        set_backing(&mut domain, "vda", &backing(SOCKET, "vda"));
        let users: Vec<_> = disks(&domain)
            .filter(|disk| uses(disk, SOCKET))
            .filter_map(name)
            .collect();
        assert_eq!(users, ["vda"]);
        let written = domain.to_string();
        assert!(written.contains("<source file='/a'/><backingStore type='network'>"));
        assert!(written.contains("<reconnect delay='86400'/>"));
        assert!(!written.contains("rerror_policy"), "{written}");
        assert!(!uses(&domain, "/run/y/nbd.sock"));
        // Below an overlay that somebody else made it is found as well.
        let deep = backing(SOCKET, "vda").to_string();
        let deep = format!("<disk><backingStore type='file'>{deep}</backingStore></disk>");
        assert!(uses(&Element::parse(&deep, "disk")?, SOCKET));

        assert!(strip(&mut domain, SOCKET));
        assert!(!strip(&mut domain, SOCKET));
        assert!(!domain.to_string().contains("backingStore"));
        Ok(())
    }
}
