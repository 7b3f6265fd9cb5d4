//! Encrypted repositories from end to end.

use std::fs;
use std::time::Instant;

use crate::waiting::PATIENCE;
use crate::world::{MIB, PASSPHRASE, Ran, World, damage, disk, edit};

#[test]
fn nothing_of_a_disk_shows_and_all_of_it_comes_back() {
    let world = World::encrypted();
    let marker = b"A sentence that only the guest may know.";
    let mut bytes = disk(100, 4 * MIB);
    bytes[MIB as usize..][..marker.len()].copy_from_slice(marker);
    world.raw("a.raw", &bytes);
    let args = [
        "backup",
        "payroll",
        "--disk",
        "vda=a.raw",
        "--tag",
        "secret=tag",
    ];
    world.ok(args);
    edit(101, &mut bytes);
    world.raw("a.raw", &bytes);
    assert_eq!(world.json(args)["disks"][0]["mode"], "scan");
    assert!(world.restored("payroll") == bytes);
    world.ok(["verify"]);
    for path in world.stored("") {
        let stored = fs::read(&path).expect("stored files can be read");
        for secret in [
            &marker[..],
            b"payroll",
            b"secret",
            b"a.raw",
            PASSPHRASE.as_bytes(),
        ] {
            let shows = stored.windows(secret.len()).any(|window| window == secret);
            assert!(!shows, "{}", path.display());
        }
    }
    assert!(
        !world.repository().join("index").exists(),
        "the index is of plain ids"
    );
}

#[test]
fn a_wrong_passphrase_is_refused_at_once() {
    let world = World::encrypted();
    fs::write(world.path("wrong"), "incorrect horse\n").expect("a file can be made");
    fs::write(world.path("right"), format!("{PASSPHRASE}\nnotes\n")).expect("made");
    let begun = Instant::now();
    let refused = world.run(["snapshots", "--password-file", "wrong"]);
    assert!(begun.elapsed() < PATIENCE, "{refused:?}");
    refused.refused(14, "wrong passphrase");
    world.ok(["snapshots", "--password-file", "right"]);
    let mut nobody = world.command(["snapshots"]);
    Ran::of(nobody.env_remove("CAIRN_PASSWORD")).refused(2, "CAIRN_PASSWORD");
    Ran::of(nobody.env("CAIRN_PASSWORD", "")).refused(2, "empty");
    world
        .run(["snapshots", "--password-file", "absent"])
        .refused(1, "absent");
}

#[test]
fn encryption_cannot_be_switched_off_unseen() {
    let world = World::encrypted();
    let config = world.repository().join("config");
    let text = fs::read_to_string(&config).expect("config is text");
    let mut settings: serde_json::Value = serde_json::from_str(&text).expect("config is JSON");
    let kept = settings.clone();
    settings["encryption"] = serde_json::Value::Null;
    fs::write(&config, settings.to_string()).expect("config can be written");
    let proof = "was encrypted when it was opened from here last";
    world.run(["snapshots"]).refused(13, proof);
    world.raw("a.raw", &disk(101, MIB));
    let backup = ["backup", "web1", "--disk", "vda=a.raw"];
    // Without a passphrase at hand nothing is asked either: there is no terminal to ask at.
    for args in [
        &["snapshots"][..],
        &["verify", "--stored"],
        &["key", "list"],
        &backup,
    ] {
        let mut nobody = world.command(args);
        Ran::of(nobody.env_remove("CAIRN_PASSWORD")).refused(13, proof);
    }
    assert_eq!(
        world.stored("packs").len() + world.stored("snapshots").len(),
        0
    );
    let mut stranger = world.command(["snapshots"]);
    Ran::of(stranger.env("XDG_CACHE_HOME", world.path("another"))).refused(14, "not encrypted");
    world.ok(["repair", "--config"]);
    world.ok(["snapshots"]);
    let mut settings = kept;
    settings["chunker"]["average"] = (1 << 20).into();
    fs::write(&config, settings.to_string()).expect("config can be written");
    world.run(["snapshots"]).refused(13, "authentication");
}

#[test]
fn damage_to_sealed_objects_is_named() {
    let world = World::encrypted();
    let bytes = disk(102, 3 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    let packs = world.stored("packs");
    let largest = packs
        .iter()
        .max_by_key(|pack| pack.metadata().map_or(0, |meta| meta.len()));
    let largest = largest.expect("there are packs");
    let whole = fs::read(largest).expect("packs can be read");
    damage(largest);
    let ran = world.run(["verify"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    world
        .run(["restore", "web1", "--disk", "vda", "--to", "b.raw"])
        .refused(13, "vda");
    // Another pack under this one's name is sealed, and not the one that is wanted.
    let other = packs
        .iter()
        .find(|pack| *pack != largest)
        .expect("nodes have a pack of their own");
    fs::copy(other, largest).expect("packs can be replaced");
    assert_eq!(world.run(["verify"]).code, 13);
    world
        .run(["restore", "web1", "--disk", "vda", "--to", "b.raw"])
        .refused(13, "vda");
    fs::write(largest, whole).expect("packs can be written");
    assert!(world.restored("web1") == bytes);
}
