//! A repository as the commands use it: opened, listed, and snapshots found by what was typed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use cairn_engine::crypto::Passphrase;
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::newest::{Candidates, Loss, SnapshotSummary};
use cairn_engine::repository::reference::{ResolveError, SnapshotRef};
use cairn_engine::repository::{
    Access, Contents, Known, OpenOptions, PutBack, Repository, RepositoryError, Snapshot,
    SnapshotList, Unseen,
};
use cairn_engine::storage::{Folder, Name, SharedStorage, StorageError};
use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use crate::context::{self, Context};
use crate::exit::absent::Absent;
use crate::exit::repair::HasSpare;
use crate::exit::resolve::NoSnapshot;
use crate::exit::{CliError, one_line};
use crate::output::backup::torn_words;
use crate::output::time;
use crate::password;

/// Returns how repositories are opened here: where they are, and where their caches go.
pub fn open_options(context: &Context) -> Result<OpenOptions> {
    // A process that serves in the background leaves the folder that it was started in.
    let local = std::path::absolute(context.repository()?);
    Ok(OpenOptions {
        local: Some(local.context("cannot tell the current folder")?),
        cache: context.cache_folder()?,
    })
}

/// Hands a typed passphrase to the engine, which wipes it as we do.
pub fn passphrase(mut typed: Zeroizing<String>) -> Passphrase {
    Passphrase::new(std::mem::take(&mut *typed).into_bytes())
}

/// Opens the folder of a repository that there is.
pub fn storage(context: &Context) -> Result<SharedStorage> {
    storage_at(&context.repository()?)
}

fn storage_at(path: &Path) -> Result<SharedStorage> {
    let folder = Folder::open_at(path).map_err(|error| match error {
        StorageError::NotFound(Name::Config) => Absent::look(path).into(),
        error => anyhow::Error::from(error),
    })?;
    Ok(Arc::new(folder))
}

/// Says of a place at which no repository could be opened what is there.
fn looked_at(path: &Path, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(RepositoryError::NoRepository { .. }) => Absent::look(path).into(),
        _ => error,
    }
}

/// Opens the repository; asks for its passphrase where it is encrypted.
pub fn open(context: &Context) -> Result<Arc<Repository>> {
    let options = open_options(context)?;
    let storage = storage(context)?;
    let given = context.is_passphrase_given();
    let opened = Repository::open(Arc::clone(&storage), &options, given, || {
        context.passphrase().map(passphrase)
    });
    let opened = opened.map_err(|error| match error.downcast::<RepositoryError>() {
        Ok(error) => {
            let is_damage = match &error {
                RepositoryError::WrongPassphrase | RepositoryError::NotEncrypted => {
                    Repository::differs_from_spare(&*storage, &options)
                }
                error => error.is_damage() && Repository::has_spare(&*storage, &options),
            };
            match is_damage {
                true => HasSpare(error).into(),
                false => error.into(),
            }
        }
        Err(error) => error,
    });
    let place = context.repository()?;
    opened.map_err(|error| looked_at(&place, error))
}

/// Puts `config` and key slots back from the copies that this client keeps.
pub fn put_back(context: &Context) -> Result<PutBack> {
    let options = open_options(context)?;
    Repository::put_back(&storage(context)?, &options, || {
        context.passphrase().map(passphrase)
    })
}

/// Opens another repository than the one that the command is about. Its passphrase is in a file of
/// its own, or the same.
pub fn open_other(
    context: &Context,
    path: &Path,
    password_file: Option<&Path>,
) -> Result<Arc<Repository>> {
    let local = std::path::absolute(path).context("cannot tell the current folder")?;
    let options = OpenOptions {
        local: Some(local),
        cache: context.cache_folder()?,
    };
    let ask = || -> Result<Passphrase> {
        let typed = match password_file {
            Some(file) => password::existing(Some(file), path)?,
            None => context.passphrase_of(path)?,
        };
        Ok(passphrase(typed))
    };
    let opened = Repository::open(storage_at(path)?, &options, password_file.is_some(), ask);
    opened.map_err(|error| looked_at(path, error))
}

