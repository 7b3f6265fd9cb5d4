use super::*;

struct Filled(u8, u64);

impl Volume for Filled {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if end > self.1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, byte) in (offset..).zip(buf) {
            *byte = self.0 ^ (at / 512) as u8;
        }
        Ok(())
    }
}

const METADATA: &str = r#"
vg0 {
    id = "group" seqno = 3 extent_size = 8
    physical_volumes {
        pv0 { id = "a-a" pe_start = 2048 }
        pv1 { id = "bb" pe_start = 2048 }
    }
    logical_volumes {
        linear {
            status = ["READ", "VISIBLE"]
            segment2 { start_extent = 2 extent_count = 1 type = "striped" stripes = ["pv1", 0] }
            segment1 { start_extent = 0 extent_count = 2 type = "striped" stripes = ["pv0", 4] }
        }
        stripes {
            status = ["VISIBLE"]
            segment1 {
                start_extent = 0 extent_count = 4 type = "striped" stripe_size = 4
                stripes = ["pv0", 0, "pv1", 0]
            }
        }
        thin { status = ["VISIBLE"] segment1 { start_extent = 0 extent_count = 1 type = "thin" } }
        hidden { status = ["READ"] segment1 { } }
        gap {
            status = ["VISIBLE"]
            segment1 { start_extent = 1 extent_count = 1 type = "striped" stripes = ["pv0", 0] }
        }
    }
}"#;

fn volumes(members: &Members) -> Vec<LogicalVolume> {
    let group = Group::decode(METADATA.as_bytes(), &mut 0).expect("the metadata is valid");
    group.volumes(7, members)
}

fn members() -> Members {
    let member = |byte| -> SharedVolume { Arc::new(Filled(byte, 4 << 20)) };
    BTreeMap::from([
        ("aa".to_owned(), Some(member(0))),
        ("bb".to_owned(), Some(member(0xff))),
    ])
}

/// The byte of a sector of a volume.
fn sector(volume: &SharedVolume, number: u64) -> u8 {
    let mut bytes = [0; 512];
    volume
        .read_at(number * 512, &mut bytes)
        .expect("within the volume");
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

#[test]
fn sectors_lie_where_the_metadata_says() {
    let found = volumes(&members());
    let names: Vec<_> = found.iter().map(|volume| &*volume.name).collect();
    assert_eq!(names, ["linear", "stripes", "thin", "gap"]);
    assert!(found.iter().all(|volume| volume.disk == 7));
    let linear = found[0].volume.as_ref().expect("it is whole");
    assert_eq!(linear.size(), 3 * 4096);
    // Extents have 8 sectors; the first of pv0 is at sector 2048.
    assert_eq!(sector(linear, 0), (2048 + 4 * 8) as u8);
    assert_eq!(sector(linear, 15), (2048 + 4 * 8 + 15) as u8);
    assert_eq!(sector(linear, 16), 0xff ^ 2048_u64 as u8);
    assert!(linear.read_at(3 * 4096 - 1, &mut [0; 2]).is_err());
    let stripes = found[1].volume.as_ref().expect("it is whole");
    for (number, member, at) in [
        (0, 0, 0),
        (3, 0, 3),
        (4, 0xff, 0),
        (8, 0, 4),
        (31, 0xff, 15),
    ] {
        assert_eq!(
            sector(stripes, number),
            member ^ (2048 + at) as u8,
            "{number}"
        );
    }
    let mut all = vec![0; 4 * 4096];
    stripes
        .read_at(0, &mut all)
        .expect("a read may cross stripes");
    assert_eq!(all[4 * 512], sector(stripes, 4));
}

#[test]
fn what_cannot_be_read_is_named() {
    let found = volumes(&members());
    let error = |index: usize| match &found[index].volume {
        Ok(_) => panic!("it cannot be read"),
        Err(error) => error.to_string(),
    };
    assert!(error(2).contains("`thin`"), "{}", error(2));
    assert!(error(3).contains("damaged"), "{}", error(3));
    let mut half = members();
    half.remove("bb");
    let found = volumes(&half);
    let missing = found[0].volume.as_ref().err().map(ToString::to_string);
    assert!(missing.is_some_and(|text| text.contains("none of these disks")));
}

#[test]
fn the_stores_of_snapshots_are_no_volumes() {
    let segment = |text: &str| {
        format!(
            "{{ status = [\"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = 1 {text} }} }}"
        )
    };
    let striped = segment("type = \"striped\" stripes = [\"pv0\", 0]");
    let kept = segment("type = \"snapshot\" origin = \"root\" cow_store = \"kept\"");
    let merging = segment("type = \"snapshot\" origin = \"var\" merging_store = \"back\"");
    let text = format!(
        "vg0 {{ id = \"group\" extent_size = 8 physical_volumes {{ pv0 {{ id = \"aa\" }} }}
         logical_volumes {{ root {striped} kept {striped} var {striped} back {striped}
         snapshot0 {kept} snapshot1 {merging} }} }}"
    );
    let group = Group::decode(text.as_bytes(), &mut 0).expect("the metadata is valid");
    let found = group.volumes(0, &members());
    let reason = |name: &str| {
        let found = found.iter().find(|volume| volume.name == name);
        let error = found.expect("it is listed").volume.as_ref().err();
        error.map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(reason("root"), "");
    assert!(
        reason("kept").contains("`snapshot` of `root`"),
        "{}",
        reason("kept")
    );
    assert!(reason("var").contains("merged"), "{}", reason("var"));
    assert!(
        reason("back").contains("`snapshot` of `var`"),
        "{}",
        reason("back")
    );
}

