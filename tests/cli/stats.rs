//! `cairn stats`.

use crate::world::{MIB, World, disk};

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
