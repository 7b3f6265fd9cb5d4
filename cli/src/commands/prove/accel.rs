//! What runs the guest.

use anyhow::{Context as _, Result};
use cairn_engine::domain::prove::Accel;
use cairn_engine::source::libvirt::Connection;
use cairn_engine::source::libvirt::xml::Element;

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AccelChoice {
    /// KVM where the host has it, else TCG.
    Auto,
    /// KVM, or none.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl AccelChoice {
    /// Returns what is to be tried, in this order.
    pub fn candidates(self, connection: &Connection, domain: &Element) -> Result<Vec<Accel>> {
        Ok(match self {
            Self::Kvm => vec![Accel::Kvm],
            Self::Tcg => vec![Accel::Tcg],
            Self::Auto => {
                let text = connection.capabilities()?;
                let host = Element::parse(&text, "capabilities");
                let host = host.context("capabilities of libvirt")?;
                let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
                match offers_kvm(&host, domain) && is_virtualising(&host, &processors) {
                    // Where it does not start by KVM, it may by TCG.
                    true => vec![Accel::Kvm, Accel::Tcg],
                    false => vec![Accel::Tcg],
                }
            }
        })
    }
}

/// Returns whether libvirt runs machines of the domain's kind by KVM.
fn offers_kvm(host: &Element, domain: &Element) -> bool {
    let own = host.text_at("host/cpu/arch");
    let kind = domain.at("os/type");
    let wanted = kind.and_then(|kind| kind.get("arch")).or(own.as_deref());
    let mut arches = host.all("guest").filter_map(|guest| guest.first("arch"));
    arches.any(|arch| {
        let mut kinds = arch.all("domain");
        arch.get("name") == wanted && kinds.any(|kind| kind.get("type") == Some("kvm"))
    })
}

/// Returns whether the processor can do it. A host that is a guest itself may have a `/dev/kvm`
/// that is slower than TCG.
fn is_virtualising(host: &Element, processors: &str) -> bool {
    let arch = host.text_at("host/cpu/arch").unwrap_or_default();
    if !["x86_64", "i686"].contains(&&*arch) {
        return true;
    }
    let mut flags = processors.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| {
        line.split_whitespace()
            .any(|flag| ["vmx", "svm"].contains(&flag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, root: &'static str) -> Element {
        Element::parse(text, root).expect("it is XML")
    }

    #[test]
    fn kvm_is_taken_where_libvirt_and_the_processor_have_it() {
        let host = parse(
            "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>\
             <guest><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest>\
             <guest><arch name='aarch64'><domain type='qemu'/></arch></guest></capabilities>",
            "capabilities",
        );
        let domain = |arch: &str| {
            let text = format!("<domain><os><type {arch}>hvm</type></os></domain>");
            parse(&text, "domain")
        };
        assert!(offers_kvm(&host, &domain("arch='x86_64'")));
        assert!(offers_kvm(&host, &domain("")));
        assert!(!offers_kvm(&host, &domain("arch='aarch64'")));
        assert!(is_virtualising(&host, "flags\t\t: fpu vmx sse\n"));
        assert!(!is_virtualising(
            &host,
            "flags\t\t: fpu vmxx sse\nmodel : svm\n"
        ));
    }
}
