//! What a domain's XML says of its disks, its firmware and who its QEMU runs as.

use std::path::PathBuf;

use super::{Element, XmlError};

/// Where a disk's bytes are, as libvirt names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// A network disk: its protocol and name.
    Network {
        /// Such as `rbd`.
        protocol: String,
        /// The image's name there.
        name: String,
    },
    /// A volume of a storage pool.
    Volume {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
    },
    /// Nothing: an empty drive.
    Empty,
    /// What libvirt's backup jobs cannot read, by the name of its type.
    Other(String),
}

/// One disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDisk {
    /// Its name in the guest, such as `vda`.
    pub target: String,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// The format that libvirt opens it with, such as `qcow2`; `raw` where it says nothing.
    pub format: String,
    /// Where its bytes are.
    pub source: DiskSource,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
    /// Whether its writes are lost when the domain stops.
    pub is_transient: bool,
    /// Files below it, nearest first, where libvirt tells.
    pub backing: Vec<PathBuf>,
}

/// The user that a domain's QEMU runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecurityLabel {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What a domain's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDescription {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its disks, in the order written.
    pub disks: Vec<DomainDisk>,
    /// The machine type.
    pub machine: Option<String>,
    /// The CPU: its model, or how it is chosen.
    pub cpu: Option<String>,
    /// The file that keeps the firmware's variables.
    pub nvram: Option<PathBuf>,
    /// Whether it has an emulated TPM.
    pub has_tpm: bool,
    /// Whether it has a channel for the guest agent.
    pub has_agent: bool,
    /// UUIDs of the secrets that it uses.
    pub secrets: Vec<String>,
    /// The user that its QEMU runs as, where the domain runs and says so. With
    /// `security_default_confined = 0` it does not: see [`SecurityLabel::of_host`].
    pub label: Option<SecurityLabel>,
}

impl DomainDescription {
    /// Reads a domain's XML.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        Self::of(&Element::parse(xml, "domain")?)
    }

    /// Reads a domain's tree.
    pub fn of(root: &Element) -> Result<Self, XmlError> {
        let text = |path: &'static str| {
            let text = root.text_at(path).filter(|text| !text.is_empty());
            text.map(|text| text.into_owned())
        };
        let needed = |path| text(path).ok_or(XmlError::Missing { what: path });
        let devices = root.first("devices");
        let disks = devices.into_iter().flat_map(|devices| devices.all("disk"));
        let mut secrets = Vec::new();
        collect_secrets(root, &mut secrets);
        secrets.sort_unstable();
        secrets.dedup();
        Ok(Self {
            name: needed("name")?,
            uuid: needed("uuid")?,
            disks: disks.filter_map(disk).collect(),
            machine: root
                .at("os/type")
                .and_then(|kind| kind.get("machine"))
                .map(str::to_owned),
            cpu: cpu(root),
            nvram: text("os/nvram").map(PathBuf::from),
            has_tpm: devices.is_some_and(|devices| {
                let emulated = |tpm: &Element| {
                    tpm.first("backend").and_then(|b| b.get("type")) == Some("emulator")
                };
                devices.all("tpm").any(emulated)
            }),
            has_agent: devices.is_some_and(|devices| {
                let names = devices
                    .all("channel")
                    .filter_map(|channel| channel.first("target"));
                let mut names = names.filter_map(|target| target.get("name"));
                names.any(|name| name == "org.qemu.guest_agent.0")
            }),
            secrets,
            label: root.all("seclabel").find_map(label),
        })
    }

    /// Returns the disk of a target.
    pub fn disk(&self, target: &str) -> Option<&DomainDisk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

fn cpu(root: &Element) -> Option<String> {
    let cpu = root.first("cpu")?;
    let model = cpu.text_at("model").filter(|model| !model.is_empty());
    model
        .map(|model| model.into_owned())
        .or_else(|| cpu.get("mode").map(str::to_owned))
}

fn collect_secrets(element: &Element, found: &mut Vec<String>) {
    if element.name == "secret" {
        found.extend(element.get("uuid").map(str::to_owned));
    }
    for child in element.elements() {
        collect_secrets(child, found);
    }
}

impl SecurityLabel {
    /// Reads the user that a host runs its QEMU as where a domain names none of its own, from the
    /// host's capabilities.
    pub fn of_host(capabilities: &str) -> Result<Option<Self>, XmlError> {
        let root = Element::parse(capabilities, "capabilities")?;
        let host = root.first("host").into_iter();
        let mut models = host.flat_map(|host| host.all("secmodel"));
        let dac = models.find(|model| model.text_at("model").as_deref() == Some("dac"));
        let label = dac.and_then(|model| model.text_at("baselabel"));
        Ok(label.and_then(|label| Self::of(&label)))
    }

    /// Reads a label such as `+64055:+994` of the DAC model.
    fn of(text: &str) -> Option<Self> {
        let (user, group) = text.trim().split_once(':')?;
        let id = |text: &str| text.trim_start_matches('+').parse().ok();
        Some(Self {
            uid: id(user)?,
            gid: id(group)?,
        })
    }
}

