//! FAT is read as mtools wrote it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use cairn_engine::guest::fat;
use cairn_engine::guest::tree::GuestError;

use crate::guest_truth::{Disk, Tree, assert_same, image, of_kernel, of_reader, run, script};

const CONTENT: &str = r#"
    mkdir -p many odd deep; cp -r /usr/share/bash-completion/completions/[ab]* odd
    find odd -type l -delete
    for i in {1..250}; do : > "many/file number $i of a folder with many"; done
    printf x > "odd/$(printf 'l%.0s' {1..250})"; printf u > 'odd/Grüße aus.der.Ferne'
    printf s > odd/SHORT.TXT; printf l > odd/lower.txt; printf m > odd/Mixed.Txt; : > odd/empty
    d=deep; for i in {1..8}; do d=$d/level$i; done; mkdir -p $d; echo bottom > $d/file
    seq 1 60000 > lines; head -c 700001 /dev/urandom > random
    find . -exec touch -d '2001-02-03 04:05:06' {} +; touch -d '2099-12-31 23:59:58' lines
"#;

fn plain(mut tree: Tree) -> Tree {
    for seen in tree.values_mut() {
        (seen.mode, seen.owner, seen.links) = (None, None, 0);
        seen.attributes.clear();
        if seen.kind == "Folder" {
            // mtools gives folders the time of the copy.
            (seen.size, seen.modified) = (0, (0, 0));
        }
    }
    tree
}

fn same_as_written(size: u64, options: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder can be made");
    script(&source, CONTENT);
    let image = image(folder.path().join("image"), size);
    let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    run(
        "dosfstools",
        "mkfs.fat",
        &[&options[..], &[image.as_os_str()]].concat(),
    );
    write(&image, &source);
    let fs = fat::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats(), [""; 0]);
    let odd = fs.lookup(fs.root(), b"oDD").expect("case does not matter");
    assert!(fs.lookup(odd, b"short.txt").is_ok());
    assert!(fs.lookup(odd, b"short.txx").is_err());
    let (truth, seen) = (plain(of_kernel(&source)), plain(of_reader(&*fs)));
    assert_same(&truth, &seen, &format!("{options:?}"));
}

fn write(image: &Path, source: &Path) {
    script(
        source,
        &format!(
            "export LC_ALL=C.UTF-8; mcopy -s -m -Q -i {} * ::",
            image.display()
        ),
    );
}

#[test]
fn entries_of_12_bits() {
    same_as_written(12 << 20, &["-F", "12", "-s", "8"]);
}

#[test]
fn entries_of_16_bits() {
    same_as_written(60 << 20, &["-F", "16", "-s", "4"]);
}

#[test]
fn entries_of_32_bits() {
    same_as_written(80 << 20, &["-F", "32", "-s", "1", "-n", "LABEL"]);
}

#[test]
fn large_sectors() {
    same_as_written(300 << 20, &["-F", "32", "-S", "4096", "-s", "1"]);
}

#[test]
fn what_is_dirty_or_foreign_is_told() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = image(folder.path().join("image"), 80 << 20);
    run(
        "dosfstools",
        "mkfs.fat",
        &[OsStr::new("-F32"), image.as_os_str()],
    );
    let mut bytes = fs::read(&image).expect("an image can be read");
    assert!(fat::is(&bytes[..512]));
    bytes[65] |= 1;
    fs::write(&image, &bytes).expect("an image can be written");
    let fs = fat::open(Disk::open(&image)).expect("it can be opened");
    assert_eq!(fs.caveats().len(), 1);
    bytes[3..11].copy_from_slice(b"EXFAT   ");
    fs::write(&image, &bytes).expect("an image can be written");
    assert!(fat::is(&bytes[..512]));
    let error = fat::open(Disk::open(&image))
        .err()
        .expect("it is another format");
    assert!(matches!(error, GuestError::Unsupported { .. }), "{error:?}");
}
