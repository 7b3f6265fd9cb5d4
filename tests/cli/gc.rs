//! `cairn gc`, beside backups that run, are stopped, and are killed.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use crate::waiting::wait_for;
use crate::world::{MIB, World, disk};

fn ids(world: &World) -> Vec<String> {
    let listed = world.json(["snapshots"]);
    let listed = listed.as_array().expect("a list").iter();
    listed
        .map(|it| it["id"].as_str().expect("an id").to_owned())
        .collect()
}

/// Returns the bytes of all packs.
fn packed(world: &World) -> u64 {
    let mut bytes = 0;
    for folder in fs::read_dir(world.repository().join("packs")).expect("listed") {
        for pack in fs::read_dir(folder.expect("listed").path()).expect("listed") {
            bytes += pack.expect("listed").metadata().expect("measured").len();
        }
    }
    bytes
}

/// Makes three snapshots of a disk of which each time a quarter changes; returns the last disk.
fn three(world: &World) -> Vec<u8> {
    let mut bytes = disk(1, 8 * MIB);
    for round in 0..3_usize {
        let quarter = bytes.len() / 4;
        let with = disk(10 + round as u64, quarter as u64);
        bytes[round * quarter..(round + 1) * quarter].copy_from_slice(&with);
        world.raw("a.raw", &bytes);
        world.backup("a.raw");
    }
    bytes
}

#[test]
fn what_was_forgotten_is_freed_and_the_rest_is_whole() {
    let world = World::new();
    let bytes = three(&world);
    let all = ids(&world);
    let before = packed(&world);
    world.ok(["forget", &all[0], &all[1]]);

    // Within the grace period nothing goes.
    let rests = world.json(["gc"]);
    assert_eq!(rests["deleted_packs"], 0, "{rests}");
    assert_eq!(packed(&world), before);

    let dry = world.json(["gc", "--grace", "0", "--max-unused", "0", "--dry-run"]);
    assert_eq!(packed(&world), before, "a dry run writes nothing");
    let done = world.json(["gc", "--grace", "0", "--max-unused", "0"]);
    let after = packed(&world);
    assert_eq!(done["finished"], true);
    assert_eq!(done["deleted_snapshots"].as_array().map(Vec::len), Some(2));
    let freed = done["freed_bytes"].as_i64().expect("a number");
    assert_eq!(i64::try_from(before - after), Ok(freed));
    let foretold = dry["freed_bytes"].as_i64().expect("a number");
    assert!((freed - foretold).abs() < freed / 20, "{freed} {foretold}");
    assert!(
        freed > 1 << 20,
        "much of what changed was needed by nobody: {freed}"
    );

    assert_eq!(ids(&world), all[2..]);
    world.ok(["verify"]);
    assert!(world.restored("web1") == bytes);
    let again = world.json(["gc", "--grace", "0", "--max-unused", "0"]);
    assert_eq!(again["dead_bytes"], 0, "{again}");
    assert_eq!(again["deleted_packs"], 0);
}

#[test]
fn a_stopped_backup_is_named_waited_for_and_kept() {
    let world = World::new();
    three(&world);
    let all = ids(&world);
    let late = disk(99, 64 * MIB);
    world.raw("b.raw", &late);
    let mut backup = world.command([
        "backup",
        "late",
        "--disk",
        "vda=b.raw",
        "--limit",
        "16MiB/s",
    ]);
    let mut backup = backup
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command runs");
    let pid = rustix::process::Pid::from_child(&backup);
    // What it uploads lies there once its session is open.
    wait_for("the backup is at work", || {
        assert!(backup.try_wait().expect("known").is_none(), "it has ended");
        !world.stored("tmp").is_empty()
    });
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("our own child");

    world.ok(["forget", &all[0], &all[1]]);
    let args = ["gc", "--grace", "0", "--max-unused", "0", "--wait", "1s"];
    let ran = world.run(args);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("which is stopped"), "{}", ran.err);
    let pid_text = format!("process {}", backup.id());
    assert!(ran.err.contains(&pid_text), "{}", ran.err);
    assert!(ran.out.contains("not finished"), "{}", ran.out);

    // Others back up meanwhile.
    world.backup("a.raw");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("our own child");
    assert!(backup.wait().expect("it ends").success());
    let done = world.json(["gc", "--grace", "0", "--max-unused", "0"]);
    assert_eq!(done["resumed"], true, "{done}");
    assert_eq!(done["finished"], true);
    world.ok(["verify"]);
    assert!(world.restored("late") == late);
}

#[test]
fn one_collection_at_a_time() {
    let world = World::new();
    three(&world);
    fs::write(world.repository().join("gc/lock"), b"").expect("written");
    let lock = fs::File::open(world.repository().join("gc/lock")).expect("opened");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    world.run(["gc"]).refused(11, "another");
    drop(lock);
    world.ok(["gc"]);
}

#[test]
fn a_damaged_plan_stops_nobody() {
    let world = World::new();
    let bytes = three(&world);
    fs::write(world.repository().join("gc/plan"), b"{\"version\":1}").expect("written");
    world.backup("a.raw");
    assert!(!world.repository().join("gc/plan").exists());
    fs::write(world.repository().join("gc/plan"), b"{\"version\":1}").expect("written");
    world.ok(["gc"]);
    world.ok(["verify"]);
    assert!(world.restored("web1") == bytes);
}

#[test]
fn damage_deletes_nothing() {
    let world = World::new();
    three(&world);
    let all = ids(&world);
    world.ok(["forget", &all[0], &all[1]]);
    let manifest = world.repository().join("snapshots").join(&all[2]);
    let whole = fs::read(&manifest).expect("read");
    fs::write(&manifest, &whole[..whole.len() / 2]).expect("written");
    let before = packed(&world);
    let ran = world.run(["gc", "--grace", "0"]);
    assert_eq!(ran.code, 13, "{}", ran.err);
    assert!(ran.err.contains(&all[2]), "{}", ran.err);
    assert_eq!(packed(&world), before);
    fs::write(&manifest, whole).expect("written");
    world.ok(["gc", "--grace", "0"]);
    world.ok(["verify"]);
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_the_next_goes_on() {
    let world = World::new();
    let bytes = three(&world);
    let all = ids(&world);
    world.ok(["forget", &all[0], &all[1]]);
    let begun = Instant::now();
    world.ok(["gc", "--grace", "0", "--max-unused", "0", "--dry-run"]);
    // times: for kills in the course of a collection.
    let whole = 2 * begun.elapsed();
    for round in 0..12 {
        let mut gc = world.command(["gc", "--grace", "0", "--max-unused", "0"]);
        let mut gc = gc
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command runs");
        // sleeps: so that the moment of the kill is another each time.
        thread::sleep(whole * round / 12);
        gc.kill().expect("our own child");
        gc.wait().expect("it ends");
        world.ok(["verify"]);
    }
    world.ok(["gc", "--grace", "0", "--max-unused", "0"]);
    world.ok(["verify"]);
    assert!(world.restored("web1") == bytes);
    let left = world.json(["gc", "--grace", "0", "--max-unused", "0", "--dry-run"]);
    assert_eq!(left["dead_bytes"], 0, "{left}");
}
