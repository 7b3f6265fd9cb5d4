//! Block devices, by way of loop devices (needs root's rights).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_engine::limits::MIB;
use cairn_engine::target::{Abandoned, TargetError, TargetFormat, TargetOptions, create};

use super::support::mounts::{LoopDevice, Mount};
use super::target_support::{Disk, run_ok, text};
use crate::qcow2_in_use::Holder;

/// A loop device over a file full of old bytes.
struct Device {
    attached: LoopDevice,
    folder: tempfile::TempDir,
}

impl Device {
    fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().expect("scratch folder");
        let file = folder.path().join("medium");
        let old = vec![0xee; usize::try_from(size).expect("small")];
        fs::write(&file, old).expect("there is space");
        Self {
            attached: LoopDevice::attach(&file, &[]),
            folder,
        }
    }

    fn path(&self) -> &Path {
        self.attached.path()
    }

    /// Reads past the page cache that the kernel keeps for the device.
    fn bytes(&self) -> Vec<u8> {
        run_ok(
            "util-linux",
            "blockdev",
            &["--flushbufs", text(self.path())],
        );
        fs::read(self.path()).expect("the device is readable")
    }
}

fn options(size: u64, overwrite: bool) -> TargetOptions {
    TargetOptions {
        format: TargetFormat::Raw,
        size,
        overwrite,
    }
}

fn refusal(path: &Path, options: &TargetOptions) -> Option<TargetError> {
    create(path, options).err()
}

#[test]
fn a_device_has_the_disk_and_keeps_what_lies_beyond() {
    let device = Device::new(20 * MIB);
    let mut rng = fastrand::Rng::with_seed(1);
    for size in [0, 1, 4095, 3 * MIB + 17, 17 * MIB + 70_001, 20 * MIB] {
        for percent in [0, 50] {
            let medium = File::options()
                .write(true)
                .open(device.path())
                .expect("writable");
            medium
                .write_all_at(&vec![0xdd; 20 * MIB as usize], 0)
                .expect("it fits");
            drop(medium);
            let disk = Disk::random(&mut rng, size, percent);
            let target = create(device.path(), &options(size, true)).expect("not in use");
            disk.write_to(&*target, size).expect("it fits");
            let finished = target.finish().expect("it fits");
            assert_eq!(finished.path, device.path());
            let bytes = device.bytes();
            let (on_disk, beyond) = bytes.split_at(disk.bytes.len());
            assert!(on_disk == disk.bytes, "{size} bytes, {percent} %");
            assert!(beyond.iter().all(|byte| *byte == 0xdd), "{size} bytes");
        }
    }
}

#[test]
fn devices_that_cannot_take_the_disk_are_refused() {
    let device = Device::new(4 * MIB);
    let refused = refusal(device.path(), &options(MIB, false));
    assert!(
        matches!(refused, Some(TargetError::WouldOverwriteDevice { .. })),
        "{refused:?}"
    );
    let refused = refusal(device.path(), &options(4 * MIB + 1, true));
    assert!(
        matches!(
            refused,
            Some(TargetError::DeviceTooSmall { device_size, .. }) if device_size == 4 * MIB
        ),
        "{refused:?}"
    );
    let qcow2 = TargetOptions {
        format: TargetFormat::Qcow2,
        ..options(MIB, false)
    };
    let refused = refusal(device.path(), &qcow2);
    assert!(
        matches!(refused, Some(TargetError::WouldOverwriteDevice { .. })),
        "{refused:?}"
    );
    assert!(device.bytes().iter().all(|byte| *byte == 0xee));
}

