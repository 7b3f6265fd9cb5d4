//! The journal of a restore in place, and finishing what it says.
//!
//! The order matters. The journal is durable before anything is committed. A disk has its hidden
//! name before the first byte of it changes, and gets its own back only after the journal is gone:
//! a domain that could start while there is a journal would lose what it writes to the next
//! recovery.
//!
//! The journal counts where it lies beside its first disk. The others have copies, from before that
//! until they have their names back: the first disk may have left the domain by then, and its
//! neighbours must not be taken for whole.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::qemu::{self, Held, Info};
use super::{InPlaceError, Result, Work, check_off, describe, lock};
use crate::domain::{DomainError, named};
use crate::own;
use crate::source::libvirt::xml::DiskSource;
use crate::source::libvirt::{Domain, ImageLock};
use crate::target::{TargetError, durable};

/// What names of bitmaps and checkpoints of Cairn begin with.
const OURS: &str = "cairn-";
/// Longest chain of symbolic links that is followed.
const LINKS_MAX: usize = 8;

/// The names that a restore in place gives to files beside a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The disk itself, no symbolic link.
    pub(super) disk: PathBuf,
    /// What differs.
    pub(super) overlay: PathBuf,
    /// The disk while it is half set back.
    pub(super) base: PathBuf,
    /// The journal.
    journal: PathBuf,
}

impl Names {
    pub(super) fn of(disk: &Path) -> Option<Self> {
        let mut disk = std::path::absolute(disk).ok()?;
        for _ in 0..LINKS_MAX {
            // One of another user's is none: whoever locks the disk says so.
            let may_follow = |found: &Metadata| found.is_symlink() && own::may_follow(found);
            if !fs::symlink_metadata(&disk).is_ok_and(|found| may_follow(&found)) {
                break;
            }
            disk = disk.parent()?.join(fs::read_link(&disk).ok()?);
        }
        let name = disk.file_name()?.to_owned();
        let beside = |extension: &str| {
            let mut beside = OsString::from(".cairn-inplace-");
            beside.push(&name);
            beside.push(extension);
            disk.with_file_name(beside)
        };
        Some(Self {
            overlay: beside(".qcow2"),
            base: beside(".base"),
            journal: beside(".json"),
            disk,
        })
    }

    /// Requires that the disk's hidden name is that of the file that is locked.
    fn check_held(&self, lock: &ImageLock) -> Result<()> {
        let held = lock.file().metadata();
        let found = fs::symlink_metadata(&self.base).and_then(|found| Ok((found, held?)));
        let (found, held) = found.map_err(|source| TargetError::Io {
            op: "look at",
            path: self.base.clone(),
            source,
        })?;
        match named::identity_of(&found) == named::identity_of(&held) {
            true => Ok(()),
            false => Err(InPlaceError::Unfit {
                target: self.disk.display().to_string(),
                reason: format!("{} was replaced meanwhile", self.base.display()),
            }),
        }
    }

    /// Opens the overlay, if it is one that this user has written.
    fn open_overlay(&self) -> Result<File> {
        own::open(&self.overlay).map_err(|source| {
            TargetError::Io {
                op: "believe",
                path: self.overlay.clone(),
                source,
            }
            .into()
        })
    }

