//! NTFS is read as ntfs-3g shows it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::guest::ntfs;

use crate::guest_truth::{
    Disk, Tree, assert_same, image, kernel_mount, of_kernel, of_reader, run, script,
};

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = image(folder.join("image"), 200 << 20);
    let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    let args = [
        &["-q", "-F", "-Q"].map(OsStr::new),
        &options[..],
        &[image.as_os_str()],
    ]
    .concat();
    run("ntfs-3g", "mkntfs", &args);
    image
}

/// What is no part of NTFS is left out of what ntfs-3g makes up for it.
fn plain(mut tree: Tree) -> Tree {
    for seen in tree.values_mut() {
        (seen.mode, seen.owner) = (None, None);
        seen.attributes.clear();
        if seen.kind == "Folder" {
            (seen.size, seen.links) = (0, 0);
        }
        seen.size = if seen.kind == "File" { seen.size } else { 0 };
    }
    tree
}

const OPTIONS: &str = "special_files=wsl,compression,streams_interface=xattr";

fn same_as_ntfs_3g(options: &[&str], content: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), options);
    let mounted = kernel_mount(&image, &["-t", "ntfs-3g", "-o", OPTIONS]);
    script(&mounted.path, content);
    drop(mounted);
    let mounted = kernel_mount(&image, &["-t", "ntfs-3g", "-o", &format!("ro,{OPTIONS}")]);
    let truth = plain(of_kernel(&mounted.path));
    drop(mounted);
    let fs = ntfs::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    assert_eq!(
        fs.lookup(fs.root(), b"LINES").is_ok(),
        fs.lookup(fs.root(), b"lines").is_ok()
    );
    let mut seen = plain(of_reader(&*fs));
    // The file for bad blocks and its kin are hidden by the one, the top folder's times are not.
    seen.retain(|path, _| truth.contains_key(path) || !path.starts_with(b"$"));
    assert_same(&truth, &seen, &format!("{options:?}"));
}

const CONTENT: &str = r#"
    cp -r /usr/share/bash-completion .; mkdir many odd deep
    for i in {1..3000}; do : > "many/file number $i of a folder with many"; done
    printf x > "odd/$(printf 'l%.0s' {1..255})"; printf u > 'odd/Grüße ☃ 🐧'
    d=deep; for i in {1..40}; do d=$d/level$i; done; mkdir -p $d; echo bottom > $d/file
    printf data > original; ln original second; ln original odd/third
    touch -d '2001-02-03 04:05:06.7891234' original; touch -d '1999-12-31 23:59:59' odd
    truncate -s 50M holes; printf middle | dd of=holes bs=1 seek=30000001 conv=notrunc status=none
    seq 1 300000 > lines; head -c 3000000 /dev/urandom > random
    ln -s ../original odd/link; setfattr -n user.stream -v hidden lines
    for i in {1..1500}; do printf $i | dd of=one bs=4096 seek=$i conv=notrunc status=none
        printf $i | dd of=two bs=4096 seek=$i conv=notrunc status=none; done
"#;

#[test]
fn the_usual_kind() {
    same_as_ntfs_3g(&[], CONTENT);
}

#[test]
fn small_clusters() {
    same_as_ntfs_3g(&["-c", "512"], CONTENT);
}

#[test]
fn compressed_files() {
    same_as_ntfs_3g(
        &[],
        "mkdir packed; setfattr -h -v 0x00000800 -n system.ntfs_attrib_be packed
         seq 1 300000 > packed/lines; head -c 1000000 /dev/urandom > packed/random
         yes 'packs well' | head -c 2000000 > packed/packs || true; cp -r /etc/init.d packed
         head -c 300000 /dev/zero > packed/zeros; printf small > packed/small
         cat packed/lines packed/random packed/packs > packed/mixed
         test -n \"$(getfattr -h -e hex -n system.ntfs_attrib_be packed/lines | grep 8)\"",
    );
}

#[test]
fn a_volume_to_be_checked_is_told() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = make(folder.path(), &[]);
    let bytes = fs::read(&image).expect("an image can be read");
    // The record of $Volume, by its name; its flags stand behind the version, 3.1.
    let name = b"$\0V\0o\0l\0u\0m\0e\0";
    let name = bytes.windows(name.len()).position(|held| held == name);
    let record = name.expect("a volume has its record") & !1023;
    let flags = bytes[record..]
        .windows(4)
        .position(|held| held == [3, 1, 0, 0]);
    let flags = record + flags.expect("a volume has its flags") + 2;
    let mut dirty = bytes.clone();
    dirty[flags] |= 1;
    fs::write(&image, &dirty).expect("an image can be written");
    let fs = ntfs::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats().len(), 1);
    assert!(ntfs::is(&bytes[..512]));
    assert!(!ntfs::is(&bytes[1..512]));
}
