//! `cairn stats`.

use serde_json::Value;

use crate::world::{MIB, World, disk, edit};

#[test]
fn numbers_agree_with_the_disk_and_with_one_another() {
    let world = World::new();
    let bytes = disk(70, 16 * MIB);
    world.raw("a.raw", &bytes);
    let empty = world.json(["stats"]);
    assert_eq!(empty["snapshots"], 0);
    assert_eq!(empty["logical_bytes"], 0);
    world.backup("a.raw");
    world.backup("a.raw");

    let stats = world.json(["stats"]);
    let number = |name: &str| stats[name].as_u64().unwrap_or_else(|| panic!("no {name}"));
    let data = bytes
        .chunks(64 * 1024)
        .filter(|block| block.iter().any(|byte| *byte != 0));
    let data = data.map(<[u8]>::len).sum::<usize>() as u64;
    assert_eq!(number("snapshots"), 2);
    assert_eq!(number("logical_bytes"), 2 * data);
    assert!(number("unique_bytes") <= data && number("unique_bytes") > data / 2);
    assert_eq!(number("packs"), world.stored("packs").len() as u64);
    assert!(number("chunks") > 0);
    let ratio = |name: &str| stats[name].as_f64().unwrap_or_else(|| panic!("no {name}"));
    let dedup = number("logical_bytes") as f64 / number("unique_bytes") as f64;
    assert!((ratio("dedup_ratio") - dedup).abs() < 1e-9);
    let compression = number("unique_bytes") as f64 / number("stored_bytes") as f64;
    assert!((ratio("compression_ratio") - compression).abs() < 1e-9);

    let excluded = "--exclude=index";
    let used = world.tool(
        "du",
        &["-s", "--apparent-size", "-B1", excluded, "repository"],
    );
    let used: f64 = used
        .split('\t')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    let stored = number("stored_bytes") as f64;
    // Folders count too, for `du`; in a repository this small that shows.
    let folders = 4096.0 * 300.0;
    assert!(
        (used - stored).abs() < stored * 0.02 + folders,
        "{used} {stored}"
    );
    assert!(world.ok(["stats"]).contains("to 1"));
}

#[test]
fn rows_tell_whom_the_space_belongs_to() {
    let world = World::new();
    let shared = disk(71, 4 * MIB);
    let own = [disk(72, 8 * MIB), shared.clone()].concat();
    world.raw("a.raw", &shared);
    world.raw("b.raw", &own);
    world.ok(["backup", "a", "--disk", "vda=a.raw"]);
    world.ok(["backup", "b", "--disk", "vda=b.raw"]);
    world.ok(["backup", "b", "--disk", "vda=b.raw"]);

    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}"));
    let by_vm = world.json(["stats", "--per", "vm"]);
    assert_eq!(by_vm["complete"], true);
    let (a, b) = (&by_vm["rows"][0], &by_vm["rows"][1]);
    assert_eq!((&a["vm"], &b["vm"]), (&"a".into(), &"b".into()));
    assert_eq!((number(&a["snapshots"]), number(&b["snapshots"])), (1, 2));
    // Chunks are cut by their content: all of a's but those at the seams are b's too.
    assert!(
        number(&a["unique_bytes"]) < number(&a["used_bytes"]) / 4,
        "{a}"
    );
    assert!(
        number(&b["unique_bytes"]) > number(&b["used_bytes"]) / 2,
        "{b}"
    );
    for row in [a, b] {
        let parts = number(&row["unique_bytes"]) + number(&row["shared_bytes"]);
        assert_eq!(parts, number(&row["used_bytes"]));
        assert!(number(&row["freed_bytes"]) > number(&row["unique_bytes"]));
    }
    let by_snapshot = world.json(["stats", "--per", "snapshot"]);
    let rows = by_snapshot["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 3);
    assert_eq!(number(&rows[1]["unique_bytes"]), 0, "{:?}", rows[1]);
    assert_eq!(rows[1]["used_bytes"], rows[2]["used_bytes"]);
    let table = world.ok(["stats", "--per", "vm"]);
    assert!(
        table.contains("FREED") && table.contains("together"),
        "{table}"
    );
    assert_eq!(world.run(["stats", "--per", "disk"]).code, 2);

    // What rests holds nothing back, and is said apart.
    assert_eq!(number(&by_vm["resting_bytes"]), 0);
    let freed = number(&b["unique_bytes"]);
    world.json(["prune", "--keep-last", "1", "--vm", "b"]);
    world.ok(["forget", "b", "--yes"]);
    let later = world.json(["stats", "--per", "vm"]);
    assert_eq!(number(&later["resting_bytes"]), freed);
    assert_eq!(later["rows"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        later["rows"][0]["used_bytes"],
        later["rows"][0]["unique_bytes"]
    );
}

#[test]
fn a_plan_says_what_it_frees_as_the_rows_do() {
    let world = World::new();
    let mut bytes = disk(73, 8 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    edit(74, &mut bytes);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    let rows = world.json(["stats", "--per", "snapshot"]);
    let freed = rows["rows"][0]["freed_bytes"].as_u64().expect("a number");
    assert!(freed > 10_000, "{rows}");
    let plan = world.json(["prune", "--keep-last", "1", "--dry-run"]);
    assert_eq!(plan["freed_bytes"].as_u64(), Some(freed));
    let text = world.ok(["prune", "--keep-last", "1", "--dry-run"]);
    assert!(
        text.contains("would forget 1 of 2 snapshots, which frees"),
        "{text}"
    );
    let done = world.json(["prune", "--keep-last", "1"]);
    assert!(done["freed_bytes"].is_null());
    // The plan leaves out what is on its way already.
    let plan = world.json(["prune", "--keep-last", "1", "--dry-run"]);
    assert_eq!(plan["freed_bytes"], 0);
}

#[test]
fn what_is_damaged_is_not_counted_in_silence() {
    let world = World::new();
    world.raw("a.raw", &disk(75, 2 * MIB));
    world.backup("a.raw");
    world.backup("a.raw");
    let pack = world.stored("packs").pop().expect("there is one");
    let bytes = std::fs::read(&pack).expect("it can be read");
    std::fs::write(&pack, &bytes[..bytes.len() - 7]).expect("it can be written");
    for args in [
        &["stats", "--per", "vm"][..],
        &["prune", "--keep-last", "1", "--dry-run"],
    ] {
        let ran = world.run(args);
        assert_eq!(ran.code, 13, "{ran:?}");
        assert!(ran.err.contains("cairn"), "{ran:?}");
    }
}
