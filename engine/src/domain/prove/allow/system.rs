//! What a throw-away domain is beside its devices.

use std::path::Path;

use super::{Accel, Allow, Dropped, RewriteError, plain, shown, utf8};
use crate::source::libvirt::xml::{Element, Node, XmlError};

/// What has a place of its own in the new domain, or says nothing that could be missed.
const KNOWN: [&str; 14] = [
    "name",
    "uuid",
    "memory",
    "currentMemory",
    "vcpu",
    "os",
    "features",
    "cpu",
    "clock",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "on_lockfailure",
    "devices",
];

/// Features that any machine may have.
const FEATURES: [&str; 6] = ["acpi", "apic", "gic", "pae", "smm", "vmport"];
/// Features that only KVM has.
const FEATURES_OF_KVM: [&str; 5] = ["hyperv", "ioapic", "kvm", "pmu", "pvspinlock"];
/// Clocks that any PC may have.
const TIMERS: [&str; 3] = ["hpet", "pit", "rtc"];

/// Returns whether the domain is a PC.
pub(super) fn is_pc(domain: &Element) -> bool {
    let kind = domain.at("os/type");
    let arch = kind.and_then(|kind| kind.get("arch"));
    matches!(arch, None | Some("x86_64" | "i686"))
}

pub(super) fn memory(how: &Allow<'_>, domain: &Element) -> Result<Element, RewriteError> {
    if let Some(bytes) = how.memory {
        let memory = Element::with_text("memory", &bytes.to_string());
        return Ok(memory.attribute("unit", "b"));
    }
    let old = domain.first("memory");
    let old = old.ok_or(XmlError::Missing { what: "memory" })?;
    Ok(plain(old, &["unit"]).text(old.own_text().trim()))
}

/// Returns how many processors the domain has.
pub(super) fn vcpus(domain: &Element) -> String {
    let text = domain.text_at("vcpu").unwrap_or_default();
    let count: u32 = text.parse().unwrap_or(1);
    count.max(1).to_string()
}

pub(super) fn os(
    how: &Allow<'_>,
    domain: &Element,
    dropped: &mut Dropped,
) -> Result<Element, RewriteError> {
    let old = domain.first("os").ok_or(XmlError::Missing { what: "os" })?;
    let kind = old.first("type");
    let kind = kind.ok_or(XmlError::Missing { what: "os/type" })?;
    if kind.own_text().trim() != "hvm" {
        let kind = shown(kind.own_text().trim());
        return Err(RewriteError::Kind { kind });
    }
    let mut os = plain(old, &["firmware"]).child(plain(kind, &["arch", "machine"]).text("hvm"));
    let has_loader = loader(how, old, &mut os, dropped);
    let is_stateless = old.first("loader").and_then(|of| of.get("stateless")) == Some("yes");
    let is_efi = os.get("firmware") == Some("efi") && !is_stateless;
    if old.first("nvram").is_some() || is_efi {
        let mut nvram = Element::with_text("nvram", utf8(&how.nvram)?);
        if let Some(was) = old.first("nvram") {
            nvram.attributes = plain(was, &["format"]).attributes;
            let template = was.get("template").filter(|_| has_loader);
            if let Some(template) = template.filter(|path| (how.exists)(Path::new(path))) {
                nvram.set("template", template);
            }
        }
        os = os.child(nvram);
        if !how.has_nvram_state {
            dropped.push("variables of the firmware: it starts with its defaults".to_owned());
        }
    }
    for part in old.elements() {
        match part.name.as_str() {
            "type" | "loader" | "nvram" => {}
            "cmdline" => os = os.child(plain(part, &[]).text(&part.own_text())),
            "boot" => os = os.child(plain(part, &["dev"])),
            "kernel" | "initrd" | "dtb" => os.children.extend(host_file(how, part, dropped)),
            "firmware" if has_loader || os.get("firmware").is_some() => {
                let features = part.all("feature");
                let features = features.map(|of| plain(of, &["enabled", "name"]));
                os = os.child(features.fold(Element::new("firmware"), Element::child));
            }
            name => dropped.push(format!("os setting `{}`", shown(name))),
        }
    }
    Ok(os)
}

