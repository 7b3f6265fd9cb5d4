//! The XML of a throw-away domain: what a guest needs to boot, and nothing else.
//!
//! It is built from nothing, by a list of what may be in it, and not from the old XML by taking
//! things away: what this version has never heard of does not come along. Pure: what comes out
//! depends on what goes in. What does not come along is named in [`ThrowAway::dropped`].

mod devices;
mod system;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::domain::rewrite::{NewDisk, RewriteError, shown, utf8};
use crate::format::manifest::check_name;
use crate::source::libvirt::xml::{Element, XmlError};

/// Most lines that [`ThrowAway::dropped`] has: a snapshot may hold anything.
const DROPPED_MAX: usize = 200;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor, by KVM.
    Kvm,
    /// QEMU's own translator, which runs anywhere and slowly.
    Tcg,
}

impl Accel {
    /// Returns its name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        }
    }

    /// Returns libvirt's name of domains that run so.
    fn domain_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "qemu",
        }
    }
}

/// How a throw-away domain is made.
pub struct Allow<'a> {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What runs it.
    pub accel: Accel,
    /// Its memory in bytes, in place of what the domain had.
    pub memory: Option<u64>,
    /// The files of its disks, by target.
    pub disks: BTreeMap<String, NewDisk>,
    /// Where its firmware keeps variables, if it does.
    pub nvram: PathBuf,
    /// Whether the old variables are there already. Only decides what is said.
    pub has_nvram_state: bool,
    /// Whether the TPM's state is there already. Only decides what is said.
    pub has_tpm_state: bool,
    /// The file that takes what the guest writes to its first serial line.
    pub console: PathBuf,
    /// Whether it has a screen, even where the domain had none.
    pub wants_screen: bool,
    /// Tells whether a file of the host is there.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

/// A throw-away domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThrowAway {
    /// Its XML.
    pub xml: Element,
    /// What it has not, in words for the user.
    pub dropped: Vec<String>,
}

/// What was left out.
#[derive(Default)]
struct Dropped {
    words: Vec<String>,
    more: usize,
}

impl Dropped {
    fn push(&mut self, words: String) {
        if self.words.contains(&words) {
            return;
        }
        match self.words.len() < DROPPED_MAX {
            true => self.words.push(words),
            false => self.more = self.more.saturating_add(1),
        }
    }

    fn into_words(mut self) -> Vec<String> {
        if self.more > 0 {
            self.words.push(format!("and {} more", self.more));
        }
        self.words
    }
}

impl Allow<'_> {
    /// Makes the domain.
    pub fn apply(&self, domain: &Element) -> Result<ThrowAway, RewriteError> {
        check_name(&self.name).map_err(RewriteError::Name)?;
        if domain.name != "domain" {
            return Err(XmlError::WrongRoot { expected: "domain" }.into());
        }
        let old = domain.first("devices");
        let old = old.ok_or(XmlError::Missing { what: "devices" })?;
        let mut dropped = Dropped::default();
        let mut xml = Element::new("domain")
            .attribute("type", self.accel.domain_type())
            .child(Element::with_text("name", &self.name))
            .child(Element::with_text("uuid", &self.uuid))
            .child(system::memory(self, domain)?)
            .child(Element::with_text("vcpu", &system::vcpus(domain)))
            .child(system::os(self, domain, &mut dropped)?);
        let features = system::features(self, domain, &mut dropped);
        let cpu = system::cpu(self, domain, &mut dropped);
        for part in [features, cpu, system::clock(self, domain)]
            .into_iter()
            .flatten()
        {
            xml = xml.child(part);
        }
        // A guest may start anew once, as after an update; one that always does runs out of time.
        for (event, what) in [
            ("on_poweroff", "destroy"),
            ("on_reboot", "restart"),
            ("on_crash", "destroy"),
        ] {
            xml = xml.child(Element::with_text(event, what));
        }
        let is_pc = system::is_pc(domain);
        xml = xml.child(devices::devices(self, old, is_pc, &mut dropped)?);
        system::list_rest(domain, &mut dropped);
        Ok(ThrowAway {
            xml,
            dropped: dropped.into_words(),
        })
    }
}

/// Copies an element's name and those of its attributes that are on a list.
fn plain(of: &Element, attributes: &[&str]) -> Element {
    let mut copy = Element::new(&of.name);
    for name in attributes {
        if let Some(value) = of.get(name) {
            copy.set(name, value);
        }
    }
    copy
}

#[cfg(test)]
mod tests;
