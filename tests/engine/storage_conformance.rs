//! What every kind of storage does alike: the same tests over a real folder and a simulated one.

use std::error::Error;
use std::fs;

use cairn_engine::id::{KeyId, NoteId, PackId, SessionId, SnapshotId};
use cairn_engine::storage::sim::SimFs;
use cairn_engine::storage::{
    Area, Existing, FileSystem, Folder, Name, OpenFile, Storage, StorageError,
};

type Done = Result<(), Box<dyn Error>>;

/// A place for one repository, which several processes open.
trait Medium {
    /// Lays a repository out.
    fn create(&self) -> Result<Box<dyn Storage>, StorageError>;
    /// Opens it as one more process.
    fn open(&self) -> Result<Box<dyn Storage>, StorageError>;
    /// Puts a file there that Cairn did not make; its folders are made too.
    fn plant(&self, path: &str, bytes: &[u8]) -> Done;
    /// Counts what stands in a folder.
    fn count(&self, folder: &str) -> Result<usize, Box<dyn Error>>;
}

struct Real(tempfile::TempDir);

impl Medium for Real {
    fn create(&self) -> Result<Box<dyn Storage>, StorageError> {
        Ok(Box::new(Folder::create_at(
            &self.0.path().join("a/repository"),
        )?))
    }

    fn open(&self) -> Result<Box<dyn Storage>, StorageError> {
        Ok(Box::new(Folder::open_at(
            &self.0.path().join("a/repository"),
        )?))
    }

    fn plant(&self, path: &str, bytes: &[u8]) -> Done {
        let path = self.0.path().join("a/repository").join(path);
        fs::create_dir_all(path.parent().ok_or("a path with a folder")?)?;
        Ok(fs::write(path, bytes)?)
    }

    fn count(&self, folder: &str) -> Result<usize, Box<dyn Error>> {
        Ok(fs::read_dir(self.0.path().join("a/repository").join(folder))?.count())
    }
}

impl Medium for SimFs {
    fn create(&self) -> Result<Box<dyn Storage>, StorageError> {
        Ok(Box::new(Folder::create(self.spawn())?))
    }

    fn open(&self) -> Result<Box<dyn Storage>, StorageError> {
        Ok(Box::new(Folder::open(self.spawn())?))
    }

    fn plant(&self, path: &str, bytes: &[u8]) -> Done {
        for (at, _) in path.match_indices('/') {
            if self.list(&path[..at]).is_err() {
                self.make_folder(&path[..at])?;
            }
        }
        Ok(self.create_new(path)?.append(bytes)?)
    }

    fn count(&self, folder: &str) -> Result<usize, Box<dyn Error>> {
        Ok(self.list(folder)?.len())
    }
}

/// Makes each test twice.
macro_rules! for_each_medium {
    ($($test:ident)*) => {
        mod real {
            $(#[test] fn $test() -> super::Done {
                super::$test(&super::Real(tempfile::tempdir()?))
            })*
        }
        mod simulated {
            $(#[test] fn $test() -> super::Done {
                super::$test(&super::SimFs::new(1))
            })*
        }
    };
}

for_each_medium! {
    objects_are_kept_and_listed_in_order
    what_is_set_aside_is_there_and_listed_nowhere
    what_is_kept_aside_stays_until_it_is_replaced
    what_is_there_is_refused_or_replaced
    an_upload_has_no_name_before_its_end
    an_upload_keeps_the_object_that_is_there
    what_cairn_did_not_put_there_is_not_listed
    reads_are_bounded
    more_packs_than_may_be_open_can_be_read
    sessions_are_seen_and_end
    nothing_is_published_after_the_session
    a_repository_is_made_in_an_empty_folder_only
}

fn pack(n: u8) -> Name {
    Name::Pack(PackId::from_bytes([n; 32]))
}

fn note(snapshot: u8, n: u8) -> Name {
    Name::Note(
        SnapshotId::from_bytes([snapshot; 32]),
        NoteId::from_bytes([n; 32]),
    )
}

fn snapshot(n: u8) -> Name {
    Name::Snapshot(SnapshotId::from_bytes([n; 32]))
}

fn names(storage: &dyn Storage, area: Area) -> Result<Vec<(Name, u64)>, StorageError> {
    Ok(storage
        .list(area)?
        .into_iter()
        .map(|listed| (listed.name, listed.len))
        .collect())
}

