//! `cairn diff`.

use crate::world::{KIB, MIB, World, disk};

#[test]
fn extents_hold_what_differs_and_little_more() {
    let world = World::new();
    let mut bytes = disk(60, 40 * MIB);
    bytes[30 * MIB as usize..31 * MIB as usize].fill(1);
    world.raw("a.raw", &bytes);
    let old = world.backup("a.raw")["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    bytes[5 * MIB as usize] ^= 1;
    bytes[30 * MIB as usize..31 * MIB as usize].fill(0);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");

    let report = world.json(["diff", &old, "web1"]);
    let extents: Vec<(u64, u64)> = report["extents"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|extent| {
            let number = |name: &str| extent[name].as_u64().expect("a number");
            (number("offset"), number("length"))
        })
        .collect();
    let holds = |from: u64, to: u64| {
        extents
            .iter()
            .any(|(offset, len)| *offset <= from && to <= offset + len)
    };
    assert!(holds(5 * MIB, 5 * MIB + 1), "{report}");
    assert!(holds(30 * MIB, 31 * MIB), "{report}");
    let sum: u64 = extents.iter().map(|extent| extent.1).sum();
    assert!(sum < MIB + 512 * KIB, "{report}");
    assert_eq!(
        world.json(["diff", "web1", "web1"])["extents"],
        serde_json::json!([])
    );
    assert!(
        world
            .ok(["diff", &old, "web1", "--disk", "vda"])
            .contains("differ in")
    );
    world
        .run(["diff", &old, "web1", "--disk", "vdb"])
        .refused(2, "`vdb`");
}
