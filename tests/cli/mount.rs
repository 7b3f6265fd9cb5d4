//! What `mount` shows, against what the kernel shows of the original disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::guest_disks::{HostMount, assert_same_files, dirty, format, logical_volumes, populate};
use crate::umount::{assert_nothing_left, kernel_mounts};
use crate::waiting::attempts;
use crate::world::{MIB, Ran, World, text};

/// A mount in the background, ended when dropped.
pub struct Mounted<'w> {
    world: &'w World,
    pub report: Value,
}

impl<'w> Mounted<'w> {
    /// Mounts at the folder `at`, with more arguments.
    #[track_caller]
    pub fn new(world: &'w World, snapshot: &str, more: &[&str]) -> Self {
        fs::create_dir_all(world.path("at")).expect("a folder can be made");
        let args = ["mount", snapshot, "at", "--background"];
        let report = world.json([&args, more].concat());
        Self { world, report }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.world.path("at")
    }

    /// Returns where a volume's files are.
    #[track_caller]
    pub fn files(&self, volume: &str) -> std::path::PathBuf {
        assert_eq!(self.place(volume), volume);
        self.path().join(volume)
    }

    /// Returns where a volume is mounted, relative to the folder.
    #[track_caller]
    pub fn place(&self, volume: &str) -> String {
        let mounts = self.report["mounts"].as_array().expect("a list");
        let found = mounts.iter().find(|mount| mount["volume"] == volume);
        let found = found.unwrap_or_else(|| panic!("no {volume}: {}", self.report));
        let path = Path::new(found["directory"].as_str().expect("text"));
        let inner = path.strip_prefix(self.path().canonicalize().expect("it is there"));
        text(inner.expect("below the folder")).to_owned()
    }

    pub fn pid(&self) -> u32 {
        let pid = self.report["pid"].as_u64().expect("a number");
        u32::try_from(pid).expect("a process id")
    }

    /// Unmounts, and sees to it that nothing is left.
    #[track_caller]
    pub fn end(self) {
        let (world, pid) = (self.world, self.pid());
        drop(self);
        assert_nothing_left(world, pid);
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A process that another test is just starting may hold what this one opened.
        let ended = attempts(|| match self.world.run(["umount", "at"]) {
            ran if ran.code == 11 && !std::thread::panicking() => Err(ran),
            ran => Ok(ran),
        });
        if !std::thread::panicking() {
            let ran = ended.unwrap_or_else(|ran| ran);
            assert_eq!(ran.code, 0, "{ran:?}");
        }
    }
}

#[test]
fn a_clean_ext4_is_mounted_by_its_disks_name() {
    let world = World::new();
    format(&world, "ext4", "disk.raw", 64 * MIB);
    populate(&HostMount::new(&world, "disk.raw", "rw").path, 1);
    world.backup("disk.raw");
    let mounted = Mounted::new(&world, "web1", &[]);
    let original = HostMount::new(&world, "disk.raw", "ro");
    assert_same_files(&world, &original.path, &mounted.files("vda"));
    for folder in [mounted.path(), mounted.files("vda")] {
        let refused = fs::write(folder.join("new"), "x");
        let kind = refused.expect_err("it is read-only").kind();
        assert_eq!(kind, std::io::ErrorKind::ReadOnlyFilesystem);
    }
    mounted.end();
}

/// Both ways of looking at a file system that was in use, for a kind with a journal.
fn in_use(kind: &str, len: u64, no_replay: &str) {
    let world = World::new();
    dirty(&world, kind, "disk.raw", len);
    world.backup("disk.raw");
    let before = world.restored("web1");

    let mounted = Mounted::new(&world, "web1", &["--no-replay"]);
    // A copy, since the kernel brings the original to rest.
    let original = HostMount::new(&world, "disk.raw", no_replay);
    assert_same_files(&world, &original.path, &mounted.files("vda"));
    assert!(
        !mounted.files("vda").join("late").exists(),
        "it needed no replay"
    );
    drop(original);
    mounted.end();

    let mounted = Mounted::new(&world, "web1", &[]);
    let late = fs::read(mounted.files("vda").join("late/file")).expect("it is there");
    assert_eq!(late, b"written just before");
    let original = HostMount::new(&world, "disk.raw", "rw");
    assert_same_files(&world, &original.path, &mounted.files("vda"));
    mounted.end();
    assert!(world.restored("web1") == before, "the snapshot changed");
}

