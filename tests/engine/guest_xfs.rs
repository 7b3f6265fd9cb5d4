//! XFS is read as the kernel shows it, of every kind that is made, unclean logs included.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::guest::tree::GuestError;
use cairn_engine::guest::xfs;

use crate::guest_truth::{
    Disk, POPULATE, Tree, assert_same, image, kernel_mount, of_kernel, of_reader, run, script,
};

/// The least that `mkfs.xfs` takes.
const SIZE: u64 = 400 << 20;

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = image(folder.join("image"), SIZE);
    let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    let args = [&[OsStr::new("-q")], &options[..], &[image.as_os_str()]].concat();
    run("xfsprogs", "mkfs.xfs", &args);
    image
}

/// What the kernel shows; lists that control access once, not also under the name they have on
/// the disk.
fn kernel(root: &Path) -> Tree {
    let mut tree = of_kernel(root);
    for seen in tree.values_mut() {
        seen.attributes
            .retain(|name, _| !name.starts_with(b"trusted.SGI_ACL_"));
    }
    tree
}

/// Extents enough for a tree of two levels, values in blocks of their own.
const MORE: &str = r#"
    python3 - <<'END'
import os
f = os.open("special/fragments", os.O_CREAT | os.O_WRONLY)
for i in range(3000): os.pwrite(f, b"%d" % i, i * 16384)
os.close(f)
for i in range(40): os.setxattr("special/random", "user.remote%d" % i, os.urandom(900 * i))
for i in range(600):
    os.setxattr("special/packs", "user.a long name of one of many attributes %d" % i, b"v" * 90)
END
    setfattr -n user.remote -v "$(printf 'v%.0s' {1..60000})" special/random
"#;

fn same_as_kernel(options: &[&str], script_more: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), options);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, &format!("{POPULATE}{MORE}{script_more}"));
    drop(mounted);
    let mounted = kernel_mount(&image, &["-o", "ro"]);
    let truth = kernel(&mounted.path);
    drop(mounted);
    let fs = xfs::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    assert_same(&truth, &of_reader(&*fs), &format!("{options:?}"));
}

#[test]
fn the_usual_kind() {
    same_as_kernel(
        &[],
        "cp --reflink=always special/random special/reflink
         printf change | dd of=special/reflink bs=1 seek=100000 conv=notrunc status=none
         touch -d '2200-01-01 00:00:00.5' special/far-future",
    );
}

#[test]
fn large_counts_and_large_inodes() {
    same_as_kernel(&["-i", "size=2048,nrext64=1"], "");
}

#[test]
fn small_blocks_and_folders_of_several() {
    same_as_kernel(
        &["-m", "bigtime=0", "-b", "size=1024", "-n", "size=16384"],
        "",
    );
}

/// Copies an image while its file system is in use, shows one copy to the kernel and another to
/// the reader.
fn unclean(shut_down: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &[]);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, &format!("{POPULATE}{MORE}sync"));
    script(
        &mounted.path,
        &format!(
            "rm -r terminfo; mv odd/empty odd/renamed; cp -a etc/. etc2; chmod 600 special/lines
             for i in {{1..2000}}; do rm \"many/file number $i of a folder with many\"; done
             setfattr -n user.late -v 1 special/lines; ln special/lines special/lines2
             ln -s {} special/new-link; truncate -s 12345 special/random
             mkdir new; for i in {{1..300}}; do echo $i > new/$i; done
             {shut_down}",
            "t".repeat(700)
        ),
    );
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    fs::copy(&image, &ours).expect("an image can be copied");
    fs::copy(&ours, &theirs).expect("an image can be copied");
    drop(mounted);
    let fs = xfs::open(Disk::open(&ours)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    let seen = of_reader(&*fs);
    assert!(!seen.contains_key(&b"terminfo"[..]), "nothing was replayed");
    let replayed = kernel_mount(&theirs, &["-o", "nouuid"]);
    assert_same(&kernel(&replayed.path), &seen, shut_down);
}

