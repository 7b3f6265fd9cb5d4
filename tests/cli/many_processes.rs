//! Commands beside one another in one repository.

use std::process::{Child, Stdio};

use crate::world::{MIB, World, disk, edit};

fn start(world: &World, args: &[&str]) -> Child {
    let mut command = world.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the command can be run")
}

#[track_caller]
fn succeeds(child: Child) {
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn two_backups_and_a_restore_beside_them_succeed() {
    let world = World::new();
    let first = disk(140, 24 * MIB);
    world.raw("a.raw", &first);
    world.backup("a.raw");
    let (mut b, mut c) = (first.clone(), disk(141, 24 * MIB));
    edit(142, &mut b);
    edit(143, &mut c);
    world.raw("b.raw", &b);
    world.raw("c.raw", &c);
    for round in 0..3 {
        let out = format!("out{round}.raw");
        let running = [
            start(&world, &["backup", "b", "--disk", "vda=b.raw"]),
            start(&world, &["backup", "c", "--disk", "vda=c.raw"]),
            start(&world, &["restore", "web1", "--disk", "vda", "--to", &out]),
            start(&world, &["verify"]),
        ];
        running.into_iter().for_each(succeeds);
        world.assert_equal(("raw", "a.raw"), ("raw", &out));
    }
    assert!(world.restored("b") == b);
    assert!(world.restored("c") == c);
    assert_eq!(world.json(["snapshots"]).as_array().map(Vec::len), Some(7));
    // What both stored at the same moment is there twice; what came later is not.
    assert_eq!(world.backup("b.raw")["disks"][0]["new_chunks"], 0);
    world.ok(["verify"]);
}

#[test]
fn many_first_backups_of_one_disk_agree() {
    let world = World::new();
    let bytes = disk(144, 8 * MIB);
    world.raw("a.raw", &bytes);
    let vms = ["a1", "a2", "a3", "a4"];
    let running = vms.map(|vm| start(&world, &["backup", vm, "--disk", "vda=a.raw"]));
    running.into_iter().for_each(succeeds);
    let listed = world.json(["snapshots"]);
    let recipes: Vec<_> = (0..4)
        .map(|number| &listed[number]["disks"][0]["recipe"])
        .collect();
    assert!(
        recipes
            .iter()
            .all(|recipe| *recipe == recipes[0] && recipe.is_string())
    );
    for vm in vms {
        assert!(world.restored(vm) == bytes);
    }
    world.ok(["verify"]);
}
