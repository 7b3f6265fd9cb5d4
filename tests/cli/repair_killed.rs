//! `cairn repair` that is killed at any moment: nothing that could be read is lost, and the next
//! repair ends well.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{MIB, Ran, World, copy_tree, disk, text};

/// A repository with damage, beside a copy that has none.
struct Damaged {
    world: World,
    /// The disk of each VM.
    disks: Vec<(&'static str, String, Vec<u8>)>,
}

/// Flips a bit at some of the sixteenths of a file.
fn flip(path: &Path, sixteenths: &[usize]) {
    let mut bytes = fs::read(path).expect("stored files can be read");
    for part in sixteenths {
        let at = bytes.len() * part / 16;
        bytes[at] ^= 4;
    }
    fs::write(path, bytes).expect("stored files can be written");
}

impl Damaged {
    /// Two VMs share what lies at the beginning of a pack. Damaged are that pack behind it, the
    /// recipe of the first VM, its manifest, and a note of the second.
    fn new(world: World, seed: u64) -> Self {
        let first = disk(seed, 12 * MIB);
        let mut second = disk(!seed, 8 * MIB);
        let shared = second.len() / 2;
        second[..shared].copy_from_slice(&first[..shared]);
        // Chunks are shared, but no leaf of a recipe.
        for window in second.chunks_mut(2 << 20) {
            window[1 << 20] ^= 1;
        }
        let disks = vec![("web1", first), ("web2", second)];
        let mut before = Vec::new();
        let mut made = Vec::new();
        for (vm, bytes) in &disks {
            world.raw("a.raw", bytes);
            // By one thread, frames lie in the order of the disk.
            let args = ["backup", vm, "--disk", "vda=a.raw", "--threads", "1"];
            made.push(world.json(args));
            let mut packs = world.stored("packs");
            packs.retain(|pack| !before.contains(pack));
            packs.sort_by_key(|pack| pack.metadata().map_or(0, |meta| meta.len()));
            before.extend(packs);
        }
        world.ok(["protect", "web2"]);
        copy_tree(&world.repository(), &world.path("copy"));
        // Of the first VM, the smaller pack has the recipe.
        flip(&before[0], &[8]);
        flip(&before[1], &[12, 14]);
        let manifest = made[0]["snapshot"].as_str().expect("an id");
        flip(&world.repository().join("snapshots").join(manifest), &[8]);
        flip(&world.stored("notes")[0], &[8]);
        copy_tree(&world.repository(), &world.path("damaged"));
        let ids = made.iter().map(|made| made["snapshot"].as_str());
        let ids = ids.map(|id| id.expect("an id").to_owned());
        let disks = disks.into_iter().zip(ids);
        let disks = disks.map(|((vm, bytes), id)| (vm, id, bytes)).collect();
        Self { world, disks }
    }

    /// Begins again with all the damage, and without an index.
    fn begin(&self) {
        for old in [self.world.repository(), self.world.path("cache")] {
            if old.exists() {
                fs::remove_dir_all(old).expect("it can be removed");
            }
        }
        copy_tree(&self.world.path("damaged"), &self.world.repository());
    }

    /// Restores a VM's snapshot by its id: the lost manifest may be that of any VM's newest.
    fn restores(&self, vm: &str) -> bool {
        let wanted = self.disks.iter().find(|(name, ..)| *name == vm);
        let (_, id, wanted) = wanted.expect("it was made");
        let out = self.world.path("out.raw");
        let args = [
            "restore",
            id,
            "--disk",
            "vda",
            "--to",
            text(&out),
            "--force",
        ];
        let ran = self.world.run(args);
        if ran.code == 0 {
            let is_equal = fs::read(&out).expect("it was restored") == *wanted;
            assert!(is_equal, "other bytes of {vm}");
        }
        ran.code == 0
    }

    fn repair(&self) -> std::process::Command {
        let copy = self.world.path("copy");
        self.world.command(["repair", "--from", text(&copy)])
    }

    /// Kills a repair after a while; says whether it was at work still.
    fn kill_after(&self, delay: Duration) -> bool {
        let mut command = self.repair();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the command can be run");
        // sleeps: so that the moment of the kill is another each time.
        thread::sleep(delay);
        let is_at_work = child.try_wait().expect("known").is_none();
        child.kill().expect("our own child can be killed");
        child.wait().expect("it ends");
        is_at_work
    }

    /// Repairs what a killed repair left, and fails unless everything is whole then. Returns how
    /// long the repair took.
    fn end_well(&self, context: &str) -> Duration {
        let begun = Instant::now();
        let ran = Ran::of(&mut self.repair());
        // times: for kills in the course of the next.
        let took = begun.elapsed();
        assert_eq!(ran.code, 0, "{context}: {ran:?}");
        for (vm, ..) in &self.disks {
            assert!(self.restores(vm), "{context}: {vm}");
        }
        let verify = self.world.run(["verify"]);
        assert_eq!(verify.code, 0, "{context}: {verify:?}");
        let listed = self.world.json(["snapshots"]);
        let protected = listed.as_array().expect("a list").iter();
        let protected: Vec<_> = protected.filter(|it| it["protected"] == true).collect();
        assert_eq!(protected.len(), 1, "{context}");
        assert_eq!(self.world.stored("tmp").len(), 0, "{context}");
        took
    }
}

fn killed(world: World, runs: u32) {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let damaged = Damaged::new(world, seed);
    damaged.begin();
    assert!(!damaged.restores("web1") && damaged.restores("web2"));
    assert_eq!(damaged.world.run(["verify"]).code, 13);
    let whole = damaged.end_well("not killed");
    let mut killed_at_work = 0;
    for run in 0..runs {
        let context = format!("seed {seed}, run {run}");
        damaged.begin();
        for kill in 0..2 {
            let delay = whole.mul_f64(random.f64());
            killed_at_work += u32::from(damaged.kill_after(delay));
            assert!(damaged.restores("web2"), "{context}, kill {kill}");
        }
        damaged.end_well(&context);
    }
    eprintln!("{killed_at_work} of {} were at work", 2 * runs);
    assert!(killed_at_work > 0);
}

#[test]
fn a_killed_repair_of_a_plain_repository_loses_nothing() {
    killed(World::new(), 14);
}

#[test]
fn a_killed_repair_of_an_encrypted_repository_loses_nothing() {
    killed(World::encrypted(), 6);
}
