//! What comes along into a throw-away domain, and what does not.

use super::*;
use crate::domain::instant::backing;
use crate::domain::rewrite::DiskFormat;

/// A domain with something of everything.
const RICH: &str = r#"
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <title>the shop</title>
  <metadata><app:x xmlns:app='http://a'>secret-note</app:x></metadata>
  <memory unit='KiB'>2097152</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <maxMemory slots='4' unit='KiB'>4194304</maxMemory>
  <memoryBacking><hugepages/><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu placement='static' cpuset='2-3' current='1'>4</vcpu>
  <iothreads>2</iothreads>
  <cputune><vcpupin vcpu='0' cpuset='2'/></cputune>
  <numatune><memory mode='strict' nodeset='1'/></numatune>
  <resource><partition>/machine/prod</partition></resource>
  <sysinfo type='smbios'><bios><entry name='vendor'>ACME</entry></bios></sysinfo>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-8.2'>hvm</type>
    <firmware><feature enabled='yes' name='secure-boot'/></firmware>
    <loader readonly='yes' secure='yes' type='pflash'>/fw/code.fd</loader>
    <nvram template='/fw/vars.fd'>/var/lib/libvirt/qemu/nvram/web1_VARS.fd</nvram>
    <kernel>/boot/vmlinuz</kernel>
    <initrd>/boot/gone</initrd>
    <cmdline>console=ttyS0 root=LABEL=r</cmdline>
    <boot dev='hd'/>
    <bootmenu enable='yes'/>
    <smbios mode='sysinfo'/>
  </os>
  <features>
    <acpi/><apic eoi='on'/><smm state='on'><tseg unit='MiB'>48</tseg></smm>
    <hyperv mode='custom'><relaxed state='on'/><spinlocks state='on' retries='8191'/></hyperv>
    <kvm><hidden state='on'/></kvm>
    <vmcoreinfo state='on'/>
  </features>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Skylake-Server</model>
    <topology sockets='1' dies='1' cores='2' threads='2'/>
    <feature policy='require' name='vmx'/>
    <numa><cell id='0' cpus='0-3' memory='2097152' unit='KiB' memAccess='shared'/></numa>
  </cpu>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/><timer name='hypervclock' present='yes'/>
  </clock>
  <on_reboot>restart</on_reboot>
  <pm><suspend-to-mem enabled='no'/></pm>
  <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>
  <launchSecurity type='sev'><policy>0x1</policy></launchSecurity>
  <devices>
    <emulator>/opt/evil/qemu</emulator>
    <disk type='block' device='lun' sgio='unfiltered' rawio='yes'>
      <driver name='qemu' type='raw' cache='none' io='native' iothread='1'/>
      <source dev='/dev/prod/web1' index='3'/>
      <backingStore type='file'><source file='/img/base.qcow2'/></backingStore>
      <blockio logical_block_size='4096'/>
      <target dev='sda' bus='scsi' rotation_rate='1'/>
      <iotune><total_iops_sec>100</total_iops_sec></iotune>
      <shareable/>
      <serial>ABC&lt;123</serial>
      <wwn>5000c500a1b2c3d4</wwn>
      <boot order='1'/>
      <alias name='scsi0-0-0-0'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/img/data.qcow2'/>
      <encryption format='luks'><secret type='passphrase' uuid='s'/></encryption>
      <target dev='vdb' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='file' device='cdrom'><source file='/img/iso'/><target dev='sdc' bus='sata'/></disk>
    <disk type='file' device='disk'><source file='/img/x'/><target dev='vdz' bus='virtio'/></disk>
    <controller type='scsi' index='0' model='virtio-scsi'>
      <driver queues='4' iothread='2'/>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
    </controller>
    <controller type='sata' index='0'/>
    <controller type='pci' index='1' model='pcie-root-port'>
      <target chassis='1' port='0x8'/></controller>
    <controller type='usb' index='0' model='ich9-ehci1'/>
    <controller type='virtio-serial' index='0'/>
    <controller type='ccid' index='0'/>
    <filesystem type='mount'><source dir='/srv/share'/><target dir='share'/></filesystem>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/>
      <source bridge='br0'/><virtualport type='openvswitch'/><target dev='vnet3'/>
      <model type='virtio'/><driver queues='4'/><boot order='2'/><filterref filter='clean'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='prod'/></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:03'/></interface>
    <serial type='tcp'>
      <source mode='connect' host='10.0.0.1' service='2445'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='/run/line'/><target port='1'/></serial>
    <console type='pty'><target type='virtio' port='1'/></console>
    <channel type='unix'>
      <source mode='bind' path='/var/agent.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <input type='evdev'><source dev='/dev/input/event1'/></input>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'>
      <encryption secret='u'/></backend></tpm>
    <graphics type='vnc' port='5901' listen='0.0.0.0' passwd='hunter2'/>
    <sound model='ich9'/>
    <audio id='1' type='spice'/>
    <video><model type='qxl' ram='65536'/></video>
    <hostdev mode='subsystem' type='pci' managed='yes'><source/></hostdev>
    <redirdev bus='usb' type='spicevmc'/>
    <shmem name='shared'><model type='ivshmem-plain'/></shmem>
    <rng model='virtio'><backend model='egd' type='tcp'><source host='h'/></backend></rng>
    <vsock model='virtio'><cid auto='no' address='7'/></vsock>
    <panic model='isa'><address type='isa' iobase='0x505'/></panic>
    <memballoon model='virtio'/>
    <watchdog model='itco' action='reset'/>
    <memory model='nvdimm'><source><path>/dev/pmem0</path></source></memory>
    <crypto model='virtio' type='qemu'/>
  </devices>
  <qemu:commandline><qemu:arg value='-fsdev'/></qemu:commandline>
  <from-the-future/>
