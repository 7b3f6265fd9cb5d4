//! Sessions of dead processes, and cleaners that come at the worst moment.

use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{env, fs, thread};

use cairn_engine::id::PackId;
use cairn_engine::storage::sim::{SimFile, SimFs};
use cairn_engine::storage::{
    Entry, Existing, FileSystem, Folder, LockMode, Name, OpenFile, RenameMode, Storage,
};

type Done = Result<(), Box<dyn Error>>;

/// Tells the child which repository to work in.
const CHILD: &str = "CAIRN_TEST_SESSION_OF";

/// Not a test: what the child does. Holds a session with an unfinished upload until it is killed.
#[test]
fn child_at_work() -> Done {
    let Some(path) = env::var_os(CHILD) else {
        return Ok(());
    };
    let storage = Folder::open_at(&PathBuf::from(path))?;
    let session = storage.open_session(b"child")?;
    let mut upload = storage.upload(session.id())?;
    upload.write(&[1; 100_000])?;
    // A grandchild must not inherit the lock. It is the one that reports, because between its birth
    // and the start of its own program it does have the file open.
    let script = format!(
        "echo $$ > '{}/../grandchild'; echo; echo at work; exec sleep 60",
        storage.location()
    );
    Command::new("sh").args(["-c", &script]).spawn()?.wait()?;
    Ok(())
}

/// Starts a child, and returns when it is at work.
fn start_child(repository: &str) -> Result<Child, Box<dyn Error>> {
    let mut child = Command::new(env::current_exe()?)
        .args(["--exact", "storage_sessions::child_at_work", "--nocapture"])
        .env(CHILD, repository)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("the child's output is a pipe")?;
    for line in BufReader::new(stdout).lines() {
        if line? == "at work" {
            return Ok(child);
        }
    }
    Err("the child ended before it was at work".into())
}

#[test]
fn a_killed_process_is_dead_at_once_and_is_cleared() -> Done {
    let at = tempfile::tempdir()?;
    let storage = Folder::create_at(&at.path().join("repository"))?;
    let mut child = start_child(&storage.location())?;
    let seen = storage.sessions()?;
    assert!(
        seen.iter()
            .map(|seen| (seen.alive, &*seen.document))
            .eq([(true, &b"child"[..])])
    );
    assert_eq!(storage.clear_dead_sessions()?, 0, "it is alive");

    child.kill()?;
    child.wait()?;
    let seen = storage.sessions()?;
    assert!(
        seen.iter()
            .map(|seen| (seen.alive, &*seen.document))
            .eq([(false, &b"child"[..])])
    );
    let id = seen.first().ok_or("one session")?.id;
    assert_eq!(
        fs::read_dir(at.path().join(format!("repository/tmp/{id}")))?.count(),
        1
    );
    assert_eq!(storage.clear_dead_sessions()?, 1);
    assert_eq!(storage.sessions()?.len(), 0);
    assert_eq!(fs::read_dir(at.path().join("repository/tmp"))?.count(), 0);
    assert_eq!(fs::read_dir(at.path().join("repository/locks"))?.count(), 0);
    let grandchild = fs::read_to_string(at.path().join("grandchild"))?;
    assert!(
        Command::new("kill")
            .arg(grandchild.trim())
            .status()?
            .success(),
        "it lived all the while"
    );
    Ok(())
}

#[test]
fn sessions_start_while_others_clean() -> Done {
    let at = tempfile::tempdir()?;
    let storage = Arc::new(Folder::create_at(at.path())?);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Done {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    storage
                        .clear_dead_sessions()
                        .expect("cleaning does not fail");
                    storage.sessions().expect("looking does not fail");
                }
            });
        }
        let work = |n: u8| -> Done {
            for round in 0..100 {
                let session = storage.open_session(&[n])?;
                let mut upload = storage.upload(session.id())?;
                upload.write(&[n, round])?;
                let seen = storage.sessions()?;
                let own = seen
                    .iter()
                    .find(|seen| seen.id == session.id())
                    .ok_or("not seen")?;
                assert!(own.alive);
                if round == 0 {
                    upload.finish(&Name::Pack(PackId::from_bytes([n; 32])))?;
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (1..3)
            .map(|n| scope.spawn(move || work(n).map_err(|err| err.to_string())))
            .collect();
        let done: Result<Vec<()>, _> = workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .collect();
        stop.store(true, Ordering::Relaxed);
        Ok(done.map(|_| ())?)
    })?;
    assert_eq!(storage.clear_dead_sessions()?, 0, "each ended in order");
    Ok(())
}

/// A simulated disk where something else happens just before one of the calls.
#[derive(Clone)]
pub struct Interrupted {
    disk: SimFs,
    shared: Arc<Mutex<Interruption>>,
}

struct Interruption {
    calls: usize,
    at: usize,
    action: Box<dyn FnMut() + Send>,
}

impl Interrupted {
    pub fn new(disk: SimFs, at: usize, action: impl FnMut() + Send + 'static) -> Self {
        let interruption = Interruption {
            calls: 0,
            at,
            action: Box::new(action),
        };
        Self {
            disk,
            shared: Arc::new(Mutex::new(interruption)),
        }
    }

    pub fn calls(&self) -> usize {
        self.shared.lock().expect("no test thread panics").calls
    }

    fn tick(&self) -> &SimFs {
        let mut shared = self.shared.lock().expect("no test thread panics");
        if shared.calls == shared.at {
            (shared.action)();
        }
        shared.calls += 1;
        &self.disk
    }
}

pub struct InterruptedFile(SimFile, Interrupted);

