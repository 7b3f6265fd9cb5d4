use std::error::Error;

use super::*;

type Result = std::result::Result<(), Box<dyn Error>>;

const XML: &str =
    "<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name><uuid>11111111-2222-4333-8444-555555555555</uuid>
  <genid>aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee</genid>
  <metadata><app:x xmlns:app='http://x'><alias name='theirs'/></app:x></metadata>
  <memory unit='KiB'>524288</memory><currentMemory unit='KiB'>262144</currentMemory>
  <vcpu placement='static' cpuset='0-3'>2</vcpu>
  <cputune><shares>512</shares><vcpupin vcpu='0' cpuset='1'/></cputune>
  <numatune><memory mode='strict' nodeset='0'/></numatune>
  <resource><partition>/machine</partition></resource>
  <sysinfo type='smbios'><system>
    <entry name='uuid'>11111111-2222-4333-8444-555555555555</entry></system></sysinfo>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type><loader type='pflash'>/c.fd</loader>
    <nvram template='/t.fd'>/old/web1_VARS.fd</nvram></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='lun' rawio='yes'><driver name='qemu' type='raw' cache='none'/>
      <source dev='/dev/x' startupPolicy='optional' index='2'/><backingStore/>
      <target dev='vda' bus='virtio'/><serial>S1</serial><boot order='1'/>
      <alias name='virtio-disk0'/><address type='pci' bus='0x04' slot='0x00' function='0x0'/></disk>
    <disk type='network' device='disk'><driver name='qemu' type='raw'/>
      <source protocol='rbd' name='p/i'/><auth username='u'><secret type='ceph' uuid='s'/></auth>
      <target dev='vdb' bus='virtio'/><readonly/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/foreign'/>
      <target dev='vdc' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/a.iso'/>
      <target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/>
      <source network='default' portid='p' bridge='virbr0'/><target dev='vnet3'/>
      <model type='virtio'/><alias name='net0'/><teaming type='persistent'/></interface>
    <interface type='vhostuser'><mac address='52:54:00:00:00:02'/>
      <address type='pci' bus='0x05' slot='0x00' function='0x0' multifunction='on'/></interface>
    <sound model='ich9'><address type='pci' bus='0x05' slot='0x00' function='0x1'/></sound>
    <serial type='unix'><source mode='bind' path='/s.sock'/><target port='0'/></serial>
    <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/></console>
    <channel type='unix'><source mode='bind' path='/run/org.qemu'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
      <alias name='ua-agent'/></channel>
    <graphics type='vnc' port='5901' autoport='no' listen='127.0.0.1'/>
    <graphics type='spice' port='5902' autoport='yes'/>
    <hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>
    <redirdev bus='usb' type='spicevmc'/><shmem name='s'/>
    <filesystem type='mount'><source dir='/srv'/><target dir='share'/></filesystem>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'><source type='dir' path='/t'/>
      </backend></tpm>
    <vsock><cid auto='no' address='3'/></vsock>
  </devices>
  <seclabel type='dynamic' model='dac'><label>+1:+1</label><imagelabel>+1:+1</imagelabel></seclabel>
  <seclabel type='static' model='apparmor'><label>mine</label></seclabel>
  <qemu:commandline><qemu:arg value='-v'/></qemu:commandline></domain>";

fn how() -> Rewrite {
    let disk = |path: &str, format| NewDisk {
        path: path.into(),
        format,
        backing: None,
    };
    let disks = [
        (
            "vda".to_owned(),
            disk("/new/vda & co.qcow2", DiskFormat::Qcow2),
        ),
        ("vdb".to_owned(), disk("/new/vdb.raw", DiskFormat::Raw)),
    ];
    Rewrite {
        name: "web2".to_owned(),
        disks: disks.into(),
        ..Rewrite::default()
    }
}

fn domain() -> Element {
    Element::parse(XML, "domain").expect("the sample is well formed")
}

fn device<'e>(root: &'e Element, name: &str, index: usize) -> Option<&'e Element> {
    root.first("devices")?
        .elements()
        .filter(|of| of.name == name)
        .nth(index)
}