fn upload(storage: &dyn Storage, session: SessionId, name: &Name, bytes: &[u8]) -> Done {
    let mut upload = storage.upload(session)?;
    for part in bytes.chunks(1000) {
        upload.write(part)?;
    }
    Ok(upload.finish(name)?)
}

fn objects_are_kept_and_listed_in_order(medium: &dyn Medium) -> Done {
    let one = medium.create()?;
    let session = one.open_session(b"{}")?;
    let key = Name::Key(KeyId::from_bytes([9; 32]));
    for name in [
        Name::Config,
        key,
        snapshot(2),
        snapshot(1),
        note(2, 1),
        note(1, 7),
        Name::GcPlan,
    ] {
        one.put(
            session.id(),
            &name,
            name.path().as_bytes(),
            Existing::Refuse,
        )?;
    }
    upload(&*one, session.id(), &pack(0xff), &[1; 2500])?;
    upload(&*one, session.id(), &pack(0x01), &[])?;
    let two = medium.open()?;
    assert_eq!(
        names(&*two, Area::Packs)?,
        [(pack(1), 0), (pack(0xff), 2500)]
    );
    assert_eq!(
        names(&*two, Area::Snapshots)?,
        [(snapshot(1), 74), (snapshot(2), 74)]
    );
    assert_eq!(
        names(&*two, Area::Notes)?,
        [(note(1, 7), 135), (note(2, 1), 135)]
    );
    assert_eq!(names(&*two, Area::Keys)?, [(key, 69)]);
    for name in [Name::Config, key, snapshot(2), note(1, 7), Name::GcPlan] {
        two.settle(&name)?;
        assert_eq!(two.read(&name, 1000)?, name.path().as_bytes());
        assert_eq!(two.len(&name)?, name.path().len() as u64);
    }
    let mut middle = [0; 6];
    two.read_at(&Name::Config, 0, &mut middle)?;
    two.read_at(&pack(0xff), 2490, &mut middle)?;
    assert_eq!(middle, [1; 6]);

    for name in [Name::Config, pack(0xff), snapshot(1), note(2, 1)] {
        two.delete(&name)?;
        two.delete(&name)?;
        assert!(matches!(two.read(&name, 9999), Err(StorageError::NotFound(gone)) if gone == name));
    }
    assert_eq!(names(&*one, Area::Packs)?, [(pack(1), 0)]);
    assert_eq!(medium.count(&format!("tmp/{}", session.id()))?, 0);
    Ok(())
}

fn what_is_set_aside_is_there_and_listed_nowhere(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    upload(&*storage, session.id(), &pack(3), b"first")?;
    upload(&*storage, session.id(), &pack(4), b"other")?;
    let mut buf = [0; 5];
    storage.read_at(&pack(3), 0, &mut buf)?;
    storage.set_aside(&pack(3))?;
    let gone = storage.read_at(&pack(3), 0, &mut buf);
    assert!(matches!(gone, Err(StorageError::NotFound(name)) if name == pack(3)));
    assert_eq!(names(&*medium.open()?, Area::Packs)?, [(pack(4), 5)]);
    assert_eq!(medium.count("damaged")?, 1);
    let again = storage.set_aside(&pack(3));
    assert!(matches!(again, Err(StorageError::NotFound(name)) if name == pack(3)));
    // What was stored anew can be set aside as well.
    upload(&*storage, session.id(), &pack(3), b"again")?;
    assert_eq!(storage.read(&pack(3), 5)?, b"again");
    storage.set_aside(&pack(3))?;
    assert_eq!(medium.count("damaged")?, 1);
    Ok(())
}

