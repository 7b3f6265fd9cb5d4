//! Logical volumes are read from where LVM's own tools say that their extents are. Nothing is
//! activated, so that no device-mapper is needed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cairn_engine::guest::detect::Content;
use cairn_engine::guest::open::{AreaName, Layout};
use cairn_engine::guest::volume::{FileVolume, SharedVolume};

use crate::guest_truth::{assert_same, image, kernel_mount, of_kernel, of_reader, run, script};
use crate::support::mounts::LoopDevice;

const GROUP: &str = "cairn-test";
const EXTENT: usize = 4 << 20;
const STRIPE: usize = 64 << 10;

/// Disks as loop devices, which LVM sees alone of all devices.
struct Disks {
    paths: Vec<PathBuf>,
    devices: Vec<String>,
    _attached: Vec<LoopDevice>,
}

impl Disks {
    fn new(folder: &Path) -> Self {
        let disk = |index: usize| image(folder.join(format!("disk{index}")), 120 << 20);
        let paths: Vec<PathBuf> = (0..2).map(disk).collect();
        let attach = |disk: &PathBuf| LoopDevice::attach(disk, &[]);
        let attached: Vec<LoopDevice> = paths.iter().map(attach).collect();
        let name = |device: &LoopDevice| device.path().display().to_string();
        Self {
            paths,
            devices: attached.iter().map(name).collect(),
            _attached: attached,
        }
    }

    fn lvm(&self, program: &str, args: &[&str]) -> String {
        let devices: Vec<String> = self
            .devices
            .iter()
            .map(|dev| format!("\"a|^{dev}$|\""))
            .collect();
        let config = format!(
            "devices {{ filter=[{},\"r|.*|\"] use_devicesfile=0 }} \
             backup {{ backup=0 archive=0 }}",
            devices.join(",")
        );
        let mut command = Command::new(program);
        command
            .args(["--driverloaded", "n", "--config", &config])
            .args(args);
        let output = command.output().expect("lvm2");
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn create(&self, args: &[&str]) {
        self.lvm("lvcreate", &[args, &["-an", "-Zn", "-Wn", "-y"]].concat());
    }

    /// Lists extents: the disk, the first byte on it, their number, and which of the volume.
    fn extents(&self, volume: &str) -> Vec<(usize, u64, usize, usize)> {
        let fields = "pv_name,pe_start,pvseg_start,pvseg_size,seg_start_pe,lv_name";
        let args = [
            "--segments",
            "--noheadings",
            "--units",
            "b",
            "--nosuffix",
            "-o",
            fields,
        ];
        let listed = self.lvm("pvs", &args);
        let lines = listed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .filter(|words| words.last() == Some(&volume))
            .map(|words| {
                let number = |at: usize| words[at].parse::<usize>().expect("a number");
                let disk = self.devices.iter().position(|device| device == words[0]);
                let start = (number(1) + number(2) * EXTENT) as u64;
                (disk.expect("one of ours"), start, number(3), number(4))
            })
            .collect()
    }

    fn write(&self, disk: usize, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.paths[disk]);
        file.expect("it can be opened")
            .write_all_at(bytes, at)
            .expect("there is space");
    }

    fn layout(&self) -> Layout {
        let disk = |(index, path): (usize, &PathBuf)| {
            let file = File::open(path).expect("it can be opened");
            let volume = FileVolume::new(file).expect("it has a length");
            (format!("vd{index}"), Arc::new(volume) as SharedVolume)
        };
        Layout::read(self.paths.iter().enumerate().map(disk).collect())
    }
}

fn area(volume: &str) -> AreaName {
    AreaName::Logical {
        group: GROUP.to_owned(),
        volume: volume.to_owned(),
    }
}

