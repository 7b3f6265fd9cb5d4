//! Rewrites the XML of a domain so that it can be defined again, here or on another host.
//!
//! Pure: what comes out depends on what goes in, and on random numbers where new ids are wanted.
//! What the guest sees of its hardware stays, PCI addresses included, since network interfaces get
//! their names from them. What belongs to the host of that day goes: its devices, its processors,
//! its sockets. What goes and may be missed is named in [`Rewritten::dropped`].

mod devices;
mod disks;
mod ids;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use ids::{new_mac, new_uuid};

use crate::format::FormatError;
use crate::format::manifest::check_name;
use crate::source::libvirt::xml::{Element, Node, XmlError};

/// A domain that cannot be rewritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The XML is not that of a domain.
    #[error("the domain's XML cannot be used")]
    Xml(#[from] XmlError),
    /// The new name is none.
    #[error("the domain cannot have this name")]
    Name(#[source] FormatError),
    /// A disk was restored that the domain has not.
    #[error("the domain's XML has no disk {target}")]
    NoDisk {
        /// The disk.
        target: String,
    },
    /// A path that XML cannot name.
    #[error("libvirt cannot be given the path {path}: it is no UTF-8", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The domain is a container, or of a kind whose guests know that they are guests.
    #[error("guests of the kind {kind} are no machines that QEMU can be")]
    Kind {
        /// What the domain's XML says.
        kind: String,
    },
    /// The system gives no random numbers.
    #[error("no random numbers for new ids")]
    Random,
}

/// The format of a disk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's format.
    Qcow2,
}

impl DiskFormat {
    /// Returns libvirt's name of it, which is the file's extension as well.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The file that a disk has from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Where it is.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The `backingStore` below it. Without one libvirt reads the file's header.
    pub backing: Option<Element>,
}

/// How a domain is rewritten.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The domain's name from now on.
    pub name: String,
    /// Whether it gets a new UUID and new MAC addresses, so that it can stand beside the original.
    /// What only one of two can have then, such as a fixed port, goes as well.
    pub new_ids: bool,
    /// The files of its disks, by target.
    pub disks: BTreeMap<String, NewDisk>,
    /// Whether it loses its network interfaces.
    pub no_nic: bool,
    /// Whether its network interfaces have no link.
    pub no_ip: bool,
    /// Whether disks, media and shared folders that are not in the snapshot stay.
    pub keep_foreign_disks: bool,
    /// The file with the firmware's variables. Without one libvirt makes it from a template.
    pub nvram: Option<PathBuf>,
    /// Whether the TPM's state is restored as well. Only decides what is said.
    pub has_tpm_state: bool,
    /// Whether libvirt chooses the emulator, since the one named is not on the host.
    pub drop_emulator: bool,
    /// Whether serial lines are not kept in files any more, since the folder is not on the host.
    pub drop_line_files: bool,
}

/// A domain that can be defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// Its XML.
    pub xml: Element,
    /// Its UUID.
    pub uuid: String,
    /// What it has no more, in words for the user.
    pub dropped: Vec<String>,
}

impl Rewrite {
    /// Rewrites a domain.
    pub fn apply(&self, domain: &Element) -> Result<Rewritten, RewriteError> {
        // A domain can have these two in its name, and a VM cannot.
        check_name(&self.name.replace(['@', ':'], "_")).map_err(RewriteError::Name)?;
        if domain.name != "domain" {
            return Err(XmlError::WrongRoot { expected: "domain" }.into());
        }
        let mut xml = domain.clone();
        let mut dropped = Vec::new();
        xml.unset("id");
        xml.put(Element::with_text("name", &self.name));
        let uuid = self.identify(&mut xml)?;
        free_from_host(&mut xml, &mut dropped);
        self.set_firmware(&mut xml, &mut dropped)?;
        let devices = xml.first_mut("devices");
        let devices = devices.ok_or(XmlError::Missing { what: "devices" })?;
        self.check_disks(devices)?;
        devices::rewrite(self, devices, &mut dropped)?;
        Ok(Rewritten { xml, uuid, dropped })
    }