/// Opens an encrypted repository, and returns the passphrase that did: it is asked for once, and
/// wrapping the key anew needs it again.
pub fn open_with_passphrase(context: &Context) -> Result<(Arc<Repository>, Passphrase)> {
    let storage = storage(context)?;
    let given = context.is_passphrase_given();
    let mut kept = None;
    let ask = || -> Result<Passphrase> {
        let typed = context.passphrase()?;
        kept = Some(passphrase(typed.clone()));
        Ok(passphrase(typed))
    };
    let repository = Repository::open(storage, &open_options(context)?, given, ask);
    let place = context.repository()?;
    let repository = repository.map_err(|error| looked_at(&place, error))?;
    let kept = kept.ok_or_else(|| {
        CliError::Usage("the repository is not encrypted, and has no keys".to_owned())
    })?;
    Ok((repository, kept))
}

/// Opens what the repository's packs hold, and says what was unusual about it.
pub fn contents(
    context: &Context,
    repository: &Arc<Repository>,
    access: Access,
    command: &str,
) -> Result<Contents> {
    let contents = Contents::open(repository, access, command)?;
    if let Some(why) = contents.why_unseen() {
        context.warn(&unseen(why));
    }
    let report = contents.index_report();
    if report.rebuilt {
        context.remark("the index was missing or damaged, and was rebuilt from the packs");
    }
    for (pack, error) in &report.unreadable {
        context.remark(&format!("warning: pack {pack} cannot be read: {error}"));
    }
    Ok(contents)
}

/// Says what it means that a reader goes on without a session.
fn unseen(why: Unseen) -> String {
    let (why, who) = match why {
        Unseen::ReadOnly => (
            "the repository is on a read-only file system",
            "Nothing can be deleted through it. A `cairn gc` that has another way to the same disk",
        ),
        Unseen::Denied => ("you may not write to the repository", "A `cairn gc`"),
    };
    format!(
        "{why}, so nobody is told what is read here. {who} may take a snapshot meanwhile that \
         somebody forgets; reading it then fails"
    )
}

/// The snapshots of a repository, and how to find one.
pub struct Snapshots {
    pub list: SnapshotList,
    among: Candidates,
    /// Those whose dates were said to be wrong.
    doubted: Mutex<BTreeSet<SnapshotId>>,
    /// Those of which it was said that they are of no one moment.
    torn: Mutex<BTreeSet<SnapshotId>>,
}

/// Most snapshots that are gone and are named one by one.
const GONE_NAMED_MAX: usize = 3;

impl Snapshots {
    /// Reads them all. Ones that cannot be read are said, and hide none of the others.
    pub fn read(context: &Context, repository: &Repository) -> Result<Self> {
        let list = repository.snapshots()?;
        for unreadable in &list.unreadable {
            let error = one_line(&anyhow::Error::new(Arc::clone(&unreadable.error)));
            let id = unreadable.id.short();
            context.remark(&format!("warning: snapshot {id} cannot be read: {error}"));
        }
        let seen = repository.remember(&list);
        let among = list.candidates(&seen);
        let gone = among.lost.iter().filter(|lost| lost.loss == Loss::Gone);
        let gone: Vec<_> = gone.collect();
        for lost in gone.iter().take(GONE_NAMED_MAX) {
            if let Some(Known { vm, time, .. }) = &lost.known {
                let (id, time) = (lost.id.short(), time::local(*time));
                context.warn(&format!(
                    "snapshot {id} of {vm}, {time}, was here before and is gone, though nobody \
                     forgot it: was the repository set back, or a snapshot deleted?"
                ));
            }
        }
        if let Some(more @ 1..) = gone.len().checked_sub(GONE_NAMED_MAX) {
            context.warn(&format!("and so are {more} more, each the newest of a VM"));
        }
        Ok(Self {
            list,
            among,
            doubted: Mutex::default(),
            torn: Mutex::default(),
        })
    }

