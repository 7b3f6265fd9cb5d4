//! Power cuts, failing disks and dying processes at every step of a history of storage calls.
//!
//! The model is a list of calls with the numbers of the disk operations between which they ran.
//! From it alone follows what a name may hold after a power cut: what was acknowledged, or what a
//! call under way would have made of it, and never anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use cairn_engine::id::{NoteId, PackId, SessionId, SnapshotId};
use cairn_engine::storage::sim::{Fault, FaultKind, FaultOn, Lie, SimFs};
use cairn_engine::storage::{
    Area, Existing, FileSystem, Folder, Listed, Name, Storage, StorageError,
};
use fastrand::Rng;

type Done = Result<(), Box<dyn Error>>;

#[derive(Debug, Clone)]
enum Call {
    Put(Vec<u8>),
    Delete,
    Settle,
}

/// One call of a history: it ran after `start` operations of the disk and before `end`.
#[derive(Debug)]
struct Event {
    name: Name,
    call: Call,
    start: usize,
    end: usize,
    done: bool,
}

type Contents = BTreeMap<Name, BTreeSet<Option<Vec<u8>>>>;

/// Returns what each name may hold after a power cut behind `after` operations.
fn possible(history: &[Event], after: usize) -> Contents {
    let mut contents = Contents::new();
    // What processes see, which is what a settled folder holds.
    let mut live: BTreeMap<Name, Option<Vec<u8>>> = BTreeMap::new();
    for event in history.iter().filter(|event| event.start < after) {
        let sure = event.done && event.end <= after;
        let held = contents
            .entry(event.name)
            .or_insert_with(|| BTreeSet::from([None]));
        let becomes = match &event.call {
            Call::Put(bytes) => Some(bytes.clone()),
            Call::Delete => None,
            Call::Settle => live.get(&event.name).cloned().flatten(),
        };
        let durable = !matches!(event.call, Call::Delete);
        if sure {
            live.insert(event.name, becomes.clone());
        }
        if sure && durable {
            held.clear();
        }
        if sure || durable || !matches!(event.call, Call::Settle) {
            held.insert(becomes);
        }
    }
    contents
}

/// Opens a disk and returns what is wrong with it, against what names may hold.
fn violations(disk: SimFs, contents: &Contents) -> Result<Vec<String>, StorageError> {
    let mut wrong = Vec::new();
    if contents.is_empty() {
        return Ok(wrong);
    }
    let storage = Folder::open(disk)?;
    for (name, possible) in contents {
        let held = match storage.read(name, 1 << 20) {
            Ok(bytes) => Some(bytes),
            Err(StorageError::NotFound(_)) => None,
            Err(err) => return Err(err),
        };
        if !possible.contains(&held) {
            let lens = |held: &Option<Vec<u8>>| held.as_ref().map(Vec::len);
            let expected: Vec<_> = possible.iter().map(lens).collect();
            wrong.push(format!(
                "{name}: {:?} bytes, not one of {expected:?}",
                lens(&held)
            ));
        }
    }
    for area in [Area::Packs, Area::Snapshots, Area::Notes] {
        match storage.list(area) {
            Ok(found) => {
                let strange = |listed: &&Listed| !contents.contains_key(&listed.name);
                wrong.extend(
                    found
                        .iter()
                        .filter(strange)
                        .map(|it| format!("strange {}", it.name)),
                );
            }
            Err(err) if contents[&Name::Config].contains(&None) => drop(err),
            Err(err) => wrong.push(format!("{area:?}: {err}")),
        }
    }
    Ok(wrong)
}

/// A process that makes history.
struct Actor<'a> {
    disk: SimFs,
    history: &'a mut Vec<Event>,
}