/// A physical volume, by id, on a disk, with what it says of its group.
fn member(id: &str, disk: usize, sequence: u64, byte: u8) -> Member {
    let text = METADATA.replace("seqno = 3", &format!("seqno = {sequence}"));
    let name = format!("linear{sequence} {{");
    let text = text.replace("linear {", &name);
    let group = Group::decode(text.as_bytes(), &mut 0).expect("the metadata is valid");
    Member {
        id: id.to_owned(),
        disk,
        volume: Arc::new(Filled(byte, 4 << 20)),
        group: Some(Arc::new(group)),
    }
}

fn linear(found: &[LogicalVolume]) -> Vec<(usize, &str, Result<u8, String>)> {
    let linear = found
        .iter()
        .filter(|volume| volume.name.starts_with("linear"));
    let first = |volume: &LogicalVolume| match &volume.volume {
        Ok(volume) => Ok(sector(volume, 0) ^ (2048 + 4 * 8) as u8),
        Err(error) => Err(error.to_string()),
    };
    linear
        .map(|volume| (volume.disk, &*volume.name, first(volume)))
        .collect()
}

#[test]
fn a_clone_of_a_disk_is_not_taken_for_it() {
    // The clone of the first disk has changed since.
    let members = [
        member("aa", 0, 3, 1),
        member("bb", 1, 3, 2),
        member("aa", 2, 4, 3),
    ];
    let found = volumes_of("group", &members);
    let found = linear(&found);
    let [first, second, third] = &found[..] else {
        panic!("each disk has it: {found:?}");
    };
    assert_eq!(*first, (0, "linear3", Ok(1)));
    assert_eq!(*third, (2, "linear4", Ok(3)));
    let (1, "linear3", Err(error)) = second else {
        panic!("either copy could be meant: {second:?}");
    };
    assert!(error.contains("several disks"), "{error}");
    // Nor where both copies are on one disk.
    let members = [
        member("aa", 0, 3, 1),
        member("bb", 0, 3, 2),
        member("aa", 0, 3, 3),
    ];
    let found = volumes_of("group", &members);
    assert!(matches!(&linear(&found)[..], [(0, _, Err(_))]));
}

#[test]
fn without_clones_the_newest_text_counts() {
    let members = [member("aa", 3, 3, 1), member("bb", 1, 5, 2)];
    let found = volumes_of("group", &members);
    assert_eq!(linear(&found), [(1, "linear5", Ok(1))]);
}