fn label(label: &Element) -> Option<SecurityLabel> {
    let is_dac = label.get("model") == Some("dac");
    let text = label.text_at("label").filter(|_| is_dac)?;
    SecurityLabel::of(&text)
}

fn disk(disk: &Element) -> Option<DomainDisk> {
    let target = disk.first("target").and_then(|target| target.get("dev"))?;
    let format = disk.first("driver").and_then(|driver| driver.get("type"));
    let mut backing = Vec::new();
    let mut below = disk.first("backingStore");
    while let Some(store) = below {
        let source = store.first("source");
        let path = source.and_then(|source| source.get("file").or_else(|| source.get("dev")));
        backing.extend(path.map(PathBuf::from));
        below = store.first("backingStore");
    }
    Some(DomainDisk {
        target: target.to_owned(),
        device: disk.get("device").unwrap_or("disk").to_owned(),
        format: format.unwrap_or("raw").to_owned(),
        source: source(disk),
        is_read_only: disk.first("readonly").is_some(),
        is_transient: disk.first("transient").is_some(),
        backing,
    })
}

fn source(disk: &Element) -> DiskSource {
    let kind = disk.get("type").unwrap_or("file");
    let source = disk.first("source");
    let named = |name| source.and_then(|source| source.get(name));
    let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
    match (kind, source) {
        ("file", _) => {
            named("file").map_or(DiskSource::Empty, |path| DiskSource::File(path.into()))
        }
        ("block", _) => {
            named("dev").map_or(DiskSource::Empty, |path| DiskSource::Block(path.into()))
        }
        ("network", Some(_)) => DiskSource::Network {
            protocol: owned(named("protocol")),
            name: owned(named("name")),
        },
        ("volume", Some(_)) => DiskSource::Volume {
            pool: owned(named("pool")),
            volume: owned(named("volume")),
        },
        (_, None) => DiskSource::Empty,
        (other, Some(_)) => DiskSource::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='kvm'><name>web1</name><uuid>u</uuid>
      <os><type machine='pc-q35-10.0'>hvm</type><nvram template='t'>/n.fd</nvram></os>
      <cpu mode='custom'><model>EPYC</model></cpu>
      <devices>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a.qcow2'/>
          <backingStore type='file'><format type='qcow2'/><source file='/b.qcow2'/>
            <backingStore/></backingStore><target dev='vda'/></disk>
        <disk type='block' device='disk'><source dev='/dev/x'/><target dev='vdb'/></disk>
        <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
        <disk type='vhostuser' device='disk'><source type='unix'/><target dev='vdc'/></disk>
        <disk type='network'><source protocol='rbd' name='p/i'><auth><secret uuid='s'/></auth>
          </source><target dev='vdd'/><transient/></disk>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        <tpm model='tpm-crb'><backend type='emulator'/></tpm>
      </devices>
      <seclabel type='dynamic' model='dac'><label>+64055:+994</label></seclabel></domain>";

    #[test]
    fn a_domain_is_read() -> Result<(), XmlError> {
        let domain = DomainDescription::parse(XML)?;
        let targets: Vec<&str> = domain.disks.iter().map(|disk| &*disk.target).collect();
        assert_eq!(targets, ["vda", "vdb", "sda", "vdc", "vdd"]);
        assert_eq!(domain.disks[0].backing, [PathBuf::from("/b.qcow2")]);
        assert_eq!(domain.disks[1].source, DiskSource::Block("/dev/x".into()));
        assert_eq!(domain.disks[2].source, DiskSource::Empty);
        assert_eq!(
            domain.disks[3].source,
            DiskSource::Other("vhostuser".to_owned())
        );
        assert!(domain.disks[4].is_transient && domain.disks[2].is_read_only);
        assert_eq!(
            domain.label,
            Some(SecurityLabel {
                uid: 64055,
                gid: 994
            })
        );
        assert_eq!(domain.cpu.as_deref(), Some("EPYC"));
        assert_eq!(domain.nvram, Some("/n.fd".into()));
        assert_eq!(domain.secrets, ["s"]);
        assert!(domain.has_tpm && domain.has_agent);
        Ok(())
    }

    #[test]
    fn a_host_tells_whom_its_qemu_runs_as() -> Result<(), XmlError> {
        let of =
            |text: &str| SecurityLabel::of_host(&format!("<capabilities>{text}</capabilities>"));
        let host = "<host><secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel>\
            <model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+994</baselabel>\
            <baselabel type='qemu'>+64055:+994</baselabel></secmodel></host>";
        let (uid, gid) = (64055, 994);
        assert_eq!(of(host)?, Some(SecurityLabel { uid, gid }));
        assert_eq!(of("<host/>")?, None);
        assert_eq!(of("")?, None);
        assert_eq!(of(&host.replace("+64055:+994", "qemu"))?, None);
        Ok(())
    }
}