#[test]
fn what_the_guest_sees_stays_and_what_belongs_to_the_host_goes() -> Result {
    let done = how().apply(&domain())?;
    let xml = Element::parse(&done.xml.to_string(), "domain")?;
    assert_eq!(xml.to_string(), done.xml.to_string());
    assert_eq!(xml.text_at("name").as_deref(), Some("web2"));
    assert_eq!(done.uuid, "11111111-2222-4333-8444-555555555555");
    assert_eq!(xml.text_at("uuid").as_deref(), Some(&*done.uuid));
    assert_ne!(xml.text_at("genid"), domain().text_at("genid"));
    assert_eq!(xml.text_at("currentMemory").as_deref(), Some("262144"));
    assert_eq!(xml.text_at("cputune/shares").as_deref(), Some("512"));
    assert!(xml.at("metadata/app:x/alias").is_some() && xml.first("qemu:commandline").is_some());
    let text = xml.to_string();
    for gone in [
        " id='7'",
        "cpuset",
        "numatune",
        "partition",
        "imagelabel",
        "vnet3",
        "portid",
        "pts",
        "shmem",
        "redirdev",
        "hostdev",
        "/srv",
        "/s.sock",
        "org.qemu'",
        "state=",
        "5902",
        "/old/",
        "vhostuser",
        "startupPolicy",
        "backingStore",
        "teaming",
        "virtio-disk0",
        "ceph",
        "rawio",
        "'lun'",
    ] {
        assert!(!text.contains(gone), "{gone} is still in {text}");
    }
    for kept in [
        "ua-agent",
        "5901",
        "52:54:00:00:00:01",
        "template='/t.fd'",
        ">mine<",
    ] {
        assert!(text.contains(kept), "{kept} is not in {text}");
    }
    Ok(())
}

#[test]
fn disks_get_their_files_and_keep_the_rest() -> Result {
    let done = how().apply(&domain())?;
    let vda = device(&done.xml, "disk", 0).ok_or("no vda")?;
    let expected = "<disk type='file' device='disk'>\
        <driver name='qemu' type='qcow2' cache='none'/><source file='/new/vda &amp; co.qcow2'/>\
        <target dev='vda' bus='virtio'/><serial>S1</serial><boot order='1'/>\
        <address type='pci' bus='0x04' slot='0x00' function='0x0'/></disk>";
    let text: Vec<String> = vda
        .to_string()
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    assert_eq!(text.concat(), expected);
    let vdb = device(&done.xml, "disk", 1).ok_or("no vdb")?;
    assert!(vdb.first("readonly").is_some() && vdb.first("auth").is_none());
    let drive = device(&done.xml, "disk", 2).ok_or("no drive")?;
    assert_eq!(disks::target(drive), Some("sda"));
    assert!(drive.first("source").is_none() && device(&done.xml, "disk", 3).is_none());
    let said = done.dropped.join("\n");
    for words in [
        "disk vdc",
        "medium in the drive sda",
        "SCSI",
        "firmware",
        "TPM",
        "(vhostuser)",
    ] {
        assert!(said.contains(words), "{words} is not said in {said}");
    }
    let mut backed = how();
    let store = Element::new("backingStore").attribute("type", "file");
    backed.disks.get_mut("vda").ok_or("no vda")?.backing = Some(store);
    let done = backed.apply(&domain())?;
    let vda = device(&done.xml, "disk", 0).ok_or("no vda")?;
    assert_eq!(
        vda.first("backingStore").and_then(|of| of.get("type")),
        Some("file")
    );
    Ok(())
}

#[test]
fn a_slot_without_its_first_function_is_given_up() -> Result {
    let done = how().apply(&domain())?;
    let sound = device(&done.xml, "sound", 0).ok_or("no sound")?;
    assert!(sound.first("address").is_none());
    Ok(())
}

#[test]
fn new_ids_differ_everywhere_and_take_no_place_of_the_original() -> Result {
    let new = Rewrite {
        new_ids: true,
        ..how()
    };
    let (one, two) = (new.apply(&domain())?, new.apply(&domain())?);
    assert_ne!(one.uuid, two.uuid);
    assert_eq!((one.uuid.len(), one.uuid.as_bytes()[14]), (36, b'4'));
    let text = one.xml.to_string();
    assert!(
        !text.contains("11111111") && !text.contains("5901"),
        "{text}"
    );
    assert!(
        text.contains(&format!("<entry name='uuid'>{}<", one.uuid)),
        "{text}"
    );
    let mac = |of: &Rewritten| {
        let mac = device(&of.xml, "interface", 0)?
            .first("mac")?
            .get("address")?;
        Some(mac.to_owned())
    };
    assert!(mac(&one).is_some_and(|mac| mac.starts_with("52:54:00:") && mac.len() == 17));
    assert_ne!(mac(&one), mac(&two));
    let cid = device(&one.xml, "vsock", 0)
        .and_then(|of| of.first("cid"))
        .ok_or("no cid")?;
    assert_eq!((cid.get("auto"), cid.get("address")), (Some("yes"), None));
    Ok(())
}