#[test]
fn a_device_has_a_qcow2_whatever_it_had_before() {
    let device = Device::new(20 * MIB);
    let mut rng = fastrand::Rng::with_seed(5);
    let folder = tempfile::tempdir().expect("scratch folder");
    let raw = folder.path().join("disk.raw");
    for (size, percent) in [(0, 0), (4095, 90), (17 * MIB + 70_001, 50), (40 * MIB, 20)] {
        let medium = File::options().write(true).open(device.path());
        let old = vec![0xdd; 20 * MIB as usize];
        medium
            .and_then(|medium| medium.write_all_at(&old, 0))
            .expect("it fits");
        let disk = Disk::random(&mut rng, size, percent);
        let qcow2 = TargetOptions {
            format: TargetFormat::Qcow2,
            ..options(size, true)
        };
        let target = create(device.path(), &qcow2).expect("not in use");
        assert!(
            device.bytes().starts_with(&[0; 4]),
            "no image before the end"
        );
        disk.write_to(&*target, size).expect("it fits");
        target.finish().expect("it fits");
        let path = text(device.path());
        run_ok(
            "qemu-utils",
            "qemu-img",
            &["check", "-q", "-f", "qcow2", path],
        );
        let args = ["convert", "-f", "qcow2", "-O", "raw", path, text(&raw)];
        run_ok("qemu-utils", "qemu-img", &args);
        let mut bytes = fs::read(&raw).expect("it was written");
        // qcow2 has whole sectors.
        assert!(bytes[disk.bytes.len()..].iter().all(|byte| *byte == 0));
        bytes.truncate(disk.bytes.len());
        assert!(bytes == disk.bytes, "{size} bytes, {percent} %");
    }
}

#[test]
fn a_qcow2_that_outgrows_its_device_says_so() {
    let device = Device::new(4 * MIB);
    let disk = Disk::random(&mut fastrand::Rng::with_seed(6), 16 * MIB, 100);
    let qcow2 = TargetOptions {
        format: TargetFormat::Qcow2,
        ..options(disk.size(), true)
    };
    let target = create(device.path(), &qcow2).expect("an empty one fits");
    let failed = disk.write_to(&*target, 1).err();
    assert!(
        matches!(failed, Some(TargetError::DeviceTooSmall { .. })),
        "{failed:?}"
    );
    let abandoned = target.abandon();
    assert_eq!(abandoned, Abandoned::IncompleteDevice(device.path().into()));
}

#[test]
fn a_device_in_use_is_refused() {
    let device = Device::new(4 * MIB);
    run_ok("e2fsprogs", "mkfs.ext4", &["-q", text(device.path())]);
    let folder = tempfile::tempdir().expect("scratch folder");
    let mounted = Mount::new(device.path(), folder.path(), &[]);
    let refused = refusal(device.path(), &options(MIB, true));
    drop(mounted);
    assert!(
        matches!(refused, Some(TargetError::DeviceInUse { .. })),
        "{refused:?}"
    );

    let first = create(device.path(), &options(MIB, true)).expect("not in use now");
    let refused = refusal(device.path(), &options(MIB, true));
    assert!(
        matches!(refused, Some(TargetError::DeviceInUse { .. })),
        "{refused:?}"
    );
    drop(first);

    let holder = Holder::new(device.path(), "raw", false);
    let refused = refusal(device.path(), &options(MIB, true));
    assert!(
        matches!(&refused, Some(TargetError::InUse { by, .. }) if by.contains("qemu-io")),
        "{refused:?}"
    );
    drop(holder);
    // Whoever has the file behind it replaced would not reach the device any more.
    let medium = device.folder.path().join("medium");
    let refused = refusal(&medium, &options(MIB, true));
    let named = text(device.path());
    assert!(
        matches!(&refused, Some(TargetError::InUse { by, .. }) if by == named),
        "{refused:?}"
    );
    assert!(create(device.path(), &options(MIB, true)).is_ok());
}

#[test]
fn an_abandoned_device_is_said_to_be_incomplete() {
    let device = Device::new(4 * MIB);
    let disk = Disk::random(&mut fastrand::Rng::with_seed(3), 2 * MIB, 60);
    let target = create(device.path(), &options(disk.size(), true)).expect("not in use");
    disk.write_to(&*target, 3).expect("it fits");
    let left = target.abandon();
    assert_eq!(left, Abandoned::IncompleteDevice(device.path().to_owned()));
}
