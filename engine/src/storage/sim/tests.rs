use std::collections::BTreeSet;
use std::error::Error;
use std::io;

use rustix::io::Errno;

use super::*;
use crate::storage::{FileSystem, LockMode, OpenFile, RenameMode};

type Done = Result<(), Box<dyn Error>>;

/// Makes a file with these bytes and leaves it open.
fn write(fs: &SimFs, path: &str, bytes: &[u8]) -> io::Result<SimFile> {
    let mut file = fs.create_new(path)?;
    file.append(bytes)?;
    Ok(file)
}

fn read(fs: &SimFs, path: &str) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).expect("a small file")];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// What a name can hold after a power cut now, over many seeds.
fn outcomes(fs: &SimFs, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..200)
        .map(|seed| read(&fs.crash_image(fs.op_count(), seed), path).ok())
        .collect()
}

#[test]
fn only_a_synced_file_in_a_synced_folder_is_sure_to_stay() -> Done {
    let fs = SimFs::new(1);
    let file = write(&fs, "a", b"bytes")?;
    let all = outcomes(&fs, "a");
    for possible in [
        None,
        Some(b"".to_vec()),
        Some(b"by".to_vec()),
        Some(b"bytes".to_vec()),
    ] {
        assert!(all.contains(&possible), "{possible:?} of {all:?}");
    }
    assert!(
        all.iter().flatten().any(|left| left == &[0; 5]),
        "zeros where bytes were"
    );

    fs.sync_folder("")?;
    assert!(!outcomes(&fs, "a").contains(&None));
    file.sync()?;
    assert_eq!(
        outcomes(&fs, "a"),
        BTreeSet::from([Some(b"bytes".to_vec())])
    );

    fs.remove_file("a")?;
    let both = BTreeSet::from([None, Some(b"bytes".to_vec())]);
    assert_eq!(outcomes(&fs, "a"), both);
    fs.sync_folder("")?;
    assert_eq!(outcomes(&fs, "a"), BTreeSet::from([None]));
    Ok(())
}

#[test]
fn what_is_in_a_folder_goes_with_the_folder() -> Done {
    let fs = SimFs::new(2);
    fs.make_folder("f")?;
    write(&fs, "f/a", b"1")?.sync()?;
    fs.sync_folder("f")?;
    assert!(outcomes(&fs, "f/a").contains(&None));
    fs.sync_folder("")?;
    assert_eq!(outcomes(&fs, "f/a"), BTreeSet::from([Some(b"1".to_vec())]));
    Ok(())
}

#[test]
fn a_replacing_rename_leaves_the_old_or_the_new() -> Done {
    let fs = SimFs::new(3);
    fs.make_folder("tmp")?;
    write(&fs, "a", b"old")?.sync()?;
    fs.sync_folder("")?;
    write(&fs, "tmp/x", b"new")?.sync()?;
    let refused = fs.rename("tmp/x", "a", RenameMode::NoReplace);
    assert_eq!(
        refused.map_err(|err| err.kind()),
        Err(io::ErrorKind::AlreadyExists)
    );
    fs.rename("tmp/x", "a", RenameMode::Replace)?;
    let both = BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]);
    assert_eq!(outcomes(&fs, "a"), both);
    assert_eq!(read(&fs, "a")?, b"new");
    assert!(read(&fs, "tmp/x").is_err());
    Ok(())
}

#[test]
fn a_failed_fsync_loses_bytes_and_a_second_one_does_not_tell() -> Done {
    let fs = SimFs::new(4);
    let file = write(&fs, "a", b"bytes")?;
    fs.sync_folder("")?;
    let at = fs.op_count();
    fs.inject(Fault {
        on: FaultOn::Changes,
        at,
        lasting: false,
        kind: FaultKind::Io,
    });
    assert!(file.sync().is_err());
    file.sync()?;
    assert_eq!(read(&fs, "a")?, b"bytes", "as long as the machine runs");
    assert!(!outcomes(&fs, "a").contains(&Some(b"bytes".to_vec())));

    fs.make_folder("f")?;
    let at = fs.op_count();
    fs.inject(Fault {
        on: FaultOn::Changes,
        at,
        lasting: false,
        kind: FaultKind::Io,
    });
    assert!(fs.sync_folder("").is_err());
    fs.sync_folder("")?;
    assert!(fs.list("f").is_ok());
    assert!((0..50).all(|seed| fs.crash_image(fs.op_count(), seed).list("f").is_err()));
    Ok(())
}

#[test]
fn a_short_write_leaves_half_and_a_full_disk_stays_full() -> Done {
    let fs = SimFs::new(5);
    let mut file = fs.create_new("a")?;
    let at = fs.op_count();
    fs.inject(Fault {
        on: FaultOn::Changes,
        at,
        lasting: false,
        kind: FaultKind::Short,
    });
    fs.inject(Fault {
        on: FaultOn::Changes,
        at: at + 1,
        lasting: true,
        kind: FaultKind::NoSpace,
    });
    for _ in 0..3 {
        let full = file.append(b"0123").expect_err("the disk is full");
        assert_eq!(full.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }
    assert_eq!(read(&fs, "a")?, b"01");
    fs.heal();
    file.append(b"23")?;
    assert_eq!(read(&fs, "a")?, b"0123");
    Ok(())
}

#[test]
fn locks_exclude_and_end_with_the_file_or_the_process() -> Done {
    let (one, two) = (SimFs::new(6), SimFs::new(6).spawn());
    assert!(two.open("a").is_err(), "another disk");
    let two = one.spawn();
    let held = one.create_new("a")?;
    assert!(held.try_lock(LockMode::Exclusive)?);
    let other = two.open("a")?;
    assert!(!other.try_lock(LockMode::Shared)?);
    drop(held);
    assert!(other.try_lock(LockMode::Shared)?);
    assert!(one.open("a")?.try_lock(LockMode::Shared)?);
    assert!(!one.open("a")?.try_lock(LockMode::Exclusive)?);
    two.kill();
    assert!(one.open("a")?.try_lock(LockMode::Exclusive)?);
    assert!(two.create_new("b").is_err(), "the dead do nothing");
    assert!(other.try_lock(LockMode::Shared).is_err());
    Ok(())
}

#[test]
fn a_process_can_die_before_any_call() -> Done {
    let fs = SimFs::new(7);
    let other = fs.spawn();
    fs.inject(Fault {
        on: FaultOn::Changes,
        at: 1,
        lasting: false,
        kind: FaultKind::Death,
    });
    fs.make_folder("a")?;
    assert!(fs.make_folder("b").is_err());
    assert!(fs.list("").is_err());
    assert_eq!(other.list("")?.len(), 1);
    assert!(other.make_folder("b").is_ok(), "it was the other that died");
    Ok(())
}

#[test]
fn the_same_seed_does_the_same() -> Done {
    let run = || -> io::Result<Vec<Option<Vec<u8>>>> {
        let fs = SimFs::new(8);
        let name = hex::encode(fs.draw()?);
        let _file = write(&fs, &name, &[7; 10_000])?;
        Ok((0..20)
            .map(|seed| read(&fs.crash_image(2, seed), &name).ok())
            .collect())
    };
    assert_eq!(run()?, run()?);
    Ok(())
}