#[test]
fn a_log_in_use_is_replayed() {
    unclean("xfs_io -c 'fsync' special/lines");
}

#[test]
fn a_log_of_a_crash_is_replayed() {
    unclean("xfs_io -x -c 'shutdown -f' .");
}

/// Where the log of an image starts, by its superblock.
fn log_offset(bytes: &[u8]) -> usize {
    let be64 = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let be32 = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let (block, group_log) = (be64(48), bytes[124]);
    let within = block & ((1 << group_log) - 1);
    let linear = (block >> group_log) * u64::from(be32(84)) + within;
    usize::try_from(linear * u64::from(be32(4))).expect("test images are small")
}

#[test]
fn a_log_that_cannot_be_replayed_is_told() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &[]);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, "mkdir first");
    drop(mounted);
    let mounted = kernel_mount(&image, &[]);
    script(
        &mounted.path,
        "for i in {1..40}; do mkdir d$i; xfs_io -c fsync d$i; done
         xfs_io -x -c 'shutdown -f' .",
    );
    drop(mounted);
    let mut bytes = fs::read(&image).expect("an image can be read");
    let log = log_offset(&bytes);
    let records = (0..2000).map(|number| log + number * 512);
    let mut records = records.filter(|at| bytes[*at..].starts_with(&[0xfe, 0xed, 0xba, 0xbe]));
    // Far from the end of the log, where no write that was torn can be.
    let record = records.nth(12).expect("a log of many records");
    bytes[record + 700] ^= 1;
    fs::write(&image, &bytes).expect("an image can be written");
    let fs = xfs::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats().len(), 1);
    assert!(fs.lookup(fs.root(), b"first").is_ok());
}

/// The kernel at hand may not know version 4, so `mkfs.xfs` itself fills the file system.
#[test]
fn version_4() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let content = folder.path().join("content");
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&content, &bytes).expect("a file can be written");
    let target = "long/".repeat(150);
    let mut proto = String::from("/nothing\n0 0\nd--755 1 2\n");
    let file = content.display();
    proto += &format!("file -ug751 70000 80000 {file}\nlink l--777 0 0 {target}\n");
    proto += "short l--777 0 0 here\nfifo p--640 5 6\nblock b--600 0 0 8 77\nmany d--700 0 0\n";
    for number in 0..1500 {
        proto += &format!("file-number-{number:0100} ---600 {number} 0 /dev/null\n");
    }
    proto += "$\n$\n";
    let list = folder.path().join("list");
    fs::write(&list, proto).expect("a file can be written");
    let list = list.display().to_string();
    let image = make(
        folder.path(),
        &["-m", "crc=0", "-b", "size=512", "-p", &list],
    );
    let fs = xfs::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    let seen = of_reader(&*fs);
    assert_eq!(seen.len(), 1507);
    assert_eq!(seen[&b"file"[..]].content, Some(blake3::hash(&bytes)));
    assert_eq!(seen[&b"file"[..]].mode, Some(0o6751));
    assert_eq!(seen[&b"file"[..]].owner, Some((70000, 80000)));
    assert_eq!(seen[&b"link"[..]].target, target.as_bytes());
    assert_eq!(seen[&b"short"[..]].target, b"here");
    assert_eq!(seen[&b"fifo"[..]].kind, "Fifo");
    let device = rustix::fs::makedev(8, 77);
    assert_eq!(seen[&b"block"[..]].kind, format!("BlockDevice({device})"));
    for number in 0..1500 {
        let path = format!("many/file-number-{number:0100}").into_bytes();
        assert_eq!(seen[&path].owner, Some((number, 0)));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let log = crate::guest_truth::image(folder.path().join("log"), 100 << 20);
    let log = format!("logdev={}", log.display());
    let image = make(folder.path(), &["-l", &log]);
    let error = xfs::open(Disk::open(&image))
        .err()
        .expect("it has no log of its own");
    assert!(matches!(error, GuestError::Unsupported { .. }), "{error:?}");
    assert!(!xfs::is(b"XFS"));
    assert!(xfs::is(b"XFSB and so on"));
}