impl Actor<'_> {
    fn note(
        &mut self,
        name: Name,
        call: Call,
        run: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let start = self.disk.op_count();
        let result = run();
        // What exists already is refused, and nothing happens.
        if !matches!(result, Err(StorageError::Exists(_))) {
            let (end, done) = (self.disk.op_count(), result.is_ok());
            self.history.push(Event {
                name,
                call,
                start,
                end,
                done,
            });
        }
        result
    }

    /// Makes a repository and works in it. Goes on after errors, as a process with many tasks
    /// would, and returns them all.
    fn work(&mut self, random: &mut Rng, steps: usize) -> Vec<StorageError> {
        let mut errors = Vec::new();
        let storage = match Folder::create(self.disk.clone()) {
            Ok(storage) => storage,
            Err(err) => return vec![err],
        };
        let mut session = None;
        for step in 0..steps {
            if session.is_none() || random.u8(..8) == 0 {
                drop(session.take());
                match storage.open_session(b"{}") {
                    Ok(opened) => session = Some(opened),
                    Err(err) => {
                        errors.push(err);
                        continue;
                    }
                }
            }
            let id = session.as_ref().expect("one was just opened").id();
            let result = self.step(&storage, id, step, random);
            match result {
                // Settling what was never made.
                Err(StorageError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Ok(()) | Err(StorageError::Exists(_)) => {}
                Err(err) => errors.push(err),
            }
        }
        errors
    }

    /// Puts, uploads or deletes something.
    fn step(
        &mut self,
        storage: &dyn Storage,
        id: SessionId,
        step: usize,
        random: &mut Rng,
    ) -> Result<(), StorageError> {
        let bytes = vec![random.u8(1..); random.usize(1..9000)];
        let n = random.u8(..3);
        let name = match (step, random.u8(..5)) {
            (0, _) => Name::Config,
            (_, 0) => Name::Snapshot(SnapshotId::from_bytes([n; 32])),
            (_, 1) => {
                let of = SnapshotId::from_bytes([random.u8(..2); 32]);
                Name::Note(of, NoteId::from_bytes([n; 32]))
            }
            (_, 2) => Name::GcPlan,
            _ => Name::Pack(PackId::from_bytes([n; 32])),
        };
        let put = Call::Put(bytes.clone());
        match (name, random.u8(..5)) {
            (Name::Config, _) => self.note(name, put, || {
                storage.put(id, &name, &bytes, Existing::Refuse)
            }),
            (_, 0) => self
                .note(name, Call::Delete, || storage.delete(&name))
                .and_then(|()| self.note(name, Call::Settle, || storage.settle(&name))),
            (_, 1) => self.note(name, Call::Delete, || storage.delete(&name)),
            (Name::Pack(_), 2) => {
                // Durable on return: what is settled after it settles nothing more.
                let done = self
                    .note(name, Call::Delete, || storage.set_aside(&name))
                    .and_then(|()| self.note(name, Call::Settle, || Ok(())));
                match done {
                    Err(StorageError::NotFound(_)) => Ok(()),
                    done => done,
                }
            }
            // The same pack always has the same bytes.
            (Name::Pack(_), _) => {
                let bytes = vec![n + 1; 5000 * usize::from(n + 1)];
                self.note(name, Call::Put(bytes.clone()), || {
                    let mut upload = storage.upload(id)?;
                    bytes.chunks(4000).try_for_each(|part| upload.write(part))?;
                    upload.finish(&name)
                })
            }
            (Name::Snapshot(_), _) => self.note(name, put, || {
                storage.put(id, &name, &bytes, Existing::Refuse)
            }),
            _ => self.note(name, put, || {
                storage.put(id, &name, &bytes, Existing::Replace)
            }),
        }
    }
}