</domain>"#;

fn there(path: &Path) -> bool {
    ["/fw/code.fd", "/fw/vars.fd", "/boot/vmlinuz"].contains(&&*path.to_string_lossy())
}

fn gone(_: &Path) -> bool {
    false
}

fn allow(accel: Accel, targets: &[&str]) -> Allow<'static> {
    let disk = |target: &&str| {
        let new = NewDisk {
            path: PathBuf::from(format!("/p/{target}.qcow2")),
            format: DiskFormat::Qcow2,
            backing: Some(backing("/p/nbd.sock", target)),
        };
        ((*target).to_owned(), new)
    };
    Allow {
        name: "cairn-prove-01234567".to_owned(),
        uuid: "99999999-2222-4333-8444-555555555555".to_owned(),
        accel,
        memory: None,
        disks: targets.iter().map(disk).collect(),
        nvram: PathBuf::from("/p/nvram.fd"),
        has_nvram_state: true,
        has_tpm_state: true,
        console: PathBuf::from("/p/console.log"),
        wants_screen: false,
        exists: &there,
    }
}

fn rich(how: &Allow<'_>) -> Result<ThrowAway, RewriteError> {
    how.apply(&Element::parse(RICH, "domain")?)
}

/// Every element that may be in a throw-away domain, by its path below the root.
const ALLOWED: &[&str] = &[
    "name",
    "uuid",
    "memory",
    "vcpu",
    "os",
    "os/type",
    "os/loader",
    "os/nvram",
    "os/firmware",
    "os/firmware/feature",
    "os/kernel",
    "os/cmdline",
    "os/boot",
    "features",
    "features/acpi",
    "features/apic",
    "features/smm",
    "features/hyperv",
    "features/hyperv/relaxed",
    "features/hyperv/spinlocks",
    "features/kvm",
    "features/kvm/hidden",
    "cpu",
    "cpu/model",
    "cpu/topology",
    "cpu/feature",
    "clock",
    "clock/timer",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "devices",
    "devices/disk",
    "devices/disk/driver",
    "devices/disk/source",
    "devices/disk/backingStore",
    "devices/disk/backingStore/format",
    "devices/disk/backingStore/source",
    "devices/disk/backingStore/source/host",
    "devices/disk/backingStore/source/reconnect",
    "devices/disk/backingStore/backingStore",
    "devices/disk/target",
    "devices/disk/blockio",
    "devices/disk/serial",
    "devices/disk/wwn",
    "devices/disk/boot",
    "devices/disk/address",
    "devices/controller",
    "devices/interface",
    "devices/interface/mac",
    "devices/interface/model",
    "devices/interface/link",
    "devices/serial",
    "devices/serial/source",
    "devices/serial/target",
    "devices/channel",
    "devices/channel/target",
    "devices/memballoon",
    "devices/video",
    "devices/video/model",
    "devices/tpm",
    "devices/tpm/backend",
    "devices/panic",
];

fn paths(of: &Element, above: &str, found: &mut Vec<String>) {
    for child in of.elements() {
        let path = match above {
            "" => child.name.clone(),
            above => format!("{above}/{}", child.name),
        };
        paths(child, &path, found);
        found.push(path);
    }
}

