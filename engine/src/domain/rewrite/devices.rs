//! Devices other than disks.

use std::collections::BTreeSet;

use super::{Rewrite, RewriteError, disks, named_mut, new_mac, shown, try_map};
use crate::source::libvirt::xml::Element;

/// Where a device sits on the PCI bus, without its function.
type Slot = (String, String, String);

/// Rewrites the devices of a domain.
pub(super) fn rewrite(
    how: &Rewrite,
    devices: &mut Element,
    dropped: &mut Vec<String>,
) -> Result<(), RewriteError> {
    let mut empty_slots = BTreeSet::new();
    let mut has_lost_interface = false;
    try_map(devices, |device| {
        let slot = slot(&device);
        let is_interface = device.name == "interface";
        let kept = rewrite_one(how, device, dropped)?;
        if kept.is_none() {
            empty_slots.extend(slot);
            has_lost_interface |= is_interface;
        }
        Ok::<_, RewriteError>(kept)
    })?;
    for device in devices.elements_mut() {
        // A slot without its first function is not seen by guests: libvirt finds another place.
        if slot(device).is_some_and(|slot| empty_slots.contains(&slot)) {
            device.retain(|child| child.name != "address");
        }
        if has_lost_interface && device.name == "interface" {
            device.retain(|child| child.name != "teaming");
        }
    }
    Ok(())
}

fn slot(device: &Element) -> Option<Slot> {
    let address = device.first("address")?;
    let part = |name| address.get(name).unwrap_or_default().to_owned();
    (address.get("type") == Some("pci")).then(|| (part("domain"), part("bus"), part("slot")))
}

fn rewrite_one(
    how: &Rewrite,
    mut device: Element,
    dropped: &mut Vec<String>,
) -> Result<Option<Element>, RewriteError> {
    device.retain(|child| child.name != "privateData" && !is_runtime_alias(child));
    for source in named_mut(&mut device, "source") {
        source.unset("startupPolicy");
        source.unset("index");
        source.retain(|child| child.name != "privateData");
    }
    let kind = device.get("type").unwrap_or_default().to_owned();
    let model = device.get("model").unwrap_or_default().to_owned();
    let mut drop_with = |words: String| {
        dropped.push(words);
        Ok(None)
    };
    match device.name.as_str() {
        "disk" => disks::rewrite(how, device, dropped),
        "interface" => interface(how, device, dropped),
        "serial" | "console" | "parallel" => Ok(Some(line(how, device, dropped))),
        "channel" => Ok(channel(how, device, dropped)),
        "graphics" => Ok(Some(graphics(how, device, dropped))),
        "tpm" => Ok(tpm(how, device, dropped)),
        "vsock" => Ok(Some(vsock(how, device))),
        "emulator" if how.drop_emulator => {
            drop_with(format!("emulator {}", shown(&device.own_text())))
        }
        "hostdev" => drop_with(format!("device of the host ({})", shown(&kind))),
        "redirdev" => drop_with("redirected USB device".to_owned()),
        "redirfilter" => Ok(None),
        "shmem" => drop_with("memory shared with other processes (shmem)".to_owned()),
        "smartcard" if device.get("mode") != Some("passthrough") => {
            drop_with("smart card of the host".to_owned())
        }
        "smartcard" if kind != "spicevmc" => drop_with("smart card of the host".to_owned()),
        "input" if kind == "evdev" || kind == "passthrough" => {
            drop_with("input device of the host".to_owned())
        }
        "memory" if model == "nvdimm" || model == "virtio-pmem" => {
            drop_with(format!("persistent memory ({model})"))
        }
        "filesystem" if !how.keep_foreign_disks => {
            drop_with(format!("folder shared with the host ({})", folder(&device)))
        }
        "memory" => {
            for source in named_mut(&mut device, "source") {
                source.retain(|child| child.name != "nodemask");
            }
            Ok(Some(device))
        }
        _ => Ok(Some(device)),
    }
}

/// Returns whether an alias is libvirt's own: those of users begin with `ua-`.
fn is_runtime_alias(element: &Element) -> bool {
    let is_user = |name: &str| name.starts_with("ua-");
    element.name == "alias" && !element.get("name").is_some_and(is_user)
}

fn folder(device: &Element) -> String {
    let name = device.first("target").and_then(|target| target.get("dir"));
    shown(name.unwrap_or_default())
}

