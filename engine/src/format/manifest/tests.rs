use super::*;

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
        unknown: Unknown::new(),
    }
}

fn manifest() -> Manifest {
    let text = |text: &str| text.to_owned();
    Manifest {
        version: MANIFEST_VERSION,
        vm: text("web"),
        time: Timestamp::from_second(1_795_000_000).expect("in range"),
        parent: Some(SnapshotId::from_bytes([4; 32])),
        host: text("host-1"),
        program: text("cairn 0.1.0"),
        tags: BTreeMap::from([(text("kind"), text("daily"))]),
        disks: vec![disk("vda"), disk("vdb")],
        metadata: BTreeMap::from([(text("domain"), text("<domain/>"))]),
        unknown: Unknown::new(),
    }
}

#[test]
fn manifests_round_trip_with_unknown_members() -> Result<(), FormatError> {
    let mut manifest = manifest();
    manifest.unknown.insert("site".to_owned(), 7.into());
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
