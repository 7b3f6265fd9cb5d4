//! The devices of a throw-away domain.

use std::collections::BTreeSet;

use super::{Allow, Dropped, RewriteError, plain, shown, utf8};
use crate::domain::instant::chain::name as target_of;
use crate::source::libvirt::xml::{Element, Node};

/// The channel that the guest agent is asked on.
const AGENT: &str = "org.qemu.guest_agent.0";

/// What is in a disk and comes along, with its attributes.
const DISK_PARTS: [(&str, &[&str]); 8] = [
    ("target", &["dev", "bus", "removable", "rotation_rate"]),
    ("readonly", &[]),
    ("serial", &[]),
    ("wwn", &[]),
    ("vendor", &[]),
    ("product", &[]),
    ("boot", &["order"]),
    ("blockio", &["logical_block_size", "physical_block_size"]),
];
/// What is in a disk, and said anew or by libvirt.
const DISK_OTHERS: [&str; 7] = [
    "driver",
    "source",
    "backingStore",
    "mirror",
    "address",
    "alias",
    "privateData",
];

/// Makes the devices.
pub(super) fn devices(
    how: &Allow<'_>,
    old: &Element,
    is_pc: bool,
    dropped: &mut Dropped,
) -> Result<Element, RewriteError> {
    check_disks(how, old)?;
    let mut made = Vec::new();
    let mut has_screen = how.wants_screen;
    for device in old.elements() {
        match device.name.as_str() {
            "disk" => made.extend(disk(how, device, dropped)?),
            "interface" => made.extend(interface(device, dropped)),
            "tpm" => made.extend(tpm(how, device, dropped)),
            "video" => has_screen = true,
            "panic" if device.get("model") == Some("isa") => made.push(plain(device, &["model"])),
            "serial" | "console" => list_line(device, dropped),
            "channel" if channel_name(device) == Some(AGENT) => {}
            "controller" => {}
            // libvirt adds them to a PC by itself, or says so that there are none.
            "input" if device.get("bus") == Some("ps2") => {}
            "audio" | "memballoon" if is_none(device) => {}
            "emulator" => {
                let path = shown(device.own_text().trim());
                dropped.push(format!("emulator {path}: libvirt chooses one"));
            }
            _ => dropped.push(words(device)),
        }
    }
    let buses: BTreeSet<String> = made.iter().filter_map(bus).collect();
    for controller in old.all("controller") {
        made.extend(keep_controller(controller, &buses, dropped));
    }
    made.push(usb(&buses));
    made.extend(own(how)?);
    if has_screen {
        // Every guest can show something on it, and nobody has to be connected.
        let kind = if is_pc { "vga" } else { "virtio" };
        let model = Element::new("model").attribute("type", kind);
        made.push(Element::new("video").child(model));
    }
    let children = made.into_iter().map(Node::Element).collect();
    let mut devices = Element::new("devices");
    devices.children = children;
    Ok(devices)
}

fn check_disks(how: &Allow<'_>, old: &Element) -> Result<(), RewriteError> {
    for target in how.disks.keys() {
        if !old.all("disk").any(|disk| target_of(disk) == Some(target)) {
            let target = target.clone();
            return Err(RewriteError::NoDisk { target });
        }
    }
    Ok(())
}

/// Returns what only this domain has.
fn own(how: &Allow<'_>) -> Result<Vec<Element>, RewriteError> {
    let console = Element::new("source")
        .attribute("path", utf8(&how.console)?)
        .attribute("append", "on");
    let serial = Element::new("serial").attribute("type", "file");
    let port = Element::new("target").attribute("port", "0");
    let agent = Element::new("target")
        .attribute("type", "virtio")
        .attribute("name", AGENT);
    // libvirt makes the socket, in a folder that is the domain's own.
    let channel = Element::new("channel").attribute("type", "unix");
    Ok(vec![
        serial.child(console).child(port),
        channel.child(agent),
        Element::new("memballoon").attribute("model", "none"),
    ])
}