#[test]
fn networks_are_cut_off_where_wanted() -> Result {
    let no_nic = Rewrite {
        no_nic: true,
        ..how()
    }
    .apply(&domain())?;
    assert!(device(&no_nic.xml, "interface", 0).is_none());
    let no_ip = Rewrite {
        no_ip: true,
        ..how()
    }
    .apply(&domain())?;
    let link = device(&no_ip.xml, "interface", 0).and_then(|of| of.first("link"));
    assert_eq!(link.and_then(|link| link.get("state")), Some("down"));
    Ok(())
}

#[test]
fn what_the_snapshot_does_not_hold_stays_where_wanted() -> Result {
    let all = Rewrite {
        keep_foreign_disks: true,
        ..how()
    }
    .apply(&domain())?;
    let text = all.xml.to_string();
    for kept in ["/foreign", "/a.iso", "/srv"] {
        assert!(text.contains(kept), "{kept}");
    }
    let firmware = Rewrite {
        nvram: Some("/n.fd".into()),
        has_tpm_state: true,
        drop_emulator: true,
        ..how()
    };
    let done = firmware.apply(&domain())?;
    assert_eq!(done.xml.text_at("os/nvram").as_deref(), Some("/n.fd"));
    let said = done.dropped.join("\n");
    assert!(!said.contains("TPM") && !said.contains("firmware") && said.contains("emulator"));
    assert!(done.xml.at("devices/emulator").is_none());
    Ok(())
}

#[test]
fn lines_of_the_host_become_ptys() -> Result {
    let line = |kind: &str, how: &Rewrite| {
        let device =
            format!("<serial type='{kind}'><source path='/p'/><target port='0'/></serial>");
        let xml = format!("<domain><uuid>u</uuid><devices>{device}</devices></domain>");
        let no_disks = Rewrite {
            disks: BTreeMap::new(),
            ..how.clone()
        };
        let done = no_disks.apply(&Element::parse(&xml, "domain")?)?;
        let kind = device_kind(&done.xml).ok_or("no line")?;
        Ok::<_, Box<dyn Error>>((kind, done.dropped.len()))
    };
    let lost = Rewrite {
        drop_line_files: true,
        ..how()
    };
    let new = Rewrite {
        new_ids: true,
        ..how()
    };
    let said = |kind: &str, count| (kind.to_owned(), count);
    assert_eq!(line("file", &how())?, said("file", 0));
    assert_eq!(line("file", &lost)?, said("pty", 1));
    assert_eq!(line("file", &new)?, said("pty", 1));
    assert_eq!(line("dev", &how())?, said("pty", 1));
    assert_eq!(line("tcp", &how())?, said("tcp", 0));
    assert_eq!(line("pty", &how())?, said("pty", 0));
    Ok(())
}

fn device_kind(root: &Element) -> Option<String> {
    device(root, "serial", 0)?.get("type").map(str::to_owned)
}

#[test]
fn hostile_xml_gives_an_error_or_a_domain() -> Result {
    let apply = |xml: &str| {
        let root = Element::parse(xml, "domain")?;
        let no_disks = Rewrite {
            disks: BTreeMap::new(),
            new_ids: true,
            ..how()
        };
        no_disks.apply(&root)
    };
    for bad in [
        "<domain/>",
        "<domain><devices></domain>",
        "<x/>",
        "<domain><name/></domain>",
    ] {
        assert!(apply(bad).is_err(), "{bad}");
    }
    // Elements without what they always have, and more of them than there should be.
    let names = [
        "disk",
        "interface",
        "serial",
        "console",
        "channel",
        "graphics",
        "tpm",
        "vsock",
        "hostdev",
        "filesystem",
        "memory",
        "smartcard",
        "input",
        "emulator",
        "source",
        "address",
    ];
    for name in names {
        let device = format!("<{name}/><{name}>x<source/><target/><backend/><cid/>\u{e9}</{name}>");
        let xml =
            format!("<domain><uuid/><uuid/><os><nvram/></os><devices>{device}</devices></domain>");
        let done = apply(&xml)?;
        assert_eq!(done.uuid.len(), 36);
        assert!(
            done.dropped.iter().all(|words| !words.contains('\u{1b}')),
            "{name}"
        );
    }
    let absent = how().apply(&Element::parse("<domain><devices/></domain>", "domain")?);
    assert!(matches!(absent, Err(RewriteError::NoDisk { .. })));
    for name in ["", "a/b", "a\nb"] {
        let named = Rewrite {
            name: name.to_owned(),
            ..how()
        };
        assert!(
            matches!(named.apply(&domain()), Err(RewriteError::Name(_))),
            "{name}"
        );
    }
    let mut odd = how();
    odd.disks.get_mut("vda").ok_or("no vda")?.path = "/a\nb".into();
    assert!(matches!(
        odd.apply(&domain()),
        Err(RewriteError::Path { .. })
    ));
    Ok(())
}