fn env_seed() -> u64 {
    let given = std::env::var_os("CAIRN_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    given.unwrap_or(1)
}

/// Runs one history on a disk that lies, or not, and returns what power cuts find.
fn power_cuts(seed: u64, lie: Option<Lie>, cuts: u64) -> Result<Vec<String>, StorageError> {
    let disk = SimFs::new(seed);
    disk.pretend(lie);
    let mut history = Vec::new();
    let mut actor = Actor {
        disk: disk.clone(),
        history: &mut history,
    };
    let errors = actor.work(&mut Rng::with_seed(seed), 30);
    assert!(errors.is_empty(), "seed {seed}: {errors:?}");
    let mut wrong = Vec::new();
    for after in 0..=disk.op_count() {
        let contents = possible(&history, after);
        for cut in 0..cuts {
            let found = violations(disk.crash_image(after, cut), &contents)?;
            wrong.extend(
                found
                    .iter()
                    .map(|it| format!("seed {seed}, {after}, {cut}: {it}")),
            );
        }
    }
    Ok(wrong)
}

#[test]
fn a_power_cut_takes_back_nothing_that_was_acknowledged_and_tears_nothing() -> Done {
    for seed in env_seed()..env_seed() + 12 {
        assert_eq!(power_cuts(seed, None, 12)?, [""; 0]);
    }
    Ok(())
}

#[test]
fn a_lying_disk_is_found_out() -> Done {
    for lie in [Lie::FileSyncs, Lie::FolderSyncs, Lie::LateFileSyncs] {
        assert_ne!(
            power_cuts(env_seed(), Some(lie), 12)?,
            [""; 0],
            "{lie:?} goes unnoticed"
        );
    }
    Ok(())
}

#[test]
fn life_goes_on_after_a_power_cut() -> Done {
    let seed = env_seed();
    let disk = SimFs::new(seed);
    let mut history = Vec::new();
    Actor {
        disk: disk.clone(),
        history: &mut history,
    }
    .work(&mut Rng::with_seed(seed), 20);
    let ready = history[0].end;
    for after in ready..=disk.op_count() {
        let disk = disk.crash_image(after, after as u64);
        let storage = Folder::open(disk.clone())?;
        assert!(storage.sessions()?.iter().all(|session| !session.alive));
        storage.clear_dead_sessions()?;
        assert_eq!(disk.list("tmp")?, [], "seed {seed}, {after}");
        assert_eq!(disk.list("locks")?, [], "seed {seed}, {after}");
        let session = storage.open_session(b"")?;
        storage.put(session.id(), &Name::GcPlan, b"new", Existing::Replace)?;
        let again = Folder::open(disk.crash_image(disk.op_count(), 3))?;
        assert_eq!(
            again.read(&Name::GcPlan, 3)?,
            b"new",
            "seed {seed}, {after}"
        );
    }
    Ok(())
}

#[test]
fn a_failing_disk_loses_nothing_that_was_acknowledged() -> Done {
    let seed = env_seed();
    let clean = SimFs::new(seed);
    Actor {
        disk: clean.clone(),
        history: &mut Vec::new(),
    }
    .work(&mut Rng::with_seed(seed), 12);
    for at in 0..clean.op_count() {
        for kind in [FaultKind::Io, FaultKind::NoSpace, FaultKind::Short] {
            for lasting in [false, true] {
                let disk = SimFs::new(seed);
                disk.inject(Fault {
                    on: FaultOn::Changes,
                    at,
                    lasting,
                    kind,
                });
                let mut history = Vec::new();
                let mut actor = Actor {
                    disk: disk.clone(),
                    history: &mut history,
                };
                let errors = actor.work(&mut Rng::with_seed(seed), 12);
                let context = format!("seed {seed}, {kind:?} at {at}, lasting: {lasting}");
                for error in &errors {
                    let typed = match kind {
                        FaultKind::Io => matches!(error, StorageError::Io { .. }),
                        _ => matches!(error, StorageError::NoSpace { .. }),
                    };
                    let sticky = matches!(error, StorageError::PreviousFailure { .. });
                    assert!(typed || sticky, "{context}: {error:?}");
                }
                disk.heal();
                let contents = possible(&history, usize::MAX);
                assert_eq!(violations(disk.spawn(), &contents)?, [""; 0], "{context}");
                for cut in 0..6 {
                    let left = disk.crash_image(disk.op_count(), cut);
                    assert_eq!(
                        violations(left, &contents)?,
                        [""; 0],
                        "{context}, cut {cut}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_failed_fsync_of_a_folder_ends_all_publishing() -> Done {
    let disk = SimFs::new(1);
    let storage = Folder::create(disk.clone())?;
    let session = storage.open_session(b"")?;
    let put = |name: &Name| storage.put(session.id(), name, b"bytes", Existing::Refuse);
    put(&Name::Config)?;
    let before = disk.op_count();
    put(&Name::Snapshot(SnapshotId::from_bytes([1; 32])))?;
    // The folder's fsync is the last thing that a put does.
    let at = disk.op_count() + (disk.op_count() - before) - 1;
    disk.inject(Fault {
        on: FaultOn::Changes,
        at,
        lasting: false,
        kind: FaultKind::Io,
    });
    let first = put(&Name::Snapshot(SnapshotId::from_bytes([2; 32])));
    assert!(
        matches!(first, Err(StorageError::Io { op: "fsync", .. })),
        "{first:?}"
    );
    let later = put(&Name::GcPlan);
    assert!(
        matches!(later, Err(StorageError::PreviousFailure { .. })),
        "{later:?}"
    );
    let settled = storage.settle(&Name::Config);
    assert!(
        matches!(settled, Err(StorageError::PreviousFailure { .. })),
        "{settled:?}"
    );
    assert_eq!(storage.read(&Name::Config, 5)?, b"bytes", "reading goes on");
    Ok(())
}

/// Lets a process die before one of its operations, and another build on what it left, in one of
/// the two ways there are. Nothing of that may be lost afterwards.
fn take_over(seed: u64, at: usize, settle: bool) -> Done {
    let context = format!("seed {seed}, death at {at}, settle: {settle}");
    let disk = SimFs::new(seed);
    let heir = disk.spawn();
    disk.inject(Fault {
        on: FaultOn::Changes,
        at,
        lasting: false,
        kind: FaultKind::Death,
    });
    let mut history = Vec::new();
    Actor {
        disk: disk.clone(),
        history: &mut history,
    }
    .work(&mut Rng::with_seed(seed), 20);

    let storage = Folder::open(heir.clone())?;
    if storage.read(&Name::Config, 1 << 20).is_err() {
        return Ok(());
    }
    assert!(
        storage.sessions()?.iter().all(|session| !session.alive),
        "{context}"
    );
    storage.clear_dead_sessions()?;
    assert_eq!(heir.list("tmp")?, [], "{context}");
    assert_eq!(heir.list("locks")?, [], "{context}");
    let session = storage.open_session(b"")?;
    let mut taken_in = Vec::new();
    for Listed { name, .. } in storage.list(Area::Packs)? {
        let bytes = storage.read(&name, 1 << 20)?;
        if settle {
            storage.settle(&name)?;
        } else {
            let mut upload = storage.upload(session.id())?;
            upload.write(&bytes)?;
            upload.finish(&name)?;
        }
        taken_in.push((name, bytes));
    }
    for cut in 0..12 {
        let after = Folder::open(disk.crash_image(disk.op_count(), cut))?;
        for (name, bytes) in &taken_in {
            let held = after.read(name, 1 << 20).ok();
            assert_eq!(held.as_ref(), Some(bytes), "{context}, cut {cut}");
        }
    }
    Ok(())
}

#[test]
fn what_is_taken_over_stays_whoever_died_on_it() -> Done {
    let seed = env_seed();
    let clean = SimFs::new(seed);
    Actor {
        disk: clean.clone(),
        history: &mut Vec::new(),
    }
    .work(&mut Rng::with_seed(seed), 20);
    for at in 0..clean.op_count() {
        take_over(seed, at, true)?;
        take_over(seed, at, false)?;
    }
    Ok(())
}

#[test]
fn failing_reads_are_errors() -> Done {
    let disk = SimFs::new(1);
    let storage = Folder::create(disk.clone())?;
    let session = storage.open_session(b"")?;
    storage.put(session.id(), &Name::GcPlan, b"bytes", Existing::Refuse)?;
    for kind in [FaultKind::Io, FaultKind::Short] {
        let before = disk.read_count();
        storage.read(&Name::GcPlan, 5)?;
        let calls = disk.read_count() - before;
        for call in 0..calls {
            let at = disk.read_count() + call;
            disk.inject(Fault {
                on: FaultOn::Reads,
                at,
                lasting: false,
                kind,
            });
            let failed = storage.read(&Name::GcPlan, 5);
            let io = matches!(failed, Err(StorageError::Io { .. }));
            let short = matches!(failed, Err(StorageError::ShortRead { end: 5, .. }));
            assert!(
                io || kind == FaultKind::Short && short,
                "{call}: {failed:?}"
            );
        }
    }
    Ok(())
}
