//! Backups that end before their time: by SIGINT, and by SIGKILL at any moment.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::waiting::wait_for;
use crate::world::{MIB, World, disk, edit};

fn start(world: &World, args: &[&str]) -> Child {
    let mut command = world.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the command can be run")
}

fn signal(world: &World, child: &Child, name: &str) {
    world.tool("kill", &["-s", name, &child.id().to_string()]);
}

/// Waits until the backup has begun to write a pack.
fn wait_for_a_pack(world: &World, child: &mut Child) {
    let packs = || -> Vec<PathBuf> { [world.stored("tmp"), world.stored("packs")].concat() };
    wait_for("a pack", || {
        assert!(
            child.try_wait().expect("known").is_none(),
            "it ended too early"
        );
        let mut lens = packs()
            .into_iter()
            .map(|path| path.metadata().map_or(0, |meta| meta.len()));
        lens.any(|len| len >= MIB)
    });
}

#[test]
fn sigint_publishes_nothing_and_the_next_run_goes_on() {
    let world = World::new();
    let bytes = disk(130, 192 * MIB);
    world.raw("a.raw", &bytes);
    let args = ["backup", "web1", "--disk", "vda=a.raw", "--threads", "1"];
    let mut child = start(&world, &args);
    wait_for_a_pack(&world, &mut child);
    signal(&world, &child, "INT");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert_eq!(world.json(["snapshots"]), serde_json::json!([]));
    world.ok(["verify"]);

    world.backup("a.raw");
    assert!(world.restored("web1") == bytes);
    assert_eq!(world.stored("tmp"), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_restore_leaves_no_file() {
    let world = World::new();
    world.raw("a.raw", &disk(131, 128 * MIB));
    world.backup("a.raw");
    let args = [
        "restore",
        "web1",
        "--disk",
        "vda",
        "--to",
        "to/out.raw",
        "--threads",
        "1",
    ];
    std::fs::create_dir(world.path("to")).expect("a folder can be made");
    let entries = || std::fs::read_dir(world.path("to")).expect("listed").count();
    let before = entries();
    let mut child = start(&world, &args);
    let mut ended = None;
    wait_for("a file, or the end", || {
        ended = child.try_wait().expect("known");
        ended.is_some() || entries() != before
    });
    if ended.is_none() {
        signal(&world, &child, "TERM");
    }
    let status = child.wait().expect("it ends");
    if status.code() == Some(130) {
        assert!(!world.path("to/out.raw").exists());
        assert_eq!(entries(), before, "the temporary file is gone");
    } else {
        assert_eq!(status.code(), Some(0), "the signal came too late");
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Whatever the moment, what was published is whole, and the next backup needs no help.
#[test]
fn kill_at_any_moment_of_many_backups() {
    const ROUNDS: u64 = 15;
    let world = World::new();
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = disk(seed, 12 * MIB);
    let mut hashes = Vec::new();
    let mut whole = Duration::from_millis(60);
    let mut killed = 0;
    for round in 0..ROUNDS {
        edit(seed ^ round, &mut bytes);
        world.raw("a.raw", &bytes);
        hashes.push(hash(&bytes));
        let tag = format!("round={round}");
        let args = ["backup", "web1", "--disk", "vda=a.raw", "--tag", &tag];
        let begun = Instant::now();
        let mut child = start(&world, &args);
        // sleeps: so that the moment of the kill is another each time.
        thread::sleep(whole.mul_f64(random.f64() * 1.2));
        if child.try_wait().expect("known").is_none() {
            signal(&world, &child, "KILL");
            killed += 1;
        } else {
            // times: for kills in the course of the next.
            whole = begun.elapsed().min(Duration::from_millis(500));
        }
        child.wait().expect("it ends");
        if round % 5 == 4 {
            std::fs::remove_dir_all(world.repository().join("index")).ok();
        }
    }
    world.ok([
        "backup",
        "web1",
        "--disk",
        "vda=a.raw",
        "--tag",
        "round=last",
    ]);
    hashes.push(hash(&bytes));
    world.ok(["verify"]);

    let listed = world.json(["snapshots"]);
    let listed = listed.as_array().expect("a list");
    assert!(killed > 0 && !listed.is_empty());
    for snapshot in listed {
        let round = snapshot["tags"]["round"]
            .as_str()
            .expect("every one has it");
        let round = round.parse().unwrap_or(hashes.len() - 1);
        let restored = world.restored(snapshot["id"].as_str().expect("an id"));
        assert_eq!(hash(&restored), hashes[round], "round {round}, seed {seed}");
    }
    eprintln!("{killed} of {ROUNDS} killed, {} published", listed.len());
    let unfinished = world.stored("tmp");
    assert!(unfinished.is_empty(), "{unfinished:?}");
}