fn disk(
    how: &Allow<'_>,
    old: &Element,
    dropped: &mut Dropped,
) -> Result<Option<Element>, RewriteError> {
    let name = target_of(old).unwrap_or_default();
    let Some(new) = how.disks.get(name) else {
        let kind = shown(old.get("device").unwrap_or("disk"));
        dropped.push(format!("{kind} {}: it is not in the snapshot", shown(name)));
        return Ok(None);
    };
    let device = match old.get("device") {
        Some("lun") => {
            dropped.push(format!(
                "disk {}: SCSI commands to the host's device",
                shown(name)
            ));
            "disk"
        }
        Some("cdrom") => "cdrom",
        Some("floppy") => "floppy",
        _ => "disk",
    };
    // What the guest writes is thrown away: nothing has to last.
    let driver = Element::new("driver")
        .attribute("name", "qemu")
        .attribute("type", new.format.name())
        .attribute("cache", "unsafe")
        .attribute("discard", "unmap");
    let mut disk = Element::new("disk")
        .attribute("type", "file")
        .attribute("device", device);
    if let Some(model) = old.get("model") {
        // Such as one of virtio for guests of before its first version.
        disk.set("model", model);
    }
    let mut disk = disk
        .child(driver)
        .child(Element::new("source").attribute("file", utf8(&new.path)?));
    disk.children.extend(new.backing.clone().map(Node::Element));
    for part in old.elements() {
        let allowed = DISK_PARTS.iter().find(|(known, _)| *known == part.name);
        if let Some((_, attributes)) = allowed {
            let kept = plain(part, attributes);
            let text = part.own_text().trim().to_owned();
            disk = disk.child(if text.is_empty() {
                kept
            } else {
                kept.text(&text)
            });
        } else if part.name == "address" && part.get("type") == Some("drive") {
            let place = ["type", "controller", "bus", "target", "unit"];
            disk = disk.child(plain(part, &place));
        } else if !DISK_OTHERS.contains(&part.name.as_str()) {
            dropped.push(format!("disk {}: `{}`", shown(name), shown(&part.name)));
        }
    }
    Ok(Some(disk))
}

/// Returns the bus that a disk is on.
fn bus(device: &Element) -> Option<String> {
    let target = device.first("target").filter(|_| device.name == "disk")?;
    target.get("bus").map(str::to_owned)
}

/// Keeps a controller that disks are on. PCI's, and those of serial channels, libvirt adds itself.
fn keep_controller(
    old: &Element,
    buses: &BTreeSet<String>,
    dropped: &mut Dropped,
) -> Option<Element> {
    let kind = old.get("type").unwrap_or_default();
    match kind {
        "scsi" | "sata" | "ide" | "fdc" if buses.contains(kind) => {
            return Some(plain(old, &["type", "index", "model"]));
        }
        "pci" | "virtio-serial" => {}
        "usb" if buses.contains(kind) || old.get("model") == Some("none") => {}
        _ => dropped.push(format!("controller {}", shown(kind))),
    }
    None
}

/// Returns a USB controller that all guests know, or none where no disk is on it.
fn usb(buses: &BTreeSet<String>) -> Element {
    let model = match buses.contains("usb") {
        true => "qemu-xhci",
        false => "none",
    };
    let controller = Element::new("controller").attribute("type", "usb");
    controller.attribute("index", "0").attribute("model", model)
}

/// Makes a network interface that looks as it did, and reaches nobody.
fn interface(old: &Element, dropped: &mut Dropped) -> Option<Element> {
    let kind = old.get("type").unwrap_or_default();
    let mac = old.first("mac");
    let shown_mac = shown(mac.and_then(|mac| mac.get("address")).unwrap_or_default());
    if ["hostdev", "vdpa"].contains(&kind) {
        dropped.push(format!("network interface {shown_mac} ({})", shown(kind)));
        return None;
    }
    dropped.push(format!(
        "link of the network interface {shown_mac} ({})",
        shown(kind)
    ));
    let mut interface = Element::new("interface").attribute("type", "user");
    if let Some(mac) = mac {
        interface = interface.child(plain(mac, &["address"]));
    }
    if let Some(model) = old.first("model") {
        interface = interface.child(plain(model, &["type"]));
    }
    Some(interface.child(Element::new("link").attribute("state", "down")))
}

fn tpm(how: &Allow<'_>, old: &Element, dropped: &mut Dropped) -> Option<Element> {
    let backend = old.first("backend");
    let backend = backend.filter(|backend| backend.get("type") == Some("emulator"));
    let Some(backend) = backend else {
        dropped.push("TPM of the host".to_owned());
        return None;
    };
    if !how.has_tpm_state {
        dropped.push("state of the TPM: it starts empty".to_owned());
    }
    let backend = plain(backend, &["type", "version"]);
    Some(plain(old, &["model"]).child(backend))
}

/// Names a line that is another than the one which is kept in a file.
fn list_line(old: &Element, dropped: &mut Dropped) {
    let target = old.first("target");
    let is_first = target.is_none_or(|target| matches!(target.get("port"), None | Some("0")));
    let kind = target.and_then(|target| target.get("type"));
    // The first console is another name of the first serial line.
    let is_other = old.name == "console" && !matches!(kind, None | Some("serial"));
    if !is_first || is_other {
        dropped.push(words(old));
    }
}

fn channel_name(old: &Element) -> Option<&str> {
    old.first("target")?.get("name")
}

/// Returns whether a device says that there is none.
fn is_none(device: &Element) -> bool {
    device.get("type").or_else(|| device.get("model")) == Some("none")
}

/// Names a device.
fn words(device: &Element) -> String {
    let kind = device.get("type").or_else(|| device.get("model"));
    let of = |name: &str| device.first(name).and_then(|of| of.get("type"));
    let what = channel_name(device).or(kind).or_else(|| of("model"));
    match what.or_else(|| device.get("mode")) {
        Some(what) => format!("device `{}` ({})", shown(&device.name), shown(what)),
        None => format!("device `{}`", shown(&device.name)),
    }
}