fn what_is_kept_aside_stays_until_it_is_replaced(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    upload(&*storage, session.id(), &pack(3), b"rotten")?;
    let mut buf = [0; 6];
    storage.read_at(&pack(3), 0, &mut buf)?;
    // Twice: whoever was interrupted between the two steps begins with the first again.
    for _ in 0..2 {
        storage.keep_aside(session.id(), &pack(3))?;
        assert_eq!(storage.read(&pack(3), 6)?, b"rotten");
        assert_eq!(medium.count("damaged")?, 1);
    }
    let gone = storage.keep_aside(session.id(), &pack(4));
    assert!(matches!(gone, Err(StorageError::NotFound(name)) if name == pack(4)));
    let mut whole = storage.upload(session.id())?;
    whole.write(b"who")?;
    whole.write(b"le!")?;
    whole.read_at(2, &mut buf[..3])?;
    assert_eq!(&buf[..3], b"ole");
    assert!(whole.read_at(4, &mut buf[..3]).is_err(), "past its end");
    whole.replace(&pack(3))?;
    // Whoever had the old one open sees the new one.
    storage.read_at(&pack(3), 0, &mut buf)?;
    assert_eq!(&buf, b"whole!");
    assert_eq!(storage.read(&pack(3), 6)?, b"whole!");
    storage.keep_aside(session.id(), &pack(3))?;
    assert_eq!(medium.count("damaged")?, 1);
    assert_eq!(medium.count(&format!("tmp/{}", session.id()))?, 0);
    assert_eq!(names(&*storage, Area::Packs)?, [(pack(3), 6)]);
    Ok(())
}

fn what_is_there_is_refused_or_replaced(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    let put = |bytes: &[u8], existing| storage.put(session.id(), &Name::GcPlan, bytes, existing);
    put(b"first", Existing::Replace)?;
    let refused = put(b"second", Existing::Refuse);
    assert!(
        matches!(refused, Err(StorageError::Exists(Name::GcPlan))),
        "{refused:?}"
    );
    assert_eq!(storage.read(&Name::GcPlan, 10)?, b"first");
    put(b"third", Existing::Replace)?;
    assert_eq!(storage.read(&Name::GcPlan, 10)?, b"third");
    assert_eq!(
        medium.count(&format!("tmp/{}", session.id()))?,
        0,
        "the refused one is gone"
    );
    Ok(())
}

fn an_upload_has_no_name_before_its_end(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    let folder = format!("tmp/{}", session.id());
    let mut dropped = storage.upload(session.id())?;
    dropped.write(b"bytes")?;
    let mut finished = storage.upload(session.id())?;
    finished.write(b"by")?;
    assert_eq!(medium.count(&folder)?, 2);
    drop(dropped);
    assert_eq!(medium.count(&folder)?, 1);
    assert!(storage.list(Area::Packs)?.is_empty());
    finished.write(b"tes")?;
    finished.finish(&pack(3))?;
    assert_eq!(storage.read(&pack(3), 5)?, b"bytes");
    assert_eq!(medium.count(&folder)?, 0);
    Ok(())
}

fn an_upload_keeps_the_object_that_is_there(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    upload(&*storage, session.id(), &pack(3), b"first")?;
    upload(&*medium.open()?, session.id(), &pack(3), b"second").expect_err("another's session");
    upload(&*storage, session.id(), &pack(3), b"second")?;
    assert_eq!(storage.read(&pack(3), 10)?, b"first");
    assert_eq!(medium.count(&format!("tmp/{}", session.id()))?, 0);
    Ok(())
}

fn what_cairn_did_not_put_there_is_not_listed(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let id = "ab".repeat(32);
    for path in [
        &format!("packs/ac/{id}"),
        &format!("packs/ab/{id}.tmp"),
        &format!("packs/ab/.{id}"),
        &format!("packs/ab/{}", id.to_uppercase()),
        &format!("packs/ab/{id}/folder"),
        &format!("packs/{id}"),
        "packs/.nfs000",
        "snapshots/README",
        &format!("snapshots/{id}~"),
        &format!("notes/{id}/x"),
        &format!("notes/x/{id}"),
        &format!("keys/{id}/{id}"),
        &format!("locks/{id}"),
        "locks/README",
        "tmp/README",
        "tmp/README.session",
        "tmp/folder/file",
    ] {
        medium.plant(path, b"foreign")?;
    }
    for area in [Area::Packs, Area::Snapshots, Area::Notes, Area::Keys] {
        assert_eq!(names(&*storage, area)?, []);
    }
    assert!(storage.sessions()?.is_empty());
    assert_eq!(storage.clear_dead_sessions()?, 0);
    assert_eq!((medium.count("tmp")?, medium.count("locks")?), (3, 2));
    Ok(())
}