#[test]
fn nothing_that_is_not_allowed_comes_along() -> Result<(), RewriteError> {
    for accel in [Accel::Kvm, Accel::Tcg] {
        let made = rich(&allow(accel, &["sda", "vdb"]))?;
        let mut found = Vec::new();
        paths(&made.xml, "", &mut found);
        for path in found {
            assert!(ALLOWED.contains(&&*path), "{path}");
        }
        let text = made.xml.to_string();
        // What reaches the host, its networks, or the original.
        for word in [
            "web1",
            "11111111",
            "/dev/",
            "/img/",
            "/srv/",
            "/var/",
            "/opt/",
            "/run/",
            "br0",
            "prod",
            "vnet3",
            "10.0.0.1",
            "hunter2",
            "secret",
            "iothread",
            "cpuset",
            "shared",
            "type='pci'",
            "qemu:",
            "seclabel",
            "xmlns",
            "persistent_state",
            "rawio",
            "luks",
            "future",
        ] {
            assert!(!text.replace("secure", "").contains(word), "{word}: {text}");
        }
        assert!(!text.contains("/boot/gone"));
    }
    Ok(())
}

#[test]
fn what_does_not_come_along_is_named() -> Result<(), RewriteError> {
    let dropped = rich(&allow(Accel::Tcg, &["sda", "vdb"]))?.dropped;
    for words in [
        "setting `cputune`",
        "setting `numatune`",
        "setting `memoryBacking`",
        "setting `seclabel`",
        "setting `launchSecurity`",
        "setting `qemu:commandline`",
        "setting `from-the-future`",
        "os setting `smbios`",
        "initrd /boot/gone: it is not on this host",
        "feature `hyperv`",
        "feature `vmcoreinfo`",
        "CPU setting `numa`",
        "emulator /opt/evil/qemu: libvirt chooses one",
        "disk sda: SCSI commands to the host's device",
        "disk sda: `iotune`",
        "disk vdb: `encryption`",
        "cdrom sdc: it is not in the snapshot",
        "disk vdz: it is not in the snapshot",
        "controller usb",
        "controller sata",
        "controller ccid",
        "link of the network interface 52:54:00:00:00:01 (bridge)",
        "link of the network interface 52:54:00:00:00:02 (network)",
        "network interface 52:54:00:00:00:03 (hostdev)",
        "device `serial` (unix)",
        "device `console` (pty)",
        "device `channel` (com.redhat.spice.0)",
        "device `filesystem` (mount)",
        "device `graphics` (vnc)",
        "device `sound` (ich9)",
        "device `hostdev` (pci)",
        "device `redirdev` (spicevmc)",
        "device `shmem` (ivshmem-plain)",
        "device `vsock` (virtio)",
        "device `memory` (nvdimm)",
        "device `watchdog` (itco)",
        "device `input` (evdev)",
    ] {
        assert!(
            dropped.iter().any(|line| line == words),
            "{words}: {dropped:#?}"
        );
    }
    Ok(())
}

#[test]
fn what_a_guest_needs_comes_along() -> Result<(), RewriteError> {
    let made = rich(&allow(Accel::Kvm, &["sda", "vdb"]))?;
    let text = made.xml.to_string();
    for part in [
        "<domain type='kvm'>",
        "<name>cairn-prove-01234567</name>",
        "<uuid>99999999-2222-4333-8444-555555555555</uuid>",
        "<memory unit='KiB'>2097152</memory>",
        "<vcpu>4</vcpu>",
        "<os firmware='efi'>",
        "<type arch='x86_64' machine='pc-q35-8.2'>hvm</type>",
        "<loader readonly='yes' secure='yes' type='pflash'>/fw/code.fd</loader>",
        "<nvram template='/fw/vars.fd'>/p/nvram.fd</nvram>",
        "<kernel>/boot/vmlinuz</kernel>",
        "<cmdline>console=ttyS0 root=LABEL=r</cmdline>",
        "<hyperv mode='custom'><relaxed state='on'/>\
         <spinlocks state='on' retries='8191'/></hyperv>",
        "<cpu mode='custom' match='exact' check='full'>",
        "<model fallback='forbid'>Skylake-Server</model>",
        "<timer name='hypervclock' present='yes'/>",
        "<on_crash>destroy</on_crash>",
        "<source file='/p/sda.qcow2'/><backingStore type='network'>",
        "<host transport='unix' socket='/p/nbd.sock'/>",
        "<blockio logical_block_size='4096'/>",
        "<target dev='sda' bus='scsi' rotation_rate='1'/>",
        "<serial>ABC&lt;123</serial>",
        "<boot order='1'/>",
        "<address type='drive' controller='0' bus='0' target='0' unit='0'/>",
        "<controller type='scsi' index='0' model='virtio-scsi'/>",
        "<controller type='usb' index='0' model='none'/>",
        "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/>\
         <link state='down'/></interface>",
        "<serial type='file'><source path='/p/console.log' append='on'/>",
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        "<video><model type='vga'/></video>",
        "<panic model='isa'/>",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("<interface").count(), 2);
    assert_eq!(text.matches("<disk").count(), 2);
    assert_eq!(text.matches("<link state='down'/>").count(), 2);
    assert_eq!(Element::parse(&text, "domain")?, made.xml);
    Ok(())
}

