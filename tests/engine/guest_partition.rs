//! Partitions are found where the tools that made them say that they are.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cairn_engine::guest::detect::Content;
use cairn_engine::guest::open::{AreaName, Layout};
use cairn_engine::guest::partition;
use cairn_engine::guest::tree::Volume;
use cairn_engine::guest::volume::FileVolume;

use crate::guest_truth::{Disk, image, run};

const SIZE: u64 = 200 << 20;

/// Gives a disk a table, and returns where its partitions are: numbers, first bytes, lengths.
fn sfdisk(disk: &Path, table: &str) -> Vec<(u32, u64, u64)> {
    let mut command = Command::new("sfdisk");
    command.args(["-q", "--no-reread"]).arg(disk);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().expect("sfdisk, of fdisk");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(table.as_bytes()).expect("it is read");
    drop(input);
    assert!(child.wait().expect("it ends").success(), "{table}");
    let listed = Command::new("sfdisk").arg("-d").arg(disk).output();
    let listed = String::from_utf8(listed.expect("it can be listed").stdout).expect("text");
    let numbered = listed.lines().filter(|line| line.contains("start="));
    numbered
        .filter(|line| !line.contains("type=5") && !line.contains("type=f"))
        .map(|line| {
            let (name, rest) = line.split_once(" : ").expect("it has a name");
            let digits = name.trim_start_matches(disk.to_str().expect("a plain name"));
            let field = |name: &str| {
                let (_, rest) = rest.split_once(name).expect("it has the field");
                let text = rest.split(',').next().expect("it has a value").trim();
                text.parse::<u64>().expect("a number")
            };
            let number = digits.trim().parse().expect("a number");
            (number, field("start=") * 512, field("size=") * 512)
        })
        .collect()
}

fn found(disk: &Path) -> (&'static str, Vec<(u32, u64, u64)>) {
    let table = partition::read(&*Disk::open(disk)).expect("it can be read");
    let table = table.expect("there is a table");
    let places = table.partitions.iter();
    let places = places
        .map(|part| (part.number, part.offset, part.size))
        .collect();
    (table.kind.name(), places)
}

#[test]
fn partitions_are_where_sfdisk_put_them() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let disk = image(folder.path().join("disk"), SIZE);
    let gpt = "label: gpt\nsize=20M, name=boot\n15: size=3M\nsize=50M, name=\"the root ☃\"\n";
    let expected = sfdisk(&disk, gpt);
    assert_eq!(expected.len(), 3);
    assert_eq!(found(&disk), ("gpt", expected));
    let mbr =
        "label: dos\nsize=20M, bootable\nsize=100M, type=f\n,,\nsize=10M\nsize=10M\nsize=9M\n";
    let disk = image(folder.path().join("disk"), SIZE);
    let expected = sfdisk(&disk, mbr);
    assert!(
        expected.iter().any(|(number, ..)| *number == 7),
        "{expected:?}"
    );
    assert_eq!(found(&disk), ("mbr", expected));
}

/// A disk of which some bytes cannot be read.
struct Holed {
    volume: FileVolume,
    hole: u64,
}

impl Volume for Holed {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.hole) {
            return Err(io::Error::other("lost"));
        }
        self.volume.read_at(offset, buf)
    }
}

#[test]
fn what_cannot_be_read_hides_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let disk = image(folder.path().join("disk"), SIZE);
    let parts = sfdisk(&disk, "label: gpt\nsize=60M\nsize=40M\nsize=20M\n");
    let areas = |hole: u64| {
        let file = fs::File::open(&disk).expect("it can be opened");
        let volume = FileVolume::new(file).expect("it has a length");
        let layout = Layout::read(vec![("vda".to_owned(), Arc::new(Holed { volume, hole }))]);
        let areas = layout.disks.into_iter().flat_map(|disk| disk.areas);
        areas
            .map(|area| (area.name.clone(), area.error().is_some()))
            .collect::<Vec<_>>()
    };
    let part = AreaName::Partition;
    assert_eq!(
        areas(parts[1].1),
        [(part(1), false), (part(2), true), (part(3), false)]
    );
    assert_eq!(areas(0), [(AreaName::Whole, true)]);
}

#[test]
fn parts_are_known_by_what_they_hold() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let disk = image(folder.path().join("disk"), SIZE);
    let parts = sfdisk(
        &disk,
        "label: gpt\nsize=60M, name=x\nsize=40M, name=esp\nsize=20M\n\
         size=1M, type=21686148-6449-6E6F-744E-656564454649\n\
         size=1M, type=9E1A2D38-C612-4316-AA26-8B49521E5A8B\n\
         size=1M, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\n",
    );
    for (part, tool) in parts
        .iter()
        .zip(["mkfs.ext4 -qF -L root", "mkfs.fat -n ESP", "mkswap -q"])
    {
        let small = image(folder.path().join("part"), part.2);
        let mut words = tool.split(' ').map(OsStr::new);
        let program = words.next().and_then(OsStr::to_str).expect("it has a name");
        let args: Vec<&OsStr> = words.chain([small.as_os_str()]).collect();
        run("e2fsprogs, dosfstools, util-linux", program, &args);
        let bytes = fs::read(&small).expect("it can be read");
        let file = fs::File::options()
            .write(true)
            .open(&disk)
            .expect("it can be opened");
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, part.1).expect("there is space");
    }
    let file = fs::File::options().read(true).write(true).open(&disk);
    let file = file.expect("it can be opened");
    // As GRUB writes it.
    std::os::unix::fs::FileExt::write_all_at(&file, b"\x52\xe8\x28\x01", parts[3].1)
        .expect("there is space");
    let volume = Arc::new(FileVolume::new(file).expect("it has a length"));
    let layout = Layout::read(vec![("vda".to_owned(), volume)]);
    let areas = &layout.disks[0].areas;
    let parts: Vec<_> = areas
        .iter()
        .map(|area| (area.content, area.label.as_deref()))
        .collect();
    let expected = [
        (Content::Ext, Some("root")),
        (Content::Fat, Some("ESP")),
        (Content::NoFiles("swap"), None),
        (Content::NoFiles("BIOS boot code"), None),
        (Content::NoFiles("PReP boot code"), None),
        (Content::NoFiles("reserved space"), None),
    ];
    assert_eq!(parts, expected);
    let root = layout
        .take("vda", &AreaName::Partition(1))
        .expect("it is there");
    let fs = root.open().expect("it can be opened");
    assert!(fs.lookup(fs.root(), b"lost+found").is_ok());
}
