//! qcow2 files: what QEMU itself says of them.

use std::path::Path;

use cairn_engine::limits::{GIB, MIB};
use cairn_engine::target::{Finished, TargetFormat, TargetOptions, create};

use super::target_support::{Disk, names, run_ok, text};

fn restore(disk: &Disk, path: &Path, seed: u64) -> Finished {
    let options = TargetOptions {
        format: TargetFormat::Qcow2,
        size: disk.size(),
        overwrite: true,
    };
    let target = create(path, &options).expect("the target can be made");
    disk.write_to(&*target, seed).expect("there is space");
    target.finish().expect("there is space")
}

fn qemu_img(args: &[&str]) -> String {
    run_ok("qemu-utils", "qemu-img", args)
}

#[track_caller]
fn assert_sound(path: &Path) {
    let said = qemu_img(&["check", "-f", "qcow2", text(path)]);
    assert!(said.contains("No errors were found"), "{said}");
    assert!(!said.contains("leaked"), "{said}");
}

#[test]
fn qemu_reads_the_disks_bytes() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let (path, reference) = (folder.path().join("disk.qcow2"), folder.path().join("raw"));
    let mut rng = fastrand::Rng::with_seed(1);
    for size in [0, 1, 1000, 65_536, 3 * MIB + 512, 16 * MIB, 40 * MIB + 4097] {
        for percent in [0, 40, 100] {
            let disk = Disk::random(&mut rng, size, percent);
            let finished = restore(&disk, &path, size);
            assert_eq!(finished.size, size.next_multiple_of(512));
            assert_sound(&path);
            disk.write_reference(&reference);
            let (image, raw) = (text(&path), text(&reference));
            // QEMU, too, sees a raw file in whole sectors.
            let said = qemu_img(&["compare", "-f", "qcow2", "-F", "raw", image, raw]);
            assert!(said.contains("identical"), "{size}: {said}");
        }
    }
    assert_eq!(names(folder.path()), ["disk.qcow2", "raw"]);
}

#[test]
fn the_image_is_of_the_kind_that_is_promised() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("disk.qcow2");
    let disk = Disk::random(&mut fastrand::Rng::with_seed(2), 8 * MIB, 40);
    restore(&disk, &path, 2);
    let said = qemu_img(&["info", "-f", "qcow2", "--output=json", text(&path)]);
    let info: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(info["virtual-size"], 8 * MIB);
    assert_eq!(info["cluster-size"], 65_536);
    let data = &info["format-specific"]["data"];
    assert_eq!(data["compat"], "1.1");
    assert_eq!(data["refcount-bits"], 16);
    assert_eq!(data["corrupt"], false);
    assert!(info.get("backing-filename").is_none());

    // Holes are unallocated, not zeros: the file has its data, and a few clusters of tables.
    let len = std::fs::metadata(&path).expect("it is there").len();
    assert_eq!(len, disk.data_bytes() + 5 * 65_536);
    let said = qemu_img(&["map", "-f", "qcow2", "--output=json", text(&path)]);
    let map: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    for extent in map.as_array().expect("a list") {
        let field = |name: &str| extent[name].as_u64().expect("a number");
        if extent["data"] == true {
            let (start, end) = (field("start"), field("start") + field("length"));
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
    }
    assert_eq!(runs, disk.runs);
}

/// Several refcount blocks and L2 tables, on a disk whose L1 table has more than one cluster.
#[test]
fn a_large_sparse_disk_is_sound() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("disk.qcow2");
    let size = 6 * 1024 * GIB + 512;
    let options = TargetOptions {
        format: TargetFormat::Qcow2,
        size,
        overwrite: false,
    };
    let target = create(&path, &options).expect("the target can be made");
    let region = 16 * MIB;
    let starts = [
        0,
        511 * MIB / region * region,
        3 * 1024 * GIB,
        size / region * region,
    ];
    for (number, start) in starts.into_iter().enumerate() {
        let end = (start + 70_000).min(size);
        let data = start..end.next_multiple_of(65_536).min(size);
        let data = std::slice::from_ref(&data);
        target.begin_region(start, data).expect("in memory");
        let byte = u8::try_from(number + 1).expect("four");
        let bytes = vec![byte; (end - start) as usize];
        target.write_at(start, &bytes).expect("there is space");
        target.end_region(start);
    }
    target.finish().expect("there is space");
    assert_sound(&path);
    for (number, start) in starts.into_iter().enumerate() {
        let len = (size - start).min(70_000) / 512 * 512;
        let command = format!("read -P {} {start} {len}", number + 1);
        let args = ["-r", "-f", "qcow2", "-c", &command, text(&path)];
        let said = run_ok("qemu-utils", "qemu-io", &args);
        assert!(said.contains(&format!("read {len}/{len} bytes")), "{said}");
        assert!(!said.contains("verification failed"), "{said}");
    }
}
