//! Images whose names or places promise another format than they have.

use std::fs;

use crate::world::{MIB, World, disk};

#[test]
fn an_image_that_is_not_what_its_name_says_is_asked_about() {
    let world = World::new();
    let bytes = disk(440, 2 * MIB);
    world.raw("plain.img", &bytes);
    let backup = |source: &str| {
        let disk = format!("vda={source}");
        let ran = world.run(["backup", "web1", "--disk", &disk]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.err
    };
    assert!(!backup("plain.img").contains("looks like"));
    for (format, name) in [
        ("qcow2", "qcow2"),
        ("vmdk", "VMDK"),
        ("vdi", "VDI"),
        ("vhdx", "VHDX"),
    ] {
        let image = format!("{format}.img");
        world.tool(
            "qemu-img",
            &["convert", "-O", format, "-f", "raw", "plain.img", &image],
        );
        let said = backup(&image);
        assert!(said.contains(&format!("looks like {name}")), "{said}");
        assert!(said.contains("format="), "{said}");
        // Who says it means it.
        let said = backup(&format!("{image},format=raw"));
        assert!(!said.contains("looks like"), "{said}");
    }
    assert!(!backup("qcow2.img,format=qcow2").contains("looks like"));
    assert!(world.restored("web1") == bytes);
    fs::write(world.path("nothing.raw"), "").expect("made");
    assert!(backup("nothing.raw").contains("no byte"));
}

#[test]
fn no_restore_gets_the_name_of_a_format_that_it_has_not() {
    let world = World::new();
    world.raw("a.raw", &disk(441, MIB));
    world.backup("a.raw");
    for name in ["x.vmdk", "x.VDI", "x.vhdx", "x.vhd"] {
        let restore = ["restore", "web1", "--disk", "vda", "--to", name];
        world.run(restore).refused(2, "raw or qcow2");
        assert!(!world.path(name).exists());
        world.ok(restore.iter().chain(&["--format", "raw"]));
    }
}

#[test]
fn force_alone_puts_no_raw_bytes_where_a_qcow2_was() {
    let world = World::new();
    let bytes = disk(442, 2 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    world.qcow2("b.img", &bytes, "");
    let before = fs::read(world.path("b.img")).expect("readable");
    let restore = [
        "restore", "web1", "--disk", "vda", "--to", "b.img", "--force",
    ];
    world.run(restore).refused(2, "holds qcow2");
    assert!(fs::read(world.path("b.img")).expect("readable") == before);
    world.ok(restore.iter().chain(&["--format", "qcow2"]));
    world.assert_equal(("raw", "a.raw"), ("qcow2", "b.img"));
    world.ok(restore.iter().chain(&["--format", "raw"]));
    world.assert_equal(("raw", "a.raw"), ("raw", "b.img"));
    // What was raw may become raw again.
    world.ok(restore);
}