#[test]
fn an_ext4_in_use_is_brought_to_rest_unless_it_is_not_wanted() {
    in_use("ext4", 64 * MIB, "ro,noload");
}

#[test]
fn an_xfs_in_use_is_brought_to_rest_unless_it_is_not_wanted() {
    // Both are mounted at once with one id.
    let options = "ro,norecovery,nouuid";
    let world = World::new();
    format(&world, "xfs", "disk.raw", 320 * MIB);
    populate(&HostMount::new(&world, "disk.raw", "rw").path, 2);
    world.backup("disk.raw");
    let mounted = Mounted::new(&world, "web1", &[]);
    let original = HostMount::new(&world, "disk.raw", "ro,nouuid");
    assert_same_files(&world, &original.path, &mounted.files("vda"));
    drop(original);
    mounted.end();
    drop(world);

    let world = World::new();
    dirty(&world, "xfs", "disk.raw", 320 * MIB);
    world.backup("disk.raw");
    let mounted = Mounted::new(&world, "web1", &["--no-replay"]);
    let original = HostMount::new(&world, "disk.raw", options);
    assert_same_files(&world, &original.path, &mounted.files("vda"));
    assert!(
        !mounted.files("vda").join("late").exists(),
        "it needed no replay"
    );
    drop(original);
    mounted.end();
    let mounted = Mounted::new(&world, "web1", &[]);
    let late = fs::read(mounted.files("vda").join("late/file")).expect("it is there");
    assert_eq!(late, b"written just before");
    let original = HostMount::new(&world, "disk.raw", "rw,nouuid");
    assert_same_files(&world, &original.path, &mounted.files("vda"));
    mounted.end();
}