    /// Gives the domain its ids, and returns the UUID.
    fn identify(&self, xml: &mut Element) -> Result<String, RewriteError> {
        let old = xml.text_at("uuid").filter(|uuid| !uuid.is_empty());
        let old = old.map(|uuid| uuid.into_owned());
        let uuid = match old {
            Some(old) if !self.new_ids => old,
            _ => new_uuid()?,
        };
        xml.put(Element::with_text("uuid", &uuid));
        if xml.first("genid").is_some() {
            // It exists to tell the guest that it went back in time, which is what a restore is.
            xml.put(Element::with_text("genid", &new_uuid()?));
        }
        if self.new_ids {
            xml.retain(|child| child.name != "hwuuid");
            for sysinfo in named_mut(xml, "sysinfo") {
                for entry in named_mut(sysinfo, "system").flat_map(|of| named_mut(of, "entry")) {
                    if entry.get("name") == Some("uuid") {
                        // libvirt refuses a domain where the two differ.
                        entry.set_text(&uuid);
                    }
                }
            }
        }
        Ok(uuid)
    }

    fn set_firmware(
        &self,
        xml: &mut Element,
        dropped: &mut Vec<String>,
    ) -> Result<(), RewriteError> {
        let Some(os) = xml.first_mut("os") else {
            return Ok(());
        };
        if let Some(path) = &self.nvram {
            let mut nvram = os.first("nvram").cloned();
            let nvram = nvram.get_or_insert_with(|| Element::new("nvram"));
            nvram.unset("type");
            nvram.set_text(utf8(path)?);
            os.put(nvram.clone());
        } else if let Some(nvram) = os.first_mut("nvram") {
            nvram.unset("type");
            nvram.children.clear();
            dropped.push("variables of the firmware: it starts with its defaults".to_owned());
        }
        Ok(())
    }

    fn check_disks(&self, devices: &Element) -> Result<(), RewriteError> {
        for target in self.disks.keys() {
            let has = |disk: &Element| disks::target(disk) == Some(target);
            if !devices.all("disk").any(has) {
                let target = target.clone();
                return Err(RewriteError::NoDisk { target });
            }
        }
        Ok(())
    }
}

/// Takes away what names processors, memory nodes, control groups and labels of one host.
fn free_from_host(xml: &mut Element, dropped: &mut Vec<String>) {
    const PINS: [&str; 5] = [
        "vcpupin",
        "emulatorpin",
        "iothreadpin",
        "cachetune",
        "memorytune",
    ];
    let mut pins = xml.retain(|child| child.name != "numatune");
    for vcpu in named_mut(xml, "vcpu") {
        pins = pins.saturating_add(usize::from(vcpu.get("cpuset").is_some()));
        vcpu.unset("cpuset");
    }
    for tune in named_mut(xml, "cputune") {
        pins = pins.saturating_add(tune.retain(|child| !PINS.contains(&child.name.as_str())));
    }
    if pins > 0 {
        dropped.push("pinning to processors and memory of the host".to_owned());
    }
    for tune in named_mut(xml, "blkiotune") {
        tune.retain(|child| child.name != "device");
    }
    xml.retain(|child| child.name != "resource" && !is_runtime_label(child));
    for label in named_mut(xml, "seclabel") {
        label.retain(|child| label_is_given(&child.name));
    }
}

/// Returns whether a label is what libvirt chose for one run.
fn is_runtime_label(element: &Element) -> bool {
    let is_dynamic = element.get("type").unwrap_or("dynamic") == "dynamic";
    element.name == "seclabel" && is_dynamic && element.first("baselabel").is_none()
}

fn label_is_given(name: &str) -> bool {
    name != "imagelabel"
}

/// Returns the elements of a name, to be changed.
fn named_mut<'e>(of: &'e mut Element, name: &'e str) -> impl Iterator<Item = &'e mut Element> {
    of.elements_mut().filter(move |child| child.name == name)
}

/// Takes the elements out of another, with what a rule makes of each; texts stay.
fn try_map<E>(
    of: &mut Element,
    mut rule: impl FnMut(Element) -> Result<Option<Element>, E>,
) -> Result<(), E> {
    let mut kept = Vec::with_capacity(of.children.len());
    for node in std::mem::take(&mut of.children) {
        match node {
            Node::Text(text) => kept.push(Node::Text(text)),
            Node::Element(element) => kept.extend(rule(element)?.map(Node::Element)),
        }
    }
    of.children = kept;
    Ok(())
}

/// Returns a path as XML can hold it.
pub(super) fn utf8(path: &Path) -> Result<&str, RewriteError> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(char::is_control));
    text.ok_or_else(|| RewriteError::Path {
        path: path.to_owned(),
    })
}

/// Returns a text of the XML as it can be shown: a snapshot may hold anything.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests;