    /// Returns those that are not forgotten, oldest first.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &Snapshot> {
        self.list
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.state.forgotten.is_none())
    }

    /// Returns those that are forgotten and still there, oldest first.
    pub fn forgotten(&self) -> impl DoubleEndedIterator<Item = &Snapshot> {
        let all = self.list.snapshots.iter();
        all.filter(|snapshot| snapshot.state.forgotten.is_some())
    }

    /// Returns the one snapshot that a text names. A date of it that cannot be right is said, and
    /// so is that it is of no one moment.
    pub fn find(&self, text: &str) -> Result<&Snapshot> {
        let found = self.find_in(text, &self.among);
        let found = found.map_err(|error| match error.is::<ResolveError>() {
            true => self
                .unreadable(text)
                .unwrap_or_else(|| self.explained(text, error)),
            false => error,
        })?;
        self.say_contradiction(found.id);
        self.say_torn(found);
        Ok(found)
    }

    /// Returns the newest snapshot of a VM that is not forgotten.
    pub fn newest(&self, vm: &str) -> Option<SnapshotId> {
        let all = self.among.snapshots.iter();
        let newest = all.filter(|it| it.vm == vm).max_by_key(|it| it.rank());
        newest.map(|snapshot| snapshot.id)
    }

    /// Says once which disks of a snapshot were written to while they were read.
    fn say_torn(&self, snapshot: &Snapshot) {
        let mut said = self.torn.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(snapshot.id) {
            let words = snapshot.manifest.disks.iter().filter_map(torn_words);
            words.for_each(|words| context::warn(&format!("{}: {words}", snapshot.id.short())));
        }
    }

    /// Says once that the dates of a snapshot and of another cannot both be right.
    fn say_contradiction(&self, id: SnapshotId) {
        let Some([first, second]) = self.among.contradiction(id) else {
            return;
        };
        let mut said = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(id) {
            let told = |snapshot: &SnapshotSummary| {
                let time = time::local(snapshot.time);
                format!("{}, dated {time}", snapshot.id.short())
            };
            let (vm, first, second) = (&first.vm, told(first), told(second));
            context::warn(&format!(
                "of {vm} snapshot {first}, was made before {second}: a clock was wrong"
            ));
        }
    }

    /// Returns a lost snapshot that may have been made after this one, of the same VM.
    pub fn may_be_newer(&self, snapshot: &Snapshot) -> Option<SnapshotId> {
        let summary = snapshot.summary();
        let lost = self.among.in_doubt(&summary.vm, None, Some(&summary));
        lost.first().map(|lost| lost.id)
    }

    /// Returns why the snapshot cannot be read whose id a text begins, where there is one.
    fn unreadable(&self, text: &str) -> Option<anyhow::Error> {
        let digits = text.rsplit('@').next().unwrap_or(text);
        let is_meant = |id: SnapshotId| digits.len() >= 4 && id.to_hex().starts_with(digits);
        let mut unreadable = self.list.unreadable.iter();
        let meant = unreadable.find(|snapshot| is_meant(snapshot.id))?;
        Some(anyhow::Error::new(Arc::clone(&meant.error)))
    }

    /// Says of a name that leads to no snapshot what was probably meant.
    fn explained(&self, text: &str, error: anyhow::Error) -> anyhow::Error {
        if !matches!(error.downcast_ref(), Some(ResolveError::NoSuch { .. })) {
            return error;
        }
        let reference = text.to_owned();
        if let Ok(forgotten) = self.find_forgotten(text) {
            let snapshot = Self::describe(forgotten);
            return NoSnapshot::Forgotten {
                reference,
                snapshot,
            }
            .into();
        }
        let vm = text.split_once('@').map_or(text, |(vm, _)| vm);
        let vms = self.live().map(|snapshot| &*snapshot.manifest.vm);
        NoSnapshot::nearest(reference, vm, vms).into()
    }

    /// Returns the one forgotten snapshot that a text names.
    pub fn find_forgotten(&self, text: &str) -> Result<&Snapshot> {
        let among = Candidates {
            snapshots: self.among.others.clone(),
            ..Candidates::default()
        };
        self.find_in(text, &among)
    }

    fn find_in(&self, text: &str, among: &Candidates) -> Result<&Snapshot> {
        let id = SnapshotRef::parse(text, &TimeZone::system())?.resolve(among)?;
        let mut all = self.list.snapshots.iter();
        let found = all.find(|snapshot| snapshot.id == id);
        found.with_context(|| format!("snapshot {id} is not listed any more"))
    }

    /// Returns one line about a snapshot, for remarks.
    pub fn describe(snapshot: &Snapshot) -> String {
        let (id, vm) = (snapshot.id.short(), &snapshot.manifest.vm);
        format!("{id} of {vm}, {}", time::local(snapshot.manifest.time))
    }
}