fn interface(
    how: &Rewrite,
    mut device: Element,
    dropped: &mut Vec<String>,
) -> Result<Option<Element>, RewriteError> {
    let kind = device.get("type").unwrap_or_default().to_owned();
    let mac = device.first("mac").and_then(|mac| mac.get("address"));
    let mac = shown(mac.unwrap_or_default());
    if how.no_nic {
        dropped.push(format!("network interface {mac}"));
        return Ok(None);
    }
    if ["hostdev", "vhostuser", "vdpa"].contains(&kind.as_str()) {
        dropped.push(format!("network interface {mac} ({})", shown(&kind)));
        return Ok(None);
    }
    let chosen = |name: &str| {
        let prefixes = ["vnet", "macvtap", "macvlan"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    device.retain(|child| {
        let name = child.get("dev").unwrap_or_default();
        child.name != "target" || !(how.new_ids || chosen(name))
    });
    for source in named_mut(&mut device, "source") {
        source.unset("portid");
        if kind == "network" {
            source.unset("bridge");
        }
    }
    if how.new_ids {
        device.put(Element::new("mac").attribute("address", &new_mac()?));
        for port in named_mut(&mut device, "virtualport") {
            for parameters in named_mut(port, "parameters") {
                parameters.unset("interfaceid");
                parameters.unset("instanceid");
            }
        }
    }
    if how.no_ip {
        device.put(Element::new("link").attribute("state", "down"));
    }
    Ok(Some(device))
}

/// Rewrites a serial line, a console or a parallel port.
fn line(how: &Rewrite, mut device: Element, dropped: &mut Vec<String>) -> Element {
    device.unset("tty");
    let kind = device.get("type").unwrap_or("pty").to_owned();
    let was_socket = kind == "unix";
    let is_alone = !["pty", "null", "vc", "stdio", "spicevmc", "spiceport"].contains(&&*kind);
    if kind == "pty" || was_socket || (how.new_ids && is_alone) {
        device.retain(|child| child.name != "source" && child.name != "protocol");
        device.set("type", "pty");
    }
    if how.new_ids {
        device.retain(|child| child.name != "log");
    }
    // The first console is another name of the first serial line: said once.
    if was_socket || (how.new_ids && is_alone) {
        let words = format!("the {kind} behind a serial or parallel line: it is a pty now");
        if !dropped.contains(&words) {
            dropped.push(words);
        }
    }
    device
}

fn channel(how: &Rewrite, mut device: Element, dropped: &mut Vec<String>) -> Option<Element> {
    let kind = device.get("type").unwrap_or_default().to_owned();
    if how.new_ids && ["tcp", "udp", "file", "pipe", "dev"].contains(&kind.as_str()) {
        dropped.push(format!("channel onto a {kind} of the host"));
        return None;
    }
    if kind == "unix" || kind == "pty" {
        // libvirt makes the socket, in a folder that is the domain's own.
        device.retain(|child| child.name != "source");
    }
    for target in named_mut(&mut device, "target") {
        target.unset("state");
    }
    Some(device)
}

fn graphics(how: &Rewrite, mut device: Element, dropped: &mut Vec<String>) -> Element {
    let has_own_port = ["port", "tlsPort", "websocket"]
        .iter()
        .any(|name| device.get(name).is_some_and(|port| port != "-1"));
    let is_automatic = device.get("autoport") == Some("yes");
    if is_automatic || (how.new_ids && has_own_port) {
        if !is_automatic {
            dropped.push("fixed port of the screen: libvirt chooses one".to_owned());
        }
        device.unset("port");
        device.unset("tlsPort");
        if device.get("websocket").is_some() {
            device.set("websocket", "-1");
        }
        device.set("autoport", "yes");
    }
    if how.new_ids {
        device.unset("socket");
        for listen in named_mut(&mut device, "listen") {
            listen.unset("socket");
        }
    }
    device
}

fn tpm(how: &Rewrite, mut device: Element, dropped: &mut Vec<String>) -> Option<Element> {
    let backend = device.first("backend").and_then(|of| of.get("type"));
    if backend != Some("emulator") {
        dropped.push("TPM of the host".to_owned());
        return None;
    }
    for backend in named_mut(&mut device, "backend") {
        // Each domain keeps its state in a folder of its own.
        backend.retain(|child| child.name != "source");
    }
    if !how.has_tpm_state {
        dropped.push("state of the TPM: it starts empty".to_owned());
    }
    Some(device)
}

fn vsock(how: &Rewrite, mut device: Element) -> Element {
    for cid in named_mut(&mut device, "cid") {
        if how.new_ids || cid.get("auto") == Some("yes") {
            cid.set("auto", "yes");
            cid.unset("address");
        }
    }
    device
}
