//! `cairn key`.

use std::fs;

use crate::world::{MIB, PASSPHRASE, World, disk};

fn opens(world: &World, passphrase: &str) -> bool {
    let mut command = world.command(["snapshots"]);
    let ran = crate::world::Ran::of(command.env("CAIRN_PASSWORD", passphrase));
    assert!(ran.code == 0 || ran.code == 14, "{ran:?}");
    ran.code == 0
}

#[test]
fn passphrases_come_and_go() {
    let world = World::encrypted();
    let listed = world.json(["key", "list"]);
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["keys"][0]["current"], true);
    let first = listed["keys"][0]["id"].as_str().expect("an id").to_owned();
    // The last one stays: without it nothing could be read.
    world
        .run(["key", "remove", &first[..8]])
        .refused(1, "last key");

    fs::write(world.path("second"), "another one\n").expect("a file can be made");
    let add = [
        "key",
        "add",
        "--label",
        "office safe",
        "--new-password-file",
        "second",
    ];
    let added = world.json(add);
    assert_eq!(added["done"], "added");
    assert!(opens(&world, "another one") && opens(&world, PASSPHRASE));
    assert!(world.ok(["key", "list"]).contains("office safe"));

    fs::write(world.path("third"), "a third\n").expect("a file can be made");
    let changed = world.json(["key", "passwd", "--new-password-file", "third"]);
    assert_eq!(changed["done"], "changed");
    assert!(!opens(&world, PASSPHRASE));
    assert!(opens(&world, "a third") && opens(&world, "another one"));

    let second = added["id"].as_str().expect("an id");
    fs::write(world.path("now"), "a third").expect("a file can be made");
    world.ok(["key", "remove", &second[..8], "--password-file", "now"]);
    assert!(!opens(&world, "another one") && opens(&world, "a third"));
    world
        .run(["key", "remove", "0000", "--password-file", "now"])
        .refused(2, "no key");
}

#[test]
fn a_repository_that_is_not_encrypted_has_no_keys() {
    let world = World::new();
    world.raw("a.raw", &disk(90, MIB));
    let mut command = world.command(["key", "list"]);
    let ran = crate::world::Ran::of(command.env("CAIRN_PASSWORD", PASSPHRASE));
    ran.refused(14, "not encrypted");
    world.run(["key", "list"]).refused(2, "not encrypted");
}