    /// Removes what a run left that did not come to its journal, or ended right after it.
    fn clean(&self) -> Result<()> {
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        if exists(&self.base) && !exists(&self.disk) {
            durable::rename_file(&self.base, &self.disk)?;
        }
        durable::remove_file(&self.overlay)?;
        let (Some(folder), Some(name)) = (self.overlay.parent(), self.overlay.file_name()) else {
            return Ok(());
        };
        let prefix = format!(".{}.cairn-", name.to_string_lossy());
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(".partial") {
                durable::remove_file(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// What is to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The domain's UUID.
    pub(super) uuid: String,
    /// The snapshot, for people to read.
    pub(super) snapshot: String,
    /// The disks; the journal that counts lies beside the first.
    pub(super) disks: Vec<JournalDisk>,
}

/// A disk of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalDisk {
    path: PathBuf,
    format: String,
    /// Bitmaps that say nothing true any more.
    bitmaps: Vec<String>,
}

impl JournalDisk {
    pub(super) fn of(work: &Work<'_>, info: &Info) -> Self {
        let ours = info.bitmaps.iter().filter(|name| name.starts_with(OURS));
        Self {
            path: work.names.disk.clone(),
            format: work.disk.format.clone(),
            bitmaps: ours.cloned().collect(),
        }
    }

    fn names(&self) -> Result<Names> {
        Names::of(&self.path).ok_or_else(|| InPlaceError::Unfit {
            target: self.path.display().to_string(),
            reason: "its path names no file".to_owned(),
        })
    }
}

impl Journal {
    fn names(&self) -> Result<Vec<Names>> {
        self.disks.iter().map(JournalDisk::names).collect()
    }

    /// Requires that all its disks are among a domain's: no others are written to.
    fn check_disks(&self, disks: &[Names]) -> Result<()> {
        for names in self.names()? {
            if !disks.contains(&names) {
                return Err(InPlaceError::Unfit {
                    target: names.disk.display().to_string(),
                    reason:
                        "it was to be set back, and is no disk of the domain any more: give it \
                             back to the domain first"
                            .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Writes it: from now on the disks are the snapshot's.
    pub(super) fn write(&self) -> Result<()> {
        // The one that counts comes last.
        for Names { journal: path, .. } in self.names()?.iter().rev() {
            let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
            let text = text.map_err(|source| TargetError::Io {
                op: "write",
                path: path.clone(),
                source,
            })?;
            durable::write_file(path, &text)?;
        }
        Ok(())
    }

    /// Commits all disks, whose locks are held, and gives them their names back.
    pub(super) fn finish(&self, domain: &Domain, locks: &[&ImageLock]) -> Result<()> {
        let names = self.names()?;
        for (names, lock) in names.iter().zip(locks) {
            lock.begin_writing().map_err(|source| InPlaceError::Lock {
                path: names.disk.clone(),
                source,
            })?;
            let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
            if exists(&names.base) && exists(&names.disk) {
                return Err(InPlaceError::Unfit {
                    target: names.disk.display().to_string(),
                    reason: format!("it is there, and {} too", names.base.display()),
                });
            }
            if !exists(&names.base) {
                durable::rename_file(&names.disk, &names.base)?;
            }
            names.check_held(lock)?;
        }
        for ((disk, names), lock) in self.disks.iter().zip(&names).zip(locks) {
            let held = Held {
                path: &names.base,
                format: &disk.format,
                lock,
            };
            for bitmap in &disk.bitmaps {
                qemu::remove_bitmap(&held, bitmap)?;
            }
            qemu::commit(&names.open_overlay()?, &held)?;
            durable::sync_open(&names.base, lock.file())?;
            names.check_held(lock)?;
        }
        forget_checkpoints(domain)?;
        if let Some(first) = names.first() {
            durable::remove_file(&first.journal)?;
        }
        names.iter().try_for_each(|names| {
            names.clean()?;
            Ok(durable::remove_file(&names.journal)?)
        })
    }
}

/// Makes libvirt forget Cairn's checkpoints: the disks are not what they count changes of.
fn forget_checkpoints(domain: &Domain) -> Result<()> {
    for name in domain.checkpoints()? {
        if name.starts_with(OURS) {
            domain.checkpoint_forget(&name)?;
        }
    }
    Ok(())
}

/// Finishes a restore in place that ended midway, or clears up after one that had not begun to
/// commit. Does nothing where there was none. The domain's lock must be held.
///
/// Returns whether there was something to finish.
///
/// # Errors
///
/// Also where the domain runs and there is a journal, which only happens if someone gave the disks
/// their names back by hand; where it is not this user's own, or names a disk that the domain has
/// not; and where a disk was set back together with another that is not where
/// it was, so that nobody can tell how far that came.
pub fn recover(domain: &Domain, say: &(dyn Fn(&str) + Sync)) -> Result<bool> {
    let disks = disks(domain)?;
    let mut was_begun = false;
    for names in &disks {
        let Some(journal) = begun(names, domain.uuid())? else {
            continue;
        };
        say(&format!(
            "a restore of {} to snapshot {:.12} ended midway; finishing it",
            domain.name(),
            journal.snapshot
        ));
        check_off(domain)?;
        journal.check_disks(&disks)?;
        let locks: Vec<ImageLock> = journal
            .disks
            .iter()
            .map(lock_again)
            .collect::<Result<_>>()?;
        journal.finish(domain, &locks.iter().collect::<Vec<_>>())?;
        was_begun = true;
    }
    for names in &disks {
        names.clean()?;
        if journal(names, domain.uuid())?.is_some() {
            durable::remove_file(&names.journal)?;
        }
    }
    Ok(was_begun)
}

/// Returns whether a restore in place ended midway, so that the disks are half the domain's, half
/// the snapshot's.
///
/// # Errors
///
/// As for [`recover`].
pub fn is_unfinished(domain: &Domain) -> std::result::Result<bool, DomainError> {
    let is_there = |names: &Names| Ok::<_, InPlaceError>(begun(names, domain.uuid())?.is_some());
    let found = disks(domain).and_then(|disks| {
        let found = disks.iter().map(is_there);
        found.collect::<Result<Vec<bool>>>()
    });
    match found {
        Ok(found) => Ok(found.contains(&true)),
        Err(InPlaceError::Domain(error)) => Err(error),
        Err(InPlaceError::Libvirt(error)) => Err(error.into()),
        Err(error) => {
            let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
            let why = why.unwrap_or_default();
            Err(DomainError::GivenUp {
                reason: format!(
                    "it cannot be told whether its disks are half restored: {error}{why}"
                ),
            })
        }
    }
}

fn disks(domain: &Domain) -> Result<Vec<Names>> {
    let description = describe(domain)?;
    let files = description.disks.iter();
    let files = files.filter_map(|disk| match &disk.source {
        DiskSource::File(path) => Names::of(path),
        _ => None,
    });
    Ok(files.collect())
}

/// Returns the domain's journal beside a disk, or a copy of it.
fn journal(names: &Names, uuid: &str) -> Result<Option<Journal>> {
    Ok(read(&names.journal)?.filter(|journal| journal.uuid == uuid))
}

/// Returns the same, if it counts: if the disks are being set back. Else it was about to be, or has
/// been.
///
/// # Errors
///
/// [`InPlaceError::Unfit`] where the first disk is not where it was: the journal is with it, or is
/// no more.
fn begun(names: &Names, uuid: &str) -> Result<Option<Journal>> {
    let Some(journal) = journal(names, uuid)? else {
        return Ok(None);
    };
    let Some(first) = journal.disks.first().map(JournalDisk::names).transpose()? else {
        return Ok(None);
    };
    let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
    match read(&first.journal)? {
        Some(counts) => Ok((counts == journal).then_some(journal)),
        None if exists(&first.disk) || exists(&first.base) => Ok(None),
        None => Err(InPlaceError::Unfit {
            target: names.disk.display().to_string(),
            reason: format!(
                "it was to be set back together with {}, which is not there: bring that back first",
                first.disk.display()
            ),
        }),
    }
}

/// Locks a disk under the name that it has now. A `qemu-img` of a dead run holds the old lock.
fn lock_again(disk: &JournalDisk) -> Result<ImageLock> {
    let names = disk.names()?;
    match fs::symlink_metadata(&names.base).is_ok() {
        true => lock(&names.base),
        false => lock(&names.disk),
    }
}

/// Reads a journal. What it says is written to disks, so it must be one that this user wrote.
fn read(path: &Path) -> Result<Option<Journal>> {
    let failed = |source| TargetError::Io {
        op: "believe",
        path: path.to_owned(),
        source,
    };
    let text = match own::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed)?.1,
    };
    let journal = serde_json::from_slice(&text).map_err(std::io::Error::from);
    Ok(Some(journal.map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_beside_the_disk_itself() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let disk = folder.path().join("a.qcow2");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("a.qcow2", &link).expect("links can be made");
        let names = Names::of(&link).expect("it names a file");
        // The file need not be there: it has its hidden name while it is half set back.
        assert_eq!(names.disk, disk);
        assert_eq!(
            names.overlay,
            folder.path().join(".cairn-inplace-a.qcow2.qcow2")
        );
        fs::write(&names.base, "disk").expect("files can be written");
        fs::write(&names.overlay, "overlay").expect("files can be written");
        let partial = folder
            .path()
            .join("..cairn-inplace-a.qcow2.qcow2.cairn-7-0.partial");
        fs::write(&partial, "half").expect("files can be written");
        names.clean().expect("nothing is in the way");
        assert_eq!(fs::read(&disk).expect("it has its name again"), b"disk");
        assert!(!names.overlay.exists() && !names.base.exists() && !partial.exists());
        assert_eq!(read(&names.journal).expect("none is fine"), None);
        fs::write(&names.journal, "{").expect("files can be written");
        assert!(read(&names.journal).is_err());
    }

    /// The domain has lost the disk beside which the journal lies; the other is half set back.
    #[test]
    fn a_journal_is_found_beside_every_disk() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let paths = ["a.raw", "b.raw"].map(|name| folder.path().join(name));
        let disk = |path: &PathBuf| JournalDisk {
            path: path.clone(),
            format: "raw".to_owned(),
            bitmaps: Vec::new(),
        };
        let journal = Journal {
            uuid: "ours".to_owned(),
            snapshot: "1".to_owned(),
            disks: paths.iter().map(disk).collect(),
        };
        for path in &paths {
            fs::write(path, "disk").expect("files can be written");
        }
        let names = paths
            .each_ref()
            .map(|path| Names::of(path).expect("a file"));
        let begun = |names: &Names| begun(names, "ours").expect("it can be told");
        journal.write().expect("it can be written");
        for names in &names {
            assert_eq!(begun(names).as_ref(), Some(&journal));
            assert_eq!(super::begun(names, "another").expect("is read"), None);
        }
        // It was not written to its end, or is done: a copy alone says nothing.
        fs::remove_file(&names[0].journal).expect("it is there");
        assert_eq!(begun(&names[1]), None);
        // Nobody can tell.
        fs::remove_file(&names[0].disk).expect("it is there");
        let refused = super::begun(&names[1], "ours");
        assert!(
            matches!(refused, Err(InPlaceError::Unfit { .. })),
            "{refused:?}"
        );
        // What counts is what was begun last.
        let other = Journal {
            snapshot: "2".to_owned(),
            ..journal.clone()
        };
        other.write().expect("it can be written");
        assert_eq!(begun(&names[1]), Some(other));
        let copy = serde_json::to_vec(&journal).expect("it is encoded");
        fs::write(&names[1].journal, copy).expect("files can be written");
        assert_eq!(begun(&names[1]), None);
    }

    #[test]
    fn a_journal_that_others_could_have_written_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let disk = folder.path().join("a.raw");
        fs::write(&disk, "disk").expect("files can be written");
        let names = Names::of(&disk).expect("a file");
        let journal = Journal {
            uuid: "ours".to_owned(),
            snapshot: "1".to_owned(),
            disks: vec![JournalDisk {
                path: disk.clone(),
                format: "raw".to_owned(),
                bitmaps: Vec::new(),
            }],
        };
        let other = folder.path().join("other");
        fs::write(&other, "other").expect("files can be written");
        symlink(&other, &names.journal).expect("links can be made");
        assert!(begun(&names, "ours").is_err());
        // The link is replaced, and not what it points to.
        journal.write().expect("it can be written");
        assert_eq!(fs::read(&other).expect("it is there"), b"other");
        assert_eq!(
            begun(&names, "ours").expect("it is ours"),
            Some(journal.clone())
        );
        let open = fs::Permissions::from_mode(0o662);
        fs::set_permissions(&names.journal, open).expect("it is ours");
        assert!(begun(&names, "ours").is_err());
        assert!(journal.check_disks(std::slice::from_ref(&names)).is_ok());
        let another = Names::of(&other).expect("a file");
        assert!(journal.check_disks(&[another]).is_err());
        if rustix::process::geteuid().is_root() {
            // A link of another user's is not followed to the disk.
            let link = folder.path().join("link");
            symlink("a.raw", &link).expect("links can be made");
            assert_eq!(Names::of(&link).expect("a file").disk, disk);
            std::os::unix::fs::lchown(&link, Some(65534), None).expect("root may");
            assert_eq!(Names::of(&link).expect("a file").disk, link);
            assert!(lock(&link).is_err());
        }
    }
}