/// Fills the striped volume on the disks, and returns what it holds.
fn fill_stripes(disks: &Disks) -> Vec<u8> {
    let mut stripes = vec![0; 24 << 20];
    fastrand::Rng::with_seed(5).fill(&mut stripes);
    let ranges = disks.lvm(
        "lvs",
        &["--segments", "--noheadings", "-o", "lv_name,seg_pe_ranges"],
    );
    let ranges = ranges
        .lines()
        .find(|line| line.contains("striped"))
        .expect("it is listed");
    for (disk, start, count, _) in disks.extents("striped") {
        // Whichever is named first has the first stripe.
        let others = ranges.find(&disks.devices[1 - disk]);
        let skipped = usize::from(ranges.find(&disks.devices[disk]) > others);
        let own = stripes.chunks(STRIPE).skip(skipped).step_by(2);
        let own: Vec<u8> = own.flatten().copied().collect();
        assert_eq!(own.len(), count * EXTENT, "both disks have half of them");
        disks.write(disk, start, &own);
    }
    stripes
}

#[test]
fn extents_are_found_where_lvm_put_them() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let disks = Disks::new(folder.path());
    let [first, second] = [&*disks.devices[0], &*disks.devices[1]];
    disks.lvm("pvcreate", &[first, second]);
    disks.lvm("vgcreate", &["-s", "4M", GROUP, first, second]);
    disks.create(&["-L", "32M", "-n", "root", GROUP, first]);
    disks.create(&["-L", "8M", "-n", "between", GROUP, first]);
    disks.create(&["-L", "24M", "-i", "2", "-I", "64k", "-n", "striped", GROUP]);
    // The rest of the first disk, and then the second.
    disks.lvm(
        "lvextend",
        &["-L", "100M", &format!("{GROUP}/root"), first, second],
    );

    let content = image(folder.path().join("root"), 100 << 20);
    run(
        "e2fsprogs",
        "mkfs.ext4",
        &["-qF".as_ref(), content.as_os_str()],
    );
    let mounted = kernel_mount(&content, &[]);
    script(
        &mounted.path,
        "cp -a /etc etc; head -c 40000000 /dev/urandom > noise",
    );
    let truth = of_kernel(&mounted.path);
    drop(mounted);
    let bytes = fs::read(&content).expect("it can be read");
    let extents = disks.extents("root");
    assert!(extents.len() >= 3, "{extents:?}");
    for (disk, start, count, number) in extents {
        disks.write(disk, start, &bytes[number * EXTENT..][..count * EXTENT]);
    }
    let stripes = fill_stripes(&disks);

    let layout = disks.layout();
    assert!(layout.errors.is_empty(), "{:?}", layout.errors);
    assert!(
        layout.disks[1]
            .areas
            .iter()
            .all(|area| area.content == Content::LvmMember)
    );
    let root = layout
        .take("vd1", &area("root"))
        .expect("it is found by its name");
    let fs = root.open().expect("it can be opened");
    assert_same(&truth, &of_reader(&*fs), "root");
    let striped = disks
        .layout()
        .take("vd0", &area("striped"))
        .expect("it is there");
    let mut found = vec![0; stripes.len()];
    let volume = striped.volume().expect("it is whole");
    volume.read_at(0, &mut found).expect("it can be read");
    assert!(found == stripes);
}

#[test]
fn a_group_with_a_missing_disk_says_so() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let disks = Disks::new(folder.path());
    let [first, second] = [&*disks.devices[0], &*disks.devices[1]];
    disks.lvm("pvcreate", &[first, second]);
    disks.lvm("vgcreate", &[GROUP, first, second]);
    disks.create(&["-l", "100%FREE", "-n", "both", GROUP]);
    let file = File::open(&disks.paths[0]).expect("it can be opened");
    let volume: SharedVolume = Arc::new(FileVolume::new(file).expect("it has a length"));
    let layout = Layout::read(vec![("vda".to_owned(), volume)]);
    let both = layout.take("vda", &area("both")).expect("it is there");
    let error = both
        .error()
        .map(ToString::to_string)
        .expect("it is not whole");
    assert!(error.contains("none of these disks"), "{error}");
}