#[test]
fn without_kvm_the_processor_is_what_qemu_can_be() -> Result<(), RewriteError> {
    let made = rich(&Allow {
        memory: Some(1 << 30),
        ..allow(Accel::Tcg, &["sda", "vdb"])
    })?;
    let text = made.xml.to_string();
    assert!(text.starts_with("<domain type='qemu'>"), "{text}");
    assert!(
        text.contains("<memory unit='b'>1073741824</memory>"),
        "{text}"
    );
    assert!(
        text.contains("<cpu mode='maximum'><topology sockets='1'"),
        "{text}"
    );
    assert!(text.contains("<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>"));
    for word in ["Skylake", "hyperv", "<kvm", "vmx"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    Ok(())
}

#[test]
fn firmware_that_is_not_here_is_left_to_libvirt() -> Result<(), RewriteError> {
    let made = rich(&Allow {
        exists: &gone,
        has_nvram_state: false,
        ..allow(Accel::Kvm, &["sda", "vdb"])
    })?;
    let os = made
        .xml
        .first("os")
        .map(Element::to_string)
        .unwrap_or_default();
    assert!(
        os.contains("<os firmware='efi'>") && os.contains("<loader secure='yes'/>"),
        "{os}"
    );
    assert!(
        os.contains("<nvram>/p/nvram.fd</nvram>") && !os.contains("kernel"),
        "{os}"
    );
    let said = |words: &str| made.dropped.iter().any(|line| line.contains(words));
    assert!(said("firmware /fw/code.fd") && said("variables of the firmware"));

    // A BIOS has no variables.
    let bios = "<domain><memory>1</memory><os><type>hvm</type></os><devices/></domain>";
    let made = allow(Accel::Tcg, &[]).apply(&Element::parse(bios, "domain")?)?;
    assert!(made.xml.at("os/nvram").is_none());
    assert!(made.xml.at("devices/video").is_none() && made.dropped.is_empty());
    Ok(())
}

#[test]
fn a_screen_is_added_where_it_is_wanted_and_a_usb_disk_has_its_bus() -> Result<(), RewriteError> {
    let text = "<domain><memory>1</memory><os><type arch='aarch64'>hvm</type></os><devices>\
        <disk device='disk'><target dev='sda' bus='usb'/></disk></devices></domain>";
    let made = Allow {
        wants_screen: true,
        ..allow(Accel::Tcg, &["sda"])
    }
    .apply(&Element::parse(text, "domain")?)?;
    let text = made.xml.to_string();
    assert!(
        text.contains("<video><model type='virtio'/></video>"),
        "{text}"
    );
    assert!(
        text.contains("<controller type='usb' index='0' model='qemu-xhci'/>"),
        "{text}"
    );
    Ok(())
}

#[test]
fn what_is_no_machine_of_the_snapshot_is_refused() {
    let apply = |text: &str, targets: &[&str]| {
        let domain = Element::parse(text, "domain")?;
        allow(Accel::Tcg, targets).apply(&domain)
    };
    let container =
        "<domain type='lxc'><memory>1</memory><os><type>exe</type></os><devices/></domain>";
    assert!(matches!(
        apply(container, &[]),
        Err(RewriteError::Kind { .. })
    ));
    let machine = "<domain><memory>1</memory><os><type>hvm</type></os><devices/></domain>";
    assert!(matches!(
        apply(machine, &["vda"]),
        Err(RewriteError::NoDisk { .. })
    ));
    for text in ["<domain/>", "<domain><devices/></domain>"] {
        assert!(
            matches!(apply(text, &[]), Err(RewriteError::Xml(_))),
            "{text}"
        );
    }
}

#[test]
fn a_hostile_domain_makes_a_short_list() -> Result<(), RewriteError> {
    let many: String = (0..5000).map(|n| format!("<dev{n} type='x'/>")).collect();
    let text = format!(
        "<domain><memory>1</memory><vcpu>x</vcpu><os><type>hvm</type></os>\
         <devices>{many}</devices></domain>"
    );
    let made = allow(Accel::Tcg, &[]).apply(&Element::parse(&text, "domain")?)?;
    assert_eq!(made.dropped.len(), DROPPED_MAX + 1);
    assert_eq!(
        made.dropped.last().map(String::as_str),
        Some("and 4800 more")
    );
    assert_eq!(made.xml.text_at("vcpu").as_deref(), Some("1"));
    Ok(())
}
