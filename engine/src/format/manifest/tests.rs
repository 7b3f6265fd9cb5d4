use super::*;
use crate::format::domain::{Consistency, LeftOut, Method};

fn disk(target: &str) -> DiskRecord {
    DiskRecord {
        target: target.to_owned(),
        size: 1 << 30,
        recipe: NodeId::from_bytes([3; 32]),
        data_bytes: 4096,
        chunks: 2,
        mode: DiskMode::Incremental,
        source: SourceRecord {
            kind: "qcow2".to_owned(),
            location: "/var/lib/vm.qcow2".to_owned(),
            bitmap: Some("daily".to_owned()),
            unknown: Unknown::new(),
        },
        read_bytes: 65_536,
        dirty_bytes: 4096,
        reused_bytes: 0,
        new_chunks: 2,
        new_bytes: 4096,
        stored_bytes: 1024,
        identity: None,
        doubt: None,
        torn: None,
        unknown: Unknown::new(),
    }
}

fn manifest() -> Manifest {
    let text = |text: &str| text.to_owned();
    Manifest {
        version: MANIFEST_VERSION,
        vm: text("web"),
        time: Timestamp::from_second(1_795_000_000).expect("in range"),
        ordinal: 7,
        parent: Some(SnapshotId::from_bytes([4; 32])),
        host: text("host-1"),
        program: text("cairn 0.1.0"),
        tags: BTreeMap::from([(text("kind"), text("daily"))]),
        disks: vec![disk("vda"), disk("vdb")],
        metadata: BTreeMap::from([(text("domain"), text("<domain/>"))]),
        files: Vec::new(),
        domain: None,
        unknown: Unknown::new(),
    }
}

#[test]
fn manifests_round_trip_with_unknown_members() -> Result<(), FormatError> {
    let mut manifest = manifest();
    manifest.unknown.insert("site".to_owned(), 7.into());
    // A number of which a quick reader gets the last bit wrong.
    let far = 1.844_674_407_037_095_4e20;
    manifest.unknown.insert("far".to_owned(), far.into());
    manifest.disks[0]
        .unknown
        .insert("serial".to_owned(), "X".into());
    manifest.disks[1]
        .source
        .unknown
        .insert("tls".to_owned(), true.into());
    assert_eq!(Manifest::decode(&manifest.encode()?)?, manifest);
    Ok(())
}

fn file(name: &str) -> FileRecord {
    FileRecord {
        name: name.to_owned(),
        size: 540_672,
        recipe: NodeId::from_bytes([5; 32]),
        data_bytes: 16_384,
        chunks: 1,
        unknown: Unknown::new(),
    }
}

fn domain() -> DomainRecord {
    let text = |text: &str| text.to_owned();
    DomainRecord {
        uuid: text("4dea22b3-1d52-d8f3-2516-782e98ab3fa0"),
        hypervisor: text("qemu+ssh://host-1/system"),
        checkpoint: Some(text("cairn-1")),
        checkpoint_time: Some(1_795_000_000),
        method: Method::Pull,
        consistency: Consistency::Agent,
        machine: Some(text("pc-q35-9.2")),
        cpu: None,
        left_out: vec![LeftOut {
            target: text("sda"),
            reason: text("a CD-ROM"),
            unknown: Unknown::new(),
        }],
        not_saved: vec![text("the state of its TPM")],
        unknown: Unknown::new(),
    }
}

#[test]
fn domains_and_files_round_trip_with_unknown_members() -> Result<(), FormatError> {
    let mut manifest = manifest();
    manifest.files = vec![file("nvram"), file("tpm2-00.permall")];
    manifest.files[1]
        .unknown
        .insert("mode".to_owned(), 384.into());
    manifest.domain = Some(domain());
    manifest.disks[0].doubt = Some("the checkpoint is gone".to_owned());
    manifest.disks[0].torn = Some("/vm.raw was written to".to_owned());
    manifest.disks[1].identity = Some(DiskIdentity {
        path: "/var/lib/vm.qcow2".to_owned(),
        format: "qcow2".to_owned(),
        device: Some(u64::MAX),
        inode: None,
        bitmap: Some("cairn-1".to_owned()),
        unknown: Unknown::from_iter([("birth".to_owned(), 9.into())]),
    });
    for method in [Method::Pull, Method::Snapshot, Method::Offline] {
        for consistency in [
            Consistency::Crash,
            Consistency::Agent,
            Consistency::Suspend,
            Consistency::Offline,
            Consistency::Memory,
        ] {
            let mut domain = domain();
            domain.unknown.insert("title".to_owned(), "Web".into());
            domain.left_out[0]
                .unknown
                .insert("kind".to_owned(), "cdrom".into());
            (domain.method, domain.consistency) = (method, consistency);
            manifest.domain = Some(domain);
            assert_eq!(Manifest::decode(&manifest.encode()?)?, manifest);
        }
    }
    let names: Vec<_> = manifest.recipes().map(|recipe| recipe.name).collect();
    assert_eq!(names, ["vda", "vdb", "nvram", "tpm2-00.permall"]);
    Ok(())
}