fn reads_are_bounded(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    upload(&*storage, session.id(), &pack(1), &[5; 100])?;
    assert_eq!(storage.read(&pack(1), 100)?.len(), 100);
    let long = storage.read(&pack(1), 99);
    assert!(
        matches!(
            long,
            Err(StorageError::TooLong {
                len: 100,
                limit: 99,
                ..
            })
        ),
        "{long:?}"
    );
    let mut buf = [0; 10];
    storage.read_at(&pack(1), 90, &mut buf)?;
    for offset in [91, 100, 1 << 40, u64::MAX >> 1] {
        let short = storage.read_at(&pack(1), offset, &mut buf);
        assert!(
            matches!(short, Err(StorageError::ShortRead { .. })),
            "{offset}: {short:?}"
        );
    }
    for missing in [
        storage.len(&pack(2)),
        storage.read_at(&pack(2), 0, &mut buf).map(|()| 0),
    ] {
        assert!(
            matches!(missing, Err(StorageError::NotFound(_))),
            "{missing:?}"
        );
    }
    Ok(())
}

fn more_packs_than_may_be_open_can_be_read(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    for n in 0..100 {
        upload(&*storage, session.id(), &pack(n), &[n; 8])?;
    }
    for round in 0..3 {
        for n in (0..100).rev() {
            let mut buf = [0; 2];
            storage.read_at(&pack(n), round, &mut buf)?;
            assert_eq!(buf, [n; 2]);
        }
    }
    Ok(())
}

fn sessions_are_seen_and_end(medium: &dyn Medium) -> Done {
    let (one, two) = (medium.create()?, medium.open()?);
    let first = one.open_session(b"first")?;
    let second = two.open_session(b"second")?;
    for storage in [&one, &two, &medium.open()?] {
        assert_eq!(storage.clear_dead_sessions()?, 0, "both are alive");
        let mut seen = storage.sessions()?;
        seen.sort_by_key(|session| session.document.clone());
        assert!(seen.iter().all(|session| session.alive));
        let seen: Vec<_> = seen.iter().map(|seen| (seen.id, &*seen.document)).collect();
        assert_eq!(
            seen,
            [(first.id(), &b"first"[..]), (second.id(), &b"second"[..])]
        );
    }
    drop(first);
    assert_eq!(two.sessions()?.len(), 1);
    drop(second);
    assert_eq!(one.sessions()?.len(), 0);
    assert_eq!(
        (medium.count("tmp")?, medium.count("locks")?),
        (0, 0),
        "nothing is left"
    );
    Ok(())
}

fn nothing_is_published_after_the_session(medium: &dyn Medium) -> Done {
    let storage = medium.create()?;
    let session = storage.open_session(b"")?;
    let id = session.id();
    let mut late = storage.upload(id)?;
    drop(session);
    assert!(
        medium.open()?.sessions()?.iter().all(|seen| seen.alive),
        "the upload is at work"
    );
    assert_eq!(storage.sessions()?.len(), 1);
    late.write(b"late")?;
    late.finish(&pack(1))?;
    assert_eq!(storage.sessions()?.len(), 0);
    let refused = storage.put(id, &Name::Config, b"", Existing::Refuse);
    assert!(
        matches!(refused, Err(StorageError::PreviousFailure { .. })),
        "{refused:?}"
    );
    assert!(storage.upload(id).is_err());
    assert_eq!((medium.count("tmp")?, medium.count("locks")?), (0, 0));
    Ok(())
}

fn a_repository_is_made_in_an_empty_folder_only(medium: &dyn Medium) -> Done {
    let first = medium.create()?;
    drop(medium.create()?);
    let session = first.open_session(b"")?;
    drop(medium.create()?);
    first.put(session.id(), &Name::Config, b"settings", Existing::Refuse)?;
    let refused = medium.create().err();
    assert!(
        matches!(refused, Some(StorageError::NotEmpty { .. })),
        "{refused:?}"
    );
    first.delete(&Name::Config)?;
    drop(medium.create()?);
    medium.plant("packs/aa/anything", b"")?;
    let refused = medium.create().err();
    assert!(
        matches!(refused, Some(StorageError::NotEmpty { .. })),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_folder_that_is_not_there_has_no_config() -> Done {
    let at = tempfile::tempdir()?;
    fs::write(at.path().join("file"), b"")?;
    for missing in ["missing", "missing/below", "file"] {
        let refused = Folder::open_at(&at.path().join(missing)).err();
        assert!(
            matches!(refused, Some(StorageError::NotFound(Name::Config))),
            "{refused:?}"
        );
    }
    Ok(())
}
