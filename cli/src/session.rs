//! A repository as the commands use it: opened, listed, and snapshots found by what was typed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::crypto::Passphrase;
use cairn_engine::id::SnapshotId;
use cairn_engine::repository::reference::{SnapshotRef, SnapshotSummary};
use cairn_engine::repository::{
    Access, Contents, OpenOptions, PutBack, Repository, RepositoryError, Snapshot, SnapshotList,
    Unseen,
};
use cairn_engine::storage::{Folder, Name, SharedStorage, StorageError};
use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::exit::repair::HasSpare;
use crate::exit::{CliError, one_line};
use crate::output::time;
use crate::password;

/// Returns how repositories are opened here: where they are, and where their caches go.
pub fn open_options(context: &Context) -> Result<OpenOptions> {
    // A process that serves in the background leaves the folder that it was started in.
    let local = std::path::absolute(context.repository()?);
    Ok(OpenOptions {
        local: Some(local.context("cannot tell the current folder")?),
        cache: cache_folder()?,
    })
}

/// Returns the user's cache folder, as the XDG base directory specification has it.
fn cache_folder() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let folder = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .ok_or_else(|| CliError::Usage("neither XDG_CACHE_HOME nor HOME is set".to_owned()))?;
    Ok(folder.join("cairn"))
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
        StorageError::NotFound(Name::Config) => RepositoryError::NoRepository {
            location: path.display().to_string(),
        },
        error => error.into(),
    })?;
    Ok(Arc::new(folder))
}

/// Opens the repository; asks for its passphrase where it is encrypted.
pub fn open(context: &Context) -> Result<Arc<Repository>> {
    let options = open_options(context)?;
    let storage = storage(context)?;
    let given = context.is_passphrase_given();
    let opened = Repository::open(Arc::clone(&storage), &options, given, || {
        context.passphrase().map(passphrase)
    });
    opened.map_err(|error| match error.downcast::<RepositoryError>() {
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
    })
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
        cache: cache_folder()?,
    };
    let ask = || -> Result<Passphrase> {
        let typed = match password_file {
            Some(file) => password::existing(Some(file))?,
            None => context.passphrase()?,
        };
        Ok(passphrase(typed))
    };
    Repository::open(storage_at(path)?, &options, password_file.is_some(), ask)
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
    let repository = Repository::open(storage, &open_options(context)?, given, ask)?;
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
}

impl Snapshots {
    /// Reads them all. Ones that cannot be read are said, and hide none of the others.
    pub fn read(context: &Context, repository: &Repository) -> Result<Self> {
        let list = repository.snapshots()?;
        for unreadable in &list.unreadable {
            let error = one_line(&anyhow::Error::new(Arc::clone(&unreadable.error)));
            let id = unreadable.id.short();
            context.remark(&format!("warning: snapshot {id} cannot be read: {error}"));
        }
        if let Some(seen) = repository.remember(&list) {
            let (id, vm, time) = (seen.id.short(), &seen.vm, time::local(seen.time));
            context.warn(&format!(
                "snapshot {id} of {vm}, {time}, was here before and is gone, though nobody forgot \
                 it: was the repository set back, or a snapshot deleted?"
            ));
        }
        Ok(Self { list })
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

    /// Returns the one snapshot that a text names.
    pub fn find(&self, text: &str) -> Result<&Snapshot> {
        find_in(self.live(), text).map_err(|error| self.unreadable(text).unwrap_or(error))
    }

    /// Returns why the snapshot cannot be read whose id a text begins, where there is one.
    fn unreadable(&self, text: &str) -> Option<anyhow::Error> {
        let digits = text.rsplit('@').next().unwrap_or(text);
        let is_meant = |id: SnapshotId| digits.len() >= 4 && id.to_hex().starts_with(digits);
        let mut unreadable = self.list.unreadable.iter();
        let meant = unreadable.find(|snapshot| is_meant(snapshot.id))?;
        Some(anyhow::Error::new(Arc::clone(&meant.error)))
    }

    /// Returns the one forgotten snapshot that a text names.
    pub fn find_forgotten(&self, text: &str) -> Result<&Snapshot> {
        find_in(self.forgotten(), text)
    }

    /// Returns one line about a snapshot, for remarks.
    pub fn describe(snapshot: &Snapshot) -> String {
        let (id, vm) = (snapshot.id.short(), &snapshot.manifest.vm);
        format!("{id} of {vm}, {}", time::local(snapshot.manifest.time))
    }
}

fn find_in<'s>(snapshots: impl Iterator<Item = &'s Snapshot>, text: &str) -> Result<&'s Snapshot> {
    let reference = SnapshotRef::parse(text, &TimeZone::system())?;
    let snapshots: Vec<&Snapshot> = snapshots.collect();
    let summaries: Vec<SnapshotSummary> = snapshots.iter().map(|found| found.summary()).collect();
    let id = reference.resolve(&summaries)?;
    let found = snapshots.into_iter().find(|snapshot| snapshot.id == id);
    found.with_context(|| format!("snapshot {id} is not listed any more"))
}