/// Puts the firmware into a domain, and returns whether it is the old one's own file. Where that
/// is not on this host, libvirt chooses one.
fn loader(how: &Allow<'_>, old: &Element, os: &mut Element, dropped: &mut Dropped) -> bool {
    let Some(loader) = old.first("loader") else {
        return false;
    };
    let path = loader.own_text().trim().to_owned();
    let mut kept = plain(
        loader,
        &["readonly", "secure", "type", "stateless", "format"],
    );
    if path.is_empty() {
        os.put(kept);
        return false;
    }
    if (how.exists)(Path::new(&path)) {
        os.put(kept.text(&path));
        return true;
    }
    dropped.push(format!("firmware {}: it is not on this host", shown(&path)));
    if loader.get("type") == Some("pflash") || old.first("nvram").is_some() {
        os.set("firmware", "efi");
        kept = plain(loader, &["secure", "stateless"]);
        if !kept.attributes.is_empty() {
            os.put(kept);
        }
    }
    false
}

fn host_file(how: &Allow<'_>, part: &Element, dropped: &mut Dropped) -> Option<Node> {
    let path = part.own_text().trim().to_owned();
    if !(how.exists)(Path::new(&path)) {
        let (name, path) = (shown(&part.name), shown(&path));
        dropped.push(format!("{name} {path}: it is not on this host"));
        return None;
    }
    let kept = plain(part, &[]).text(&path);
    Some(Node::Element(kept))
}

pub(super) fn features(
    how: &Allow<'_>,
    domain: &Element,
    dropped: &mut Dropped,
) -> Option<Element> {
    let old = domain.first("features")?;
    let mut features = Element::new("features");
    for feature in old.elements() {
        let name = feature.name.as_str();
        if FEATURES.contains(&name) {
            features = features.child(plain(feature, &["state", "version", "eoi"]));
        } else if how.accel == Accel::Kvm && FEATURES_OF_KVM.contains(&name) {
            let mut kept = plain(feature, &["state", "mode", "driver"]);
            for switch in feature.elements() {
                kept = kept.child(plain(switch, &["state", "mode", "retries", "value"]));
            }
            features = features.child(kept);
        } else {
            dropped.push(format!("feature `{}`", shown(name)));
        }
    }
    Some(features)
}

pub(super) fn cpu(how: &Allow<'_>, domain: &Element, dropped: &mut Dropped) -> Option<Element> {
    let old = domain.first("cpu");
    let parts = old.into_iter().flat_map(Element::elements);
    let mut cpu = match how.accel {
        Accel::Tcg => Element::new("cpu").attribute("mode", "maximum"),
        Accel::Kvm => plain(old?, &["mode", "match", "check", "migratable"]),
    };
    for part in parts {
        let is_kvm = how.accel == Accel::Kvm;
        match part.name.as_str() {
            "topology" => {
                let counts = ["sockets", "dies", "clusters", "cores", "threads"];
                cpu = cpu.child(plain(part, &counts));
            }
            "model" if is_kvm => {
                let model = plain(part, &["fallback", "vendor_id"]);
                cpu = cpu.child(model.text(part.own_text().trim()));
            }
            "vendor" if is_kvm => cpu = cpu.child(plain(part, &[]).text(part.own_text().trim())),
            "feature" if is_kvm => cpu = cpu.child(plain(part, &["policy", "name"])),
            "cache" if is_kvm => cpu = cpu.child(plain(part, &["level", "mode"])),
            "maxphysaddr" if is_kvm => cpu = cpu.child(plain(part, &["mode", "bits", "limit"])),
            // TCG shows all that it can do.
            "model" | "vendor" | "feature" | "cache" | "maxphysaddr" => {}
            name => dropped.push(format!("CPU setting `{}`", shown(name))),
        }
    }
    Some(cpu)
}

pub(super) fn clock(how: &Allow<'_>, domain: &Element) -> Option<Element> {
    let old = domain.first("clock")?;
    let mut clock = plain(old, &["offset", "timezone", "adjustment", "basis", "start"]);
    for timer in old.all("timer") {
        let is_any = timer.get("name").is_some_and(|name| TIMERS.contains(&name));
        // The others are KVM's, and no setting of them is missed.
        if is_any || how.accel == Accel::Kvm {
            clock = clock.child(plain(timer, &["name", "present", "tickpolicy", "track"]));
        }
    }
    Some(clock)
}

/// Names what has no place in the new domain.
pub(super) fn list_rest(domain: &Element, dropped: &mut Dropped) {
    for part in domain.elements() {
        if !KNOWN.contains(&part.name.as_str()) {
            dropped.push(format!("setting `{}`", shown(&part.name)));
        }
    }
}
