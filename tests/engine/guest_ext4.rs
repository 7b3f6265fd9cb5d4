//! ext2, ext3 and ext4 are read as the kernel shows them, of every kind that is made, unclean
//! journals included.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_engine::guest::ext4;
use cairn_engine::guest::tree::GuestError;

use crate::guest_truth::{
    Disk, POPULATE, assert_same, image, kernel_mount, of_kernel, of_reader, run, script,
};
use crate::support::waiting::PATIENCE;

const SIZE: u64 = 300 << 20;

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = image(folder.join("image"), SIZE);
    let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    let args = [&[OsStr::new("-qF")], &options[..], &[image.as_os_str()]].concat();
    run("e2fsprogs", "mkfs.ext4", &args);
    image
}

/// More than one list of blocks, a tree of extents of two levels, and no more attributes than one
/// small block holds.
fn populate() -> String {
    let all = POPULATE
        .replace("{1..60}; do setfattr", "{1..4}; do setfattr")
        .replace("{1..3000}", "{1..300}")
        .replace(
            "fallocate -l",
            "fallocate -l 3M allocated 2>/dev/null || truncate -s",
        );
    let more = r#"
    python3 - <<'END'
import os
f = os.open("special/fragments", os.O_CREAT | os.O_WRONLY)
for i in range(2500): os.pwrite(f, b"%d" % i, i * 16384)
os.pwrite(f, b"far", 1 << 30)
os.close(f)
END
    touch -d '2300-01-01 00:00:00.5' special/far-future 2>/dev/null || true
"#;
    all + more
}

/// Attributes that only inodes of their own can hold.
const LARGE_ATTRIBUTES: &str = r#"
    setfattr -n user.larger -v "$(printf 'v%.0s' {1..30000})" special/random
    for i in {1..10}; do setfattr -n "user.more$i" -v "$(printf "$i%.0s" {1..90})" odd/empty; done
"#;

fn same_as_kernel(options: &[&str], mount: &[&str], kind: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), options);
    let mounted = kernel_mount(&image, mount);
    script(&mounted.path, &populate());
    if options.iter().any(|option| option.contains("ea_inode")) {
        script(&mounted.path, LARGE_ATTRIBUTES);
    }
    drop(mounted);
    let mounted = kernel_mount(&image, &["-o", "ro"]);
    let truth = of_kernel(&mounted.path);
    drop(mounted);
    let fs = ext4::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    assert_eq!(fs.kind(), kind);
    assert_same(&truth, &of_reader(&*fs), &format!("{options:?}"));
}

#[test]
fn the_usual_kind() {
    same_as_kernel(&["-b", "4096"], &[], "ext4");
}

#[test]
fn content_and_folders_in_inodes() {
    let options = [
        "-O",
        "inline_data,ea_inode,large_dir",
        "-I",
        "512",
        "-b",
        "4096",
    ];
    same_as_kernel(&options, &[], "ext4");
}

#[test]
fn small_blocks_and_scattered_descriptors() {
    let options = [
        "-b",
        "1024",
        "-O",
        "meta_bg,^resize_inode,^metadata_csum,^64bit",
    ];
    same_as_kernel(&options, &[], "ext4");
    same_as_kernel(
        &["-O", "meta_bg,^resize_inode,sparse_super2", "-g", "2048"],
        &[],
        "ext4",
    );
}

#[test]
fn clusters_of_blocks() {
    same_as_kernel(
        &["-b", "4096", "-O", "bigalloc", "-C", "16384"],
        &[],
        "ext4",
    );
}

#[test]
fn older_kinds_with_short_inodes() {
    same_as_kernel(&["-t", "ext2", "-I", "128"], &["-t", "ext4"], "ext2");
    same_as_kernel(&["-t", "ext3", "-b", "2048"], &["-t", "ext4"], "ext3");
}

/// Copies an image while its file system is in use, shows one copy to the kernel and another to
/// the reader.
fn unclean(options: &[&str], mount: &[&str], end: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), options);
    let mounted = kernel_mount(&image, mount);
    script(&mounted.path, &format!("{}\nsync", populate()));
    let changes = format!(
        "rm -r terminfo; mv odd/empty odd/renamed; cp -a etc/. etc2; chmod 600 special/lines
         for i in {{1..2000}}; do rm \"many/file number $i of a folder with many\"; done
         setfattr -n user.late -v 1 special/lines; ln special/lines special/lines2
         ln -s {} special/new-link; truncate -s 12345 special/random
         mkdir new; for i in {{1..300}}; do echo $i > new/$i; done
         printf '\\xc0\\x3b\\x39\\x98 as the journal begins its own' > new/escaped
         {end}",
        "t".repeat(700)
    );
    script(&mounted.path, &changes);
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    fs::copy(&image, &ours).expect("an image can be copied");
    fs::copy(&ours, &theirs).expect("an image can be copied");
    drop(mounted);
    let fs = ext4::open(Disk::open(&ours)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    let seen = of_reader(&*fs);
    let replayed = kernel_mount(&theirs, &[]);
    let what = format!("{options:?} {mount:?} {end}");
    assert_same(&of_kernel(&replayed.path), &seen, &what);
    assert!(!seen.contains_key(&b"terminfo"[..]), "nothing was replayed");
}

#[test]
fn a_journal_in_use_is_replayed() {
    unclean(&[], &[], "sync");
}

#[test]
fn a_journal_cut_off_is_replayed() {
    unclean(&[], &[], "sync; xfs_io -x -c 'shutdown' .");
}

