//! Whoever drops an image has ended its threads: nothing is at work when the process ends.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Access, Contents};

use crate::support::computed::Computed;
use crate::support::{TestRepository, backup_source, child, open_at, options_at};

const SIZE: u64 = 48 << 20;
/// Processes that open, read ahead and exit, and how many at once.
const EXITS: usize = 1000;
const AT_ONCE: usize = 4;

fn open(path: &Path, cache: &Arc<ImageCache>) -> (Image, Weak<Contents>) {
    let repository = open_at(path, &options_at(path), None).expect("opens");
    let list = repository.snapshots().expect("snapshots are listed");
    let snapshot = &list.snapshots[0];
    let access = Access::Read(vec![snapshot.id]);
    let contents = Arc::new(Contents::open(&repository, access, "test").expect("opens"));
    let held = Arc::downgrade(&contents);
    let disk = snapshot.disk("vda").expect("the disk was backed up");
    (Image::open(contents, disk, cache).expect("opens"), held)
}

fn backed_up() -> TestRepository {
    let repository = TestRepository::new();
    let source = Box::new(Computed { size: SIZE });
    backup_source(&repository.open(), source, false, None, &Cancel::default()).expect("backs up");
    repository
}

/// Has several threads read ahead, and lets them get some way or none.
fn read_ahead(image: &Image, random: &mut fastrand::Rng) {
    let mut buf = vec![0; 1 << 20];
    let offset = random.u64(0..SIZE - buf.len() as u64);
    image.read_at(offset, &mut buf).expect("reads");
    image.prefetch(0..SIZE);
    // sleeps: so that each process exits at another moment of its reading ahead.
    std::thread::sleep(Duration::from_micros(random.u64(0..4000)));
}

/// Not a test: a process that `nothing_of_an_image_outlives_it` starts, so that nobody else has
/// images in it.
#[test]
fn one_owner() {
    let Some(path) = child::told() else { return };
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..100 {
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        let (image, contents) = open(&path, &cache);
        let clone = image.clone();
        let (other, others) = open(&path, &cache);
        read_ahead(&image, &mut random);
        read_ahead(&other, &mut random);
        drop(image);
        assert!(contents.upgrade().is_some(), "{round}: a clone is left");
        drop(clone);
        assert!(
            contents.upgrade().is_none(),
            "{round}: the repository is held"
        );
        assert!(others.upgrade().is_some(), "{round}: another image is left");
        // Either may be the last.
        match round % 2 {
            0 => drop((other, cache)),
            _ => drop((cache, other)),
        }
        assert!(
            others.upgrade().is_none(),
            "{round}: the repository is held"
        );
    }
}

#[test]
fn nothing_of_an_image_outlives_it() {
    let repository = backed_up();
    let started = child::start("image_exit::one_owner", repository.path().as_ref());
    child::finish(started);
}

/// Not a test: a process that `processes_that_read_ahead_exit_in_good_order` starts.
#[test]
fn one_exit() {
    let Some(path) = child::told() else { return };
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    let (image, _contents) = open(&path, &cache);
    let mut random = fastrand::Rng::new();
    read_ahead(&image, &mut random);
    drop((image, cache));
    // The shortest way from the last drop to the statics' end.
    std::process::exit(0);
}

#[test]
fn processes_that_read_ahead_exit_in_good_order() {
    let repository = backed_up();
    for number in 0..EXITS / AT_ONCE {
        let start = |_| child::start("image_exit::one_exit", repository.path().as_ref());
        let children: Vec<_> = (0..AT_ONCE).map(start).collect();
        for child in children {
            let output = child.wait_with_output().expect("it can be waited for");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{number}: {}: {said}",
                output.status
            );
        }
    }
}
