//! A file system that is full: writes fail, nothing else is lost, and all is well once there is
//! space. Needs root, for a small tmpfs.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use cairn_nbd_export::disk::{DiskError, WriteDisk};
use cairn_nbd_export::overlay::Overlay;

use crate::overlay_world::{MemoryDisk, open, random_bytes, read_all, seed};
use crate::support::mounts::Mount;

const SIZE: usize = 16 << 20;

/// Writes here and there until there is no space; the model takes what was answered.
fn fill(overlay: &Overlay, random: &mut fastrand::Rng, model: &mut [u8]) {
    for _ in 0..2000 {
        let start = random.usize(0..SIZE - 70_000);
        let bytes = random_bytes(random, [500, 4096, 70_000][start % 3]);
        let part = start..start + bytes.len();
        let Err(error) = overlay.write_at(start as u64, &bytes) else {
            model[part].copy_from_slice(&bytes);
            continue;
        };
        let DiskError::Overlay { source, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.kind(), ErrorKind::StorageFull, "{error:?}");
        // Some of it may be there, and none elsewhere.
        let found = read_all(overlay);
        for at in part.clone() {
            let is_known = found[at] == model[at] || found[at] == bytes[at - start];
            assert!(is_known, "byte {at}");
        }
        model[part.clone()].copy_from_slice(&found[part]);
        assert!(found == model);
        return;
    }
    panic!("8 MiB were not filled");
}

fn remove(path: &Path) {
    std::fs::remove_file(path).expect("the ballast can be removed");
}

#[test]
fn a_full_file_system_fails_writes_and_loses_nothing() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _small = Mount::small(folder.path(), 8 << 20);
    let (path, ballast) = (
        folder.path().join("vda.overlay"),
        folder.path().join("ballast"),
    );
    std::fs::write(&ballast, vec![1; 3 << 20]).expect("there is space");
    let base = Arc::new(MemoryDisk(vec![5; SIZE]));
    let mut model = base.0.clone();
    let overlay = open(&path, &base).expect("is made");
    fill(&overlay, &mut random, &mut model);
    overlay.flush().expect("what was answered can be flushed");
    assert!(read_all(&overlay) == model);

    remove(&ballast);
    fill(&overlay, &mut random, &mut model);
    overlay.trim(0..4 << 20).expect("a trim makes space");
    model[..4 << 20].fill(0);
    overlay
        .write_at(100, &[9; 9000])
        .expect("there is space again");
    model[100..9100].fill(9);
    overlay.flush().expect("flushes");
    drop(overlay);
    assert!(read_all(&open(&path, &base).expect("opens")) == model);
}