#[test]
fn a_journal_with_content_is_replayed() {
    unclean(
        &[],
        &["-o", "data=journal"],
        "sync; xfs_io -x -c 'shutdown' .",
    );
}

#[test]
fn journals_without_checksums_are_replayed() {
    unclean(&["-O", "^metadata_csum,^64bit"], &[], "sync");
    unclean(&["-t", "ext3"], &["-o", "data=journal"], "sync");
}

#[test]
fn a_damaged_block_of_a_journal_is_left_out_and_told() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &["-b", "4096"]);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, "seq 1000 > old; sync");
    script(
        &mounted.path,
        "mkdir new; seq 1000 > new/file; sync; seq 9 > last; sync",
    );
    let copy = folder.path().join("copy");
    fs::copy(&image, &copy).expect("an image can be copied");
    drop(mounted);
    let listed = Command::new("debugfs")
        .args(["-R", "blocks <8>"])
        .arg(&copy)
        .output();
    let listed = String::from_utf8(listed.expect("debugfs, of e2fsprogs").stdout).expect("text");
    let blocks: Vec<usize> = listed
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let mut bytes = fs::read(&copy).expect("an image can be read");
    let at = |index: usize| blocks[index] * 4096;
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    // The first transaction that counts; its descriptor is followed by what it describes.
    let start = word(at(0) + 0x1c) as usize;
    assert_eq!((word(at(start)), word(at(start) + 4)), (0xc03b_3998, 1));
    let block = at(start + 1);
    bytes[block + 100] ^= 1;
    fs::write(&copy, &bytes).expect("an image can be written");
    let fs = ext4::open(Disk::open(&copy)).expect("it can be opened");
    let caveats = fs.caveats();
    assert!(
        caveats.len() == 1 && caveats[0].contains("1 blocks whose checksums do not fit"),
        "{caveats:?}"
    );
}

#[test]
fn lists_that_repeat_without_end_are_walked_through() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &["-t", "ext2", "-b", "4096"]);
    let mounted = kernel_mount(&image, &["-t", "ext4"]);
    script(
        &mounted.path,
        "for i in 1 2 3; do head -c 4096 /dev/zero | tr '\\0' $i > $i; done",
    );
    drop(mounted);
    let debugfs = |requests: &str| {
        let mut words = vec![OsStr::new("-w")];
        words.extend(["-R", requests].map(OsStr::new));
        let output = Command::new("debugfs").args(words).arg(&image).output();
        String::from_utf8(output.expect("debugfs, of e2fsprogs").stdout).expect("text")
    };
    let block = |name: &str| -> u32 {
        let listed = debugfs(&format!("blocks {name}"));
        listed.trim().parse().expect("it has one block")
    };
    let lists = ["1", "2", "3"].map(block);
    // A list of lists of one list, which is empty: 2^30 blocks, by 2^20 lists.
    let mut bytes = fs::read(&image).expect("an image can be read");
    for (list, named) in lists.iter().zip([lists[1], lists[2], 0]) {
        let at = *list as usize * 4096;
        for entry in bytes[at..at + 4096].chunks_exact_mut(4) {
            entry.copy_from_slice(&named.to_le_bytes());
        }
    }
    fs::write(&image, &bytes).expect("an image can be written");
    debugfs(&format!("set_inode_field 1 block[TIND] {}", lists[0]));
    debugfs("set_inode_field 1 block[0] 0");
    debugfs("set_inode_field 1 size 0x3fffffffffff");
    let fs = ext4::open(Disk::open(&image)).expect("it can be opened");
    let file = fs.lookup(fs.root(), b"1").expect("it has a name");
    assert!(fs.stat(file).expect("it can be read").size > 1 << 45);
    let start = std::time::Instant::now();
    let mut runs = 0;
    let read = fs.read_file(file, &mut |_, _| {
        runs += 1;
        Ok(())
    });
    read.expect("it is a hole");
    assert_eq!(runs, 0);
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn fast_commits_are_not_passed_over_in_silence() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &["-O", "fast_commit"]);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, "seq 1000 > lines; sync");
    script(&mounted.path, "echo new > new; xfs_io -c fsync new");
    let copy = folder.path().join("copy");
    fs::copy(&image, &copy).expect("an image can be copied");
    drop(mounted);
    let fs = ext4::open(Disk::open(&copy)).expect("it can be opened");
    let has_file = fs.lookup(fs.root(), b"new").is_ok();
    let says_so = fs
        .caveats()
        .iter()
        .any(|caveat| caveat.contains("fast commits"));
    assert!(has_file || says_so, "{:?}", fs.caveats());
}

#[test]
fn encrypted_files_are_named_as_such() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &["-O", "encrypt"]);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, "mkdir secret; echo plain > plain");
    drop(mounted);
    // Sets the flag that the kernel sets with a key.
    let set = ["-w", "-R", "set_inode_field secret flags 0x80800"];
    let args = [&set.map(OsStr::new)[..], &[image.as_os_str()]].concat();
    run("e2fsprogs", "debugfs", &args);
    let fs = ext4::open(Disk::open(&image)).expect("it can be opened");
    let secret = fs.lookup(fs.root(), b"secret").expect("it has a name");
    let error = fs
        .read_folder(secret, &mut |_| true)
        .expect_err("it cannot be read");
    assert!(matches!(error, GuestError::Unsupported { .. }), "{error}");
    assert!(fs.lookup(fs.root(), b"plain").is_ok());
}
