//! Btrfs is read as the kernel mounts it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::guest::btrfs;
use cairn_engine::guest::path::{LastLink, resolve};
use cairn_engine::guest::tree::GuestError;

use crate::guest_truth::{
    Disk, POPULATE, assert_same, image, kernel_mount, of_kernel, of_reader, run, script,
};

const SIZE: u64 = 320 << 20;

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = image(folder.join("image"), SIZE);
    let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    let args = [&[OsStr::new("-q")], &options[..], &[image.as_os_str()]].concat();
    run("btrfs-progs", "mkfs.btrfs", &args);
    image
}

fn same_as_kernel(options: &[&str], mount: &[&str], more: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), options);
    let mounted = kernel_mount(&image, mount);
    script(&mounted.path, &format!("{POPULATE}{more}"));
    drop(mounted);
    let mounted = kernel_mount(&image, &["-o", "ro"]);
    let mut truth = of_kernel(&mounted.path);
    drop(mounted);
    let fs = btrfs::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    let mut seen = of_reader(&*fs);
    for tree in [&mut truth, &mut seen] {
        // The kernel makes up the times of folders that stand for subvolumes, and all of these
        // share one inode there.
        for (path, seen) in tree {
            if path.ends_with(b"inner") && path.starts_with(b"snapshot") {
                (seen.modified, seen.first) = ((0, 0), Vec::new());
            }
        }
    }
    assert_same(&truth, &seen, &format!("{options:?} {mount:?}"));
}

#[test]
fn the_usual_kind() {
    same_as_kernel(
        &[],
        &[],
        "cp --reflink=always special/random special/reflink
         printf change | dd of=special/reflink bs=1 seek=100000 conv=notrunc status=none
         touch -d '2200-01-01 00:00:00.5' special/far-future
         for i in {1..2000}; do printf $i | dd of=special/fragments bs=8192 seek=$i conv=notrunc \
            status=none; done",
    );
}

#[test]
fn compressed_with_zstd() {
    same_as_kernel(&[], &["-o", "compress-force=zstd"], "");
}

#[test]
fn compressed_with_zlib() {
    same_as_kernel(&["-n", "4096", "-M"], &["-o", "compress-force=zlib"], "");
}

#[test]
fn compressed_with_lzo() {
    same_as_kernel(
        &["--csum", "xxhash", "-n", "65536"],
        &["-o", "compress-force=lzo"],
        "truncate -s 4000000 special/packs
         btrfs property set special/lines compression zstd",
    );
}

#[test]
fn subvolumes_are_folders_at_their_places() {
    same_as_kernel(
        &[],
        &[],
        "btrfs -q subvolume create outer; echo 1 > outer/file; mkdir outer/folder
         btrfs -q subvolume create outer/folder/inner; echo 2 > outer/folder/inner/file
         ln outer/file outer/folder/link
         btrfs -q subvolume snapshot outer snapshot; echo 3 > outer/file
         btrfs -q subvolume snapshot -r outer/folder/inner readonly
         btrfs -q subvolume create gone; btrfs -q subvolume delete gone",
    );
}

#[test]
fn the_default_subvolume_is_the_top() {
    same_as_kernel(
        &[],
        &[],
        "btrfs -q subvolume create root; echo inside > root/file
         btrfs -q subvolume create root/home; echo at home > root/home/file
         btrfs -q subvolume set-default root",
    );
}

#[test]
fn what_lies_beside_the_default_subvolume_is_reached() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &[]);
    let mounted = kernel_mount(&image, &[]);
    script(
        &mounted.path,
        "btrfs -q subvolume create @; btrfs -q subvolume create @/home; echo me > @/home/file
         mkdir @/.snapshots; btrfs -q subvolume create @/.snapshots/snapshot
         cd @/.snapshots/snapshot; echo inside > file; ln -s /file link
         btrfs -q subvolume set-default .",
    );
    drop(mounted);
    let whole = kernel_mount(&image, &["-o", "ro,subvolid=5"]);
    let truth = of_kernel(&whole.path);
    drop(whole);
    let fs = btrfs::open(Disk::open(&image)).expect("it can be opened");
    let mut names = Vec::new();
    let listed = fs.read_folder(fs.root(), &mut |entry| {
        names.push(entry.name);
        true
    });
    listed.expect("it can be read");
    assert_eq!(
        names,
        [&b"file"[..], b"link"],
        "the default subvolume alone"
    );
    let find = |path: &str| resolve(&*fs, path.as_bytes(), LastLink::Follow);
    let hidden = find("/.btrfs").expect("it is there").id;
    assert_eq!(btrfs::hidden_top(&*fs), Some(hidden));
    for path in truth.keys().filter(|path| !path.is_empty()) {
        let path = format!("/.btrfs/{}", String::from_utf8_lossy(path));
        assert!(find(&path).is_ok(), "{path}");
    }
    let home = find("/.btrfs/@/home/file").expect("it is there").id;
    assert_eq!(fs.stat(home).expect("it can be read").size, 3);
    // The default subvolume is one thing, whichever way leads there.
    let nested = find("/.btrfs/@/.snapshots/snapshot")
        .expect("it is there")
        .id;
    assert_eq!(nested, fs.root());
    assert!(find("/@").is_err());
}

#[test]
fn a_log_that_is_not_replayed_is_told() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &[]);
    let mounted = kernel_mount(&image, &["-o", "commit=300"]);
    script(&mounted.path, "echo old > file; sync; echo more >> other");
    let before = folder.path().join("before");
    fs::copy(&image, &before).expect("an image can be copied");
    script(&mounted.path, "echo new > file; xfs_io -c fsync file");
    let after = folder.path().join("after");
    fs::copy(&image, &after).expect("an image can be copied");
    drop(mounted);
    let fs = btrfs::open(Disk::open(&before)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    let kernel = kernel_mount(&before, &[]);
    assert_same(
        &of_kernel(&kernel.path),
        &of_reader(&*fs),
        "as last committed",
    );
    drop(kernel);
    let fs = btrfs::open(Disk::open(&after)).expect("it can be opened");
    assert_eq!(fs.caveats().len(), 1);
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let second = image(folder.path().join("second"), SIZE);
    let second = second.display().to_string();
    let image = make(folder.path(), &["-d", "raid0", "-m", "raid0", &second]);
    let error = btrfs::open(Disk::open(&image))
        .err()
        .expect("half of it is missing");
    assert!(matches!(error, GuestError::Unsupported { .. }), "{error:?}");
    let start = fs::read(&image).expect("an image can be read");
    assert!(btrfs::is(&start[..68 << 10]));
    assert!(!btrfs::is(&start[..64 << 10]));
}
