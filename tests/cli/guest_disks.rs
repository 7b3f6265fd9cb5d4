//! Disks with file systems in them, made and looked at by the kernel. Needs root.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::mounts::{LoopDevice, MountedImage};
use crate::world::{MIB, World, text};

/// A file system of the host's kernel, mounted for as long as this lives.
pub struct HostMount {
    pub path: PathBuf,
    _mounted: MountedImage,
}

impl HostMount {
    /// Mounts an image at a folder of its own.
    #[track_caller]
    pub fn new(world: &World, image: &str, options: &str) -> Self {
        Self::attempt(world, image, options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Mounts an image that the kernel may refuse; returns what mount says then.
    #[track_caller]
    pub fn attempt(world: &World, image: &str, options: &str) -> Result<Self, String> {
        let path = world.path(&format!("{image}.mounted"));
        let mounted = MountedImage::attempt(&world.path(image), &path, &["-o", options])?;
        Ok(Self {
            path,
            _mounted: mounted,
        })
    }
}

/// Makes an image with an empty file system of the kind.
pub fn format(world: &World, kind: &str, image: &str, len: u64) {
    let file = File::create(world.path(image)).expect("a file can be made");
    file.set_len(len).expect("a file can grow");
    let quiet: &[&str] = if kind == "ext4" { &["-F"] } else { &[] };
    let program = format!("mkfs.{kind}");
    world.tool(&program, &[&["-q"], quiet, &[image]].concat());
}

/// Writes files of many kinds and sizes.
pub fn populate(folder: &Path, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..40 {
        let inner = folder.join(format!("folder {}", number % 5));
        fs::create_dir_all(&inner).expect("a folder can be made");
        let mut bytes = vec![0; random.usize(0..300_000)];
        random.fill(&mut bytes);
        let path = inner.join(format!("file {number}"));
        fs::write(&path, &bytes).expect("there is space");
        std::os::unix::fs::symlink(&path, inner.join(format!("link {number}")))
            .expect("a link can be made");
    }
    fs::hard_link(folder.join("folder 0/file 0"), folder.join("again"))
        .expect("a link can be made");
}

/// Makes an image of a file system in the middle of its work, as a disk looks when the power goes:
/// `late` was made durable through the journal and nowhere else.
pub fn dirty(world: &World, kind: &str, image: &str, len: u64) {
    let live = format!("{image}.live");
    format(world, kind, &live, len);
    let mounted = HostMount::new(world, &live, "rw");
    populate(&mounted.path, 40);
    world.tool("sync", &["--file-system", text(&mounted.path)]);
    let late = mounted.path.join("late");
    fs::create_dir(&late).expect("a folder can be made");
    let mut file = File::create(late.join("file")).expect("a file can be made");
    file.write_all(b"written just before")
        .expect("there is space");
    file.sync_data().expect("the file can be synced");
    world.tool("cp", &["--sparse=always", &live, image]);
    drop(file);
    drop(mounted);
    fs::remove_file(world.path(&live)).expect("the image can be removed");
}

/// Fails unless both folders hold the same: names, contents, kinds, modes, owners, times, links.
#[track_caller]
pub fn assert_same_files(world: &World, a: &Path, b: &Path) {
    world.tool("diff", &["-r", "--no-dereference", text(a), text(b)]);
    let (a, b) = (listing(world, a), listing(world, b));
    let differing = a.symmetric_difference(&b).collect::<Vec<_>>();
    assert!(differing.is_empty(), "{differing:#?}");
}

fn listing(world: &World, folder: &Path) -> BTreeSet<String> {
    // Sizes and link counts of folders are the file system's own business.
    let form = "%P %y %m %U %G %T@\n";
    let folders = world.tool("find", &[text(folder), "-type", "d", "-printf", form]);
    let form = "%P %y %m %U %G %T@ %l %n %s\n";
    let others = world.tool("find", &[text(folder), "!", "-type", "d", "-printf", form]);
    folders
        .lines()
        .chain(others.lines())
        .map(Into::into)
        .collect()
}

/// Length of LVM's extents, and of what stands before the first.
const EXTENT: u64 = 4 * MIB;
const EXTENTS_BEGIN: u64 = MIB;

/// Makes a disk that is a physical volume of the group `name-vg`, with an ext4 each on the logical
/// volumes `root`, which lies in two pieces, and `home`. Returns the images of both.
pub fn logical_volumes(world: &World, image: &str, name: &str) -> [String; 2] {
    let file = File::create(world.path(image)).expect("a file can be made");
    file.set_len(100 * MIB).expect("a file can grow");
    let attached = LoopDevice::attach(&world.path(image), &[]);
    let device = text(attached.path());
    let group = format!("{name}-vg");
    let lvm = |command: &str, args: &[&str]| {
        // Nothing but the metadata is wanted: no device mapper, no other device, no backups.
        let all = ["--driverloaded", "n", "--devices", device, "--config"];
        let config = "backup{backup=0 archive=0} activation{udev_sync=0 udev_rules=0}";
        world.tool(command, &[&all, &[config][..], args].concat());
    };
    let make = |volume, len| {
        let args = ["-an", "-Zn", "-Wn", "-n", volume, "-L", len, &group];
        lvm("lvcreate", &args);
    };
    lvm("pvcreate", &[device]);
    lvm("vgcreate", &[&group, device]);
    make("root", "40M");
    make("home", "20M");
    lvm("lvextend", &["-L", "60M", &format!("{group}/root")]);
    drop(attached);

    // Extents of the disk with where they stand in the volume.
    let pieces = [("root", 0, 0, 10), ("root", 10, 15, 5), ("home", 0, 10, 5)];
    let images = [("root", 60), ("home", 20)].map(|(volume, mib)| {
        let part = format!("{name}.{volume}.raw");
        format(world, "ext4", &part, mib * MIB);
        populate(&HostMount::new(world, &part, "rw").path, mib);
        let bytes = fs::read(world.path(&part)).expect("the image can be read");
        for (_, from, to, count) in pieces.into_iter().filter(|piece| piece.0 == volume) {
            let at = |extent: u64| usize::try_from(extent * EXTENT).expect("it is small");
            let piece = &bytes[at(from)..at(from + count)];
            let disk = File::options().write(true).open(world.path(image));
            let disk = disk.expect("the disk can be opened");
            disk.write_all_at(piece, EXTENTS_BEGIN + to * EXTENT)
                .expect("there is space");
        }
        part
    });
    drop(file);
    images
}