#[test]
fn what_is_not_there_takes_no_members() -> Result<(), FormatError> {
    let text = String::from_utf8(manifest().encode()?).expect("JSON is text");
    for member in [
        "files",
        "\"domain\":{",
        "identity",
        "doubt",
        "torn",
        "null,\"unknown",
    ] {
        assert!(!text.contains(member), "{member}");
    }
    Ok(())
}

#[test]
fn a_word_of_a_newer_cairn_is_named() -> Result<(), FormatError> {
    let mut manifest = manifest();
    manifest.domain = Some(domain());
    let text = String::from_utf8(manifest.encode()?).expect("JSON is text");
    for (old, new, feature) in [
        ("\"pull\"", "\"mirror\"", "domain method mirror"),
        (
            "\"agent\"",
            "\"app\\u006cication\"",
            "domain consistency application",
        ),
    ] {
        let refused = Manifest::decode(text.replace(old, new).as_bytes());
        let feature = feature.to_owned();
        assert_eq!(refused, Err(FormatError::UnsupportedFeature { feature }));
    }
    let damaged = Manifest::decode(text.replace("\"pull\"", "7").as_bytes());
    assert!(matches!(damaged, Err(FormatError::BadDocument { .. })));
    Ok(())
}

#[test]
fn large_numbers_survive() -> Result<(), FormatError> {
    let mut manifest = manifest();
    manifest.disks[0].read_bytes = u64::MAX;
    manifest.disks[0].size = DISK_LEN_MAX;
    assert_eq!(Manifest::decode(&manifest.encode()?)?, manifest);
    Ok(())
}

#[test]
fn manifests_that_break_a_rule_are_refused() {
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        let decoded = Manifest::decode(&json::encode(&manifest));
        manifest.encode().is_err() && decoded.is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|manifest| manifest.version = 2));
    assert!(refused(|manifest| manifest.vm.clear()));
    assert!(refused(
        |manifest| manifest.disks[1].target = "vda".to_owned()
    ));
    assert!(refused(
        |manifest| manifest.disks[1].target = "a:b".to_owned()
    ));
    assert!(refused(|manifest| manifest.disks[0].size = DISK_LEN_MAX + 1));
    assert!(refused(
        |manifest| manifest.disks[0].data_bytes = (1 << 30) + 1
    ));
    assert!(refused(|manifest| manifest.disks[0].chunks = 4097));
    assert!(!refused(|manifest| manifest.files = vec![file("vda")]));
    assert!(refused(
        |manifest| manifest.files = vec![file("a"), file("a")]
    ));
    for name in ["", ".", "..", "a/b", "a b", "nvr\u{e4}m"] {
        let mut manifest = manifest();
        manifest.files = vec![file(name)];
        assert!(manifest.encode().is_err(), "{name}");
    }
    assert!(refused(|manifest| {
        manifest.files = vec![FileRecord {
            data_bytes: 540_673,
            ..file("nvram")
        }];
    }));
    assert!(refused(|manifest| {
        manifest.domain = Some(DomainRecord {
            hypervisor: "qemu+ssh://root:secret@host-1/system".to_owned(),
            ..domain()
        });
    }));
    assert!(!refused(|manifest| {
        manifest.domain = Some(DomainRecord {
            hypervisor: "qemu+ssh://host-1/system?keyfile=/a@b".to_owned(),
            ..domain()
        });
    }));
}

#[test]
fn names_are_fit_for_files_and_command_lines() {
    for name in ["web", "web-01.example", "Käse 7", "a", &"n".repeat(255)] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    let long = "n".repeat(256);
    for name in [
        "", ".", "..", "a/b", "a@b", "a:b", "a\0b", "a\nb", "a\u{85}b", &long,
    ] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let deep = format!("{}1{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let refused = Manifest::decode(format!(r#"{{"version":1,"x":{deep}}}"#).as_bytes());
    assert!(matches!(refused, Err(FormatError::BadDocument { .. })));
}