#[test]
fn a_btrfs_is_mounted_unless_its_id_is() {
    let world = World::new();
    format(&world, "btrfs", "disk.raw", 160 * MIB);
    let original = HostMount::new(&world, "disk.raw", "rw");
    populate(&original.path, 3);
    world.tool("sync", &["--file-system", text(&original.path)]);
    world.tool(
        "cp",
        &["--archive", text(&original.path), text(&world.path("copy"))],
    );
    world.tool("cp", &["--sparse=always", "disk.raw", "other.raw"]);
    world.backup("other.raw");
    let refused = world.run(["mount", "web1", "at"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    fs::create_dir(world.path("at")).expect("a folder can be made");
    world
        .run(["mount", "web1", "at"])
        .refused(1, "a btrfs with the same id is mounted");
    drop(original);

    let mounted = Mounted::new(&world, "web1", &[]);
    assert_same_files(&world, &world.path("copy"), &mounted.files("vda"));
    mounted.end();
    // The kernel has forgotten it: an older state can be mounted next.
    Mounted::new(&world, "web1", &["--no-replay"]).end();
}

/// A disk with an ext4, swap space and an xfs.
fn partitioned(world: &World, name: &str) {
    let parts = [
        ("ext4", 2048, 64),
        ("swap", 133_120, 4),
        ("xfs", 141_312, 320),
    ];
    let file = fs::File::create(world.path(name)).expect("a file can be made");
    file.set_len(400 * MIB).expect("a file can grow");
    let lines = parts.map(|(_, start, mib)| format!("start={start},size={mib}MiB"));
    let script = world.path("script");
    fs::write(&script, format!("label:gpt\n{}\n", lines.join("\n"))).expect("there is space");
    world.tool("sh", &["-c", &format!("sfdisk -q {name} < script")]);
    for (kind, start, mib) in parts {
        let part = format!("{name}.{kind}");
        if kind == "swap" {
            let file = fs::File::create(world.path(&part)).expect("a file can be made");
            file.set_len(mib * MIB).expect("a file can grow");
            world.tool("mkswap", &["-q", &part]);
        } else {
            format(world, kind, &part, mib * MIB);
            populate(&HostMount::new(world, &part, "rw").path, mib);
        }
        let (input, output) = (format!("if={part}"), format!("of={name}"));
        let seek = format!("seek={start}");
        let args = ["bs=512", "conv=notrunc,sparse", "status=none"];
        world.tool("dd", &[&args, &[&*input, &*output, &*seek][..]].concat());
    }
}

#[test]
fn partitions_are_mounted_below_the_folder_all_or_one() {
    let world = World::new();
    partitioned(&world, "disk.raw");
    world.backup("disk.raw");
    let mounted = Mounted::new(&world, "web1", &[]);
    assert_eq!(mounted.place("p1"), "p1");
    assert_eq!(mounted.place("p3"), "p3");
    let skipped = &mounted.report["skipped"];
    assert_eq!(skipped[0]["volume"], "p2", "{skipped}");
    assert_eq!(skipped[0]["kind"], "swap", "{skipped}");
    for (part, options, name) in [("ext4", "ro", "p1"), ("xfs", "ro,nouuid", "p3")] {
        let original = HostMount::new(&world, &format!("disk.raw.{part}"), options);
        assert_same_files(&world, &original.path, &mounted.path().join(name));
    }
    assert!(fs::create_dir(mounted.path().join("new")).is_err());
    mounted.end();

    let mounted = Mounted::new(&world, "web1:vdap3", &[]);
    let original = HostMount::new(&world, "disk.raw.xfs", "ro,nouuid");
    assert_same_files(&world, &original.path, &mounted.files("p3"));
    drop(original);
    mounted.end();

    world.run(["mount", "web1:vdap2", "at"]).refused(1, "swap");
    let none = world.run(["mount", "web1:vdap7", "at"]);
    none.refused(2, "vdap1, vdap2, vdap3");
    world.run(["mount", "web1:vdb", "at"]).refused(2, "vdb");
    let path = world.run(["mount", "web1:vdap1/etc", "at"]);
    path.refused(2, "leave the path out");
}

#[test]
fn several_disks_are_told_apart_by_name() {
    let world = World::new();
    partitioned(&world, "a.raw");
    format(&world, "ext4", "b.raw", 32 * MIB);
    populate(&HostMount::new(&world, "b.raw", "rw").path, 9);
    world.json([
        "backup",
        "web1",
        "--disk",
        "vda=a.raw",
        "--disk",
        "vdb=b.raw",
    ]);
    let mounted = Mounted::new(&world, "web1", &[]);
    for volume in ["vdap1", "vdap3", "vdb"] {
        assert_eq!(mounted.place(volume), volume);
    }
    let original = HostMount::new(&world, "b.raw", "ro");
    assert_same_files(&world, &original.path, &mounted.path().join("vdb"));
    mounted.end();
    let mounted = Mounted::new(&world, "web1:vdb", &[]);
    assert_eq!(mounted.place("vdb"), "vdb");
    mounted.end();
}

#[test]
fn logical_volumes_are_mounted_and_the_host_learns_of_none() {
    let world = World::new();
    let [root, home] = logical_volumes(&world, "disk.raw", "web");
    world.backup("disk.raw");
    let mounted = Mounted::new(&world, "web1", &[]);
    for (volume, image) in [("web--vg-root", root), ("web--vg-home", home)] {
        assert_eq!(mounted.place(volume), volume);
        let original = HostMount::new(&world, &image, "ro");
        assert_same_files(&world, &original.path, &mounted.path().join(volume));
    }
    let skipped = &mounted.report["skipped"];
    assert_eq!(skipped[0]["kind"], "LVM2_member", "{skipped}");
    // No block device holds the physical volume, so no rule of the host's can activate it.
    let devices = world.tool("blkid", &["--probe", "--output", "value", "disk.raw"]);
    assert!(
        devices.contains("LVM2_member"),
        "the disk is one: {devices}"
    );
    for device in fs::read_dir("/sys/block").expect("listed").flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file"));
        let run = format!("/{}-0/volumes/vda", mounted.pid());
        assert!(!file.unwrap_or_default().contains(&run));
    }
    mounted.end();
    let mounted = Mounted::new(&world, "web1:vda:web-vg/home", &[]);
    assert_eq!(mounted.place("web--vg-home"), "web--vg-home");
    mounted.end();
}

#[test]
fn what_cannot_be_mounted_leaves_nothing() {
    let world = World::new();
    let before = kernel_mounts();
    world.raw("noise.raw", &crate::world::disk(5, 4 * MIB));
    world.backup("noise.raw");
    fs::create_dir(world.path("at")).expect("a folder can be made");
    world
        .run(["mount", "web1", "at"])
        .refused(1, "nothing to mount");
    // A file system by its looks, and none by its content.
    format(&world, "ext4", "torn.raw", 64 * MIB);
    let mut bytes = fs::read(world.path("torn.raw")).expect("the image can be read");
    for byte in &mut bytes[4096..MIB as usize] {
        *byte = 0xff;
    }
    fs::write(world.path("torn.raw"), bytes).expect("there is space");
    world.backup("torn.raw");
    world.run(["mount", "web1", "at"]).refused(1, "mount: ");
    world.run(["mount", "web1", "none"]).refused(1, "none");
    assert_eq!(kernel_mounts(), before);
}

/// Returns whether a user of this machine with this number can read a file.
fn can_read(id: u32, file: &Path) -> bool {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={id}"), format!("--regid={id}")]);
    command.args(["--clear-groups", "cat"]).arg(file);
    let ran = command.output().expect("setpriv (package util-linux) runs");
    ran.status.success()
}

#[test]
fn other_users_get_in_only_if_that_is_wanted() {
    let world = World::new();
    format(&world, "ext4", "disk.raw", 32 * MIB);
    let original = HostMount::new(&world, "disk.raw", "rw");
    let theirs = original.path.join("theirs");
    fs::write(&theirs, "private").expect("there is space");
    fs::write(original.path.join("open"), "for all").expect("there is space");
    world.tool("chmod", &["0600", text(&theirs)]);
    world.tool("chown", &["1000:1000", text(&theirs)]);
    drop(original);
    world.backup("disk.raw");
    // All folders on the way are open, but for the mount's own.
    world.tool("chmod", &["a+x", text(&world.path("."))]);

    let mounted = Mounted::new(&world, "web1", &[]);
    let files = mounted.files("vda");
    assert!(can_read(0, &files.join("theirs")));
    assert!(!can_read(1000, &files.join("theirs")));
    assert!(!can_read(1000, &files.join("open")));
    mounted.end();

    let mounted = Mounted::new(&world, "web1", &["--allow-other"]);
    assert!(can_read(1000, &files.join("theirs")));
    assert!(can_read(1001, &files.join("open")));
    assert!(!can_read(1001, &files.join("theirs")));
    mounted.end();
}

#[test]
fn only_root_mounts() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let program = folder.path().join("cairn");
    fs::copy(env!("CARGO_BIN_EXE_cairn"), &program).expect("there is space");
    world.tool("chmod", &["a+rx", text(folder.path()), text(&program)]);
    for args in [&["mount", "web1", "at"][..], &["umount", "at"]] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(args)
            .env("CAIRN_REPOSITORY", world.repository());
        let ran = Ran::of(&mut command);
        ran.refused(2, "only root");
        assert!(ran.err.contains("cairn get"), "{ran:?}");
    }
}