impl OpenFile for InterruptedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.1.tick();
        self.0.append(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.tick();
        self.0.sync()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.tick();
        self.0.read_exact_at(buf, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.1.tick();
        self.0.len()
    }
    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        self.1.tick();
        self.0.try_lock(mode)
    }
}

impl FileSystem for Interrupted {
    type File = InterruptedFile;

    fn location(&self) -> String {
        self.disk.location()
    }
    fn unsuitable(&self) -> io::Result<Option<&'static str>> {
        self.disk.unsuitable()
    }
    fn draw(&self) -> io::Result<[u8; 16]> {
        self.disk.draw()
    }
    fn create_new(&self, path: &str) -> io::Result<InterruptedFile> {
        Ok(InterruptedFile(self.tick().create_new(path)?, self.clone()))
    }
    fn open(&self, path: &str) -> io::Result<InterruptedFile> {
        Ok(InterruptedFile(self.tick().open(path)?, self.clone()))
    }
    fn is_named(&self, file: &InterruptedFile, path: &str) -> io::Result<bool> {
        self.tick().is_named(&file.0, path)
    }
    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> io::Result<()> {
        self.tick().rename(from, to, mode)
    }
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.tick().link(from, to)
    }
    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.tick().sync_folder(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.tick().list(path)
    }
    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.tick().make_folder(path)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.tick().remove_file(path)
    }
    fn remove_folder(&self, path: &str) -> io::Result<()> {
        self.tick().remove_folder(path)
    }
}

/// Opens a session, publishes and ends. Returns how many calls of the disk that took.
fn whole_session(disk: Interrupted) -> Result<usize, Box<dyn Error>> {
    let storage = Folder::open(disk.clone())?;
    let session = storage.open_session(b"worker")?;
    let mut upload = storage.upload(session.id())?;
    upload.write(b"bytes")?;
    let name = Name::Pack(PackId::from_bytes([1; 32]));
    upload.finish(&name)?;
    storage.put(session.id(), &Name::GcPlan, b"plan", Existing::Replace)?;
    drop(session);
    assert_eq!(storage.read(&name, 5)?, b"bytes");
    assert_eq!(storage.read(&Name::GcPlan, 4)?, b"plan");
    Ok(disk.calls())
}

#[test]
fn a_cleaner_between_any_two_steps_of_a_session_does_no_harm() -> Done {
    let mut calls = 0;
    let mut at = 0;
    while at <= calls {
        let disk = SimFs::new(1);
        drop(Folder::create(disk.clone())?);
        let cleaner = Folder::open(disk.spawn())?;
        let interrupted = Interrupted::new(disk.spawn(), at, move || {
            cleaner
                .clear_dead_sessions()
                .expect("cleaning does not fail");
            for seen in cleaner.sessions().expect("looking does not fail") {
                assert!(seen.alive, "a session at work is taken for dead");
                assert_eq!(seen.document, b"worker", "a session is seen in part");
            }
        });
        calls = calls.max(whole_session(interrupted)?);
        assert_eq!(disk.list("tmp")?, [], "cleaner before call {at}");
        assert_eq!(disk.list("locks")?, [], "cleaner before call {at}");
        at += 1;
    }
    assert!(calls > 15, "{calls} calls are too few to be true");
    Ok(())
}

#[test]
fn two_cleaners_at_once_clear_a_dead_session_and_no_other() -> Done {
    let mut calls = 0;
    let mut at = 0;
    while at <= calls {
        let disk = SimFs::new(1);
        drop(Folder::create(disk.clone())?);
        let dying = disk.spawn();
        let worker = Folder::open(dying.clone())?;
        let dead = worker.open_session(b"dead")?;
        let mut upload = worker.upload(dead.id())?;
        upload.write(b"bytes")?;
        dying.kill();
        let living = Folder::open(disk.spawn())?;
        let session = living.open_session(b"living")?;
        let mut kept = living.upload(session.id())?;
        kept.write(b"bytes")?;

        let second = Folder::open(disk.spawn())?;
        let by_second = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&by_second);
        let interrupted = Interrupted::new(disk.spawn(), at, move || {
            let cleared = second
                .clear_dead_sessions()
                .expect("cleaning does not fail");
            count.store(cleared, Ordering::Relaxed);
        });
        let by_first = Folder::open(interrupted.clone())?.clear_dead_sessions()?;
        assert_eq!(
            by_first + by_second.load(Ordering::Relaxed),
            1,
            "second before call {at}"
        );
        calls = calls.max(interrupted.calls());
        let seen = living.sessions()?;
        assert!(
            seen.iter().map(|seen| seen.id).eq([session.id()]),
            "second before call {at}"
        );
        assert_eq!(disk.list("tmp")?.len(), 1, "second before call {at}");
        kept.finish(&Name::Pack(PackId::from_bytes([1; 32])))?;
        at += 1;
    }
    Ok(())
}

#[test]
fn a_session_that_ends_while_it_is_looked_for_is_never_taken_for_dead() -> Done {
    let mut calls = 0;
    let mut at = 0;
    while at <= calls {
        let disk = SimFs::new(1);
        let storage = Folder::create(disk.clone())?;
        let mut session = Some(storage.open_session(b"worker")?);
        let interrupted = Interrupted::new(disk.spawn(), at, move || drop(session.take()));
        let seen = Folder::open(interrupted.clone())?.sessions()?;
        assert!(
            seen.iter().all(|seen| seen.alive),
            "it ended before call {at}"
        );
        calls = calls.max(interrupted.calls());
        at += 1;
    }
    Ok(())
}
