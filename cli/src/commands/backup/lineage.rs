//! Which snapshot the disks of a backup are computed from, and whether that is proven.
//!
//! A bitmap tells what changed since some moment, and not since which. Those that Cairn makes
//! itself (`bitmap=auto`) have a name of their own for each backup, and the snapshot says which one
//! counts from it. Of one that was made by hand nobody can prove it; so all that speaks against it
//! counts, and then everything is read.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cairn_engine::format::domain::DiskIdentity;
use cairn_engine::format::{Salt, Unknown};
use cairn_engine::id::RepositoryId;
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::source::{self, SourceSpec, bitmaps};

use crate::context::Context;
use crate::exit::CliError;
use crate::session::Snapshots;

/// One disk, and what it is read by.
pub(super) struct Planned {
    pub(super) target: String,
    /// With the bitmap that it is read by, where there is one.
    pub(super) spec: SourceSpec,
    /// Why it is not read by its changes, where that was wanted.
    pub(super) doubt: Option<String>,
    /// What it is, where it is an image here.
    pub(super) identity: Option<DiskIdentity>,
    /// What Cairn keeps in its image.
    pub(super) kept: Option<Kept>,
}

/// The bitmaps that Cairn keeps in an image.
pub(super) struct Kept {
    image: PathBuf,
    prefix: String,
    /// All of them, but for the new one.
    there: Vec<String>,
    /// The one that counts from this backup on, until the snapshot is published.
    fresh: Option<String>,
}

impl Kept {
    fn of(image: &Path, repository: RepositoryId) -> std::io::Result<Self> {
        let prefix = format!("cairn-auto-{}-", &repository.to_hex()[..8]);
        let mut there = bitmaps::names(image)?;
        there.retain(|name| name.starts_with(&prefix));
        Ok(Self {
            image: image.to_owned(),
            prefix,
            there,
            fresh: None,
        })
    }

    /// Lets QEMU note from now on what changes, under a name that was never used.
    fn begin(&mut self) -> std::io::Result<String> {
        let drawn: String = Salt::draw().as_bytes()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = format!("{}{drawn}", self.prefix);
        bitmaps::add(&self.image, &name)?;
        self.fresh = Some(name.clone());
        Ok(name)
    }

    /// Removes the others once the snapshot is published, but for the one that it was read by: if
    /// the snapshot is lost, the next one counts from that.
    pub(super) fn publish(&mut self, read_by: Option<&str>) -> std::io::Result<()> {
        self.fresh = None;
        let others = self.there.iter().filter(|name| Some(&***name) != read_by);
        others
            .into_iter()
            .try_for_each(|name| bitmaps::remove(&self.image, name))
    }

    /// Removes all of them: they were wrong once.
    pub(super) fn give_up(&mut self) -> std::io::Result<()> {
        let all = self.there.drain(..).chain(self.fresh.take());
        let image = &self.image;
        all.into_iter()
            .try_for_each(|name| bitmaps::remove(image, &name))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Of a backup that failed. One that stays is removed by the next backup.
        if let Some(fresh) = self.fresh.take() {
            drop(bitmaps::remove(&self.image, &fresh));
        }
    }
}

/// Plans a disk whose bitmap Cairn keeps. It must be one that can be opened.
pub(super) fn keep(
    context: &Context,
    repository: &Repository,
    target: String,
    spec: SourceSpec,
) -> Result<Planned> {
    let refused = |reason: &str| CliError::Usage(format!("disk {target}: {reason}"));
    let spec = SourceSpec {
        bitmap: None,
        ..spec
    };
    let is_qcow2 = source::format_of(&spec) == Some(source::Format::Qcow2);
    let image = spec.location.file().filter(|_| is_qcow2);
    let image = image.ok_or_else(|| refused("`bitmap=auto` needs a qcow2 image"))?;
    if spec.delta || spec.snapshot.is_some() {
        return Err(refused("`bitmap=auto` is for the disk as it is, and no other").into());
    }
    // Nothing is changed in an image that is in use, or that names files which it must not.
    let opened = source::open(&spec);
    drop(opened.with_context(|| format!("cannot open disk {target}"))?);
    let mut identity = identity(&spec);
    let kept = Kept::of(image, repository.config().repository_id).and_then(|mut kept| {
        let name = kept.begin()?;
        if let Some(identity) = &mut identity {
            identity.bitmap = Some(name);
        }
        Ok(kept)
    });
    let (kept, doubt) = match kept {
        Ok(kept) => (Some(kept), None),
        Err(error) => {
            let doubt = format!("no bitmap can be kept in its image: {error}");
            context.warn(&format!("disk {target}: {doubt}"));
            (None, Some(doubt))
        }
    };
    Ok(Planned {
        target,
        spec,
        doubt,
        identity,
        kept,
    })
}

/// Finds the newest snapshot from which the bitmap of one of the disks counts, and lets each be
/// read by its bitmap that counts from there.
pub(super) fn prove<'s>(
    snapshots: &'s Snapshots,
    vm: &str,
    disks: &mut [Planned],
) -> Option<&'s Snapshot> {
    let of_vm = snapshots.live();
    let mut of_vm: Vec<&Snapshot> = of_vm.filter(|it| it.manifest.vm == vm).collect();
    of_vm.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.summary().rank()));
    let is_proven = |snapshot: &&&Snapshot| {
        let mut disks = disks.iter();
        disks.any(|disk| proven(snapshot, disk).is_ok())
    };
    let parent = of_vm.iter().find(is_proven).copied();
    for disk in disks.iter_mut().filter(|disk| disk.kept.is_some()) {
        let newest = of_vm.first().and_then(|newest| newest.disk(&disk.target));
        let is_torn = newest.is_some_and(|newest| newest.torn.is_some());
        let bitmap = match parent {
            _ if is_torn => Err(TORN.to_owned()),
            Some(parent) => proven(parent, disk),
            None => Err("no snapshot is left from which a bitmap of its image counts".to_owned()),
        };
        match bitmap {
            Ok(bitmap) => disk.spec.bitmap = Some(bitmap),
            Err(doubt) => disk.doubt = Some(doubt),
        }
    }
    parent
}

/// Returns the bitmap of a disk that counts from a snapshot, or what is in doubt.
fn proven(snapshot: &Snapshot, disk: &Planned) -> Result<String, String> {
    let kept = disk.kept.as_ref().ok_or("no bitmap is kept in its image")?;
    let record = snapshot.disk(&disk.target);
    let record = record.ok_or("the parent does not have this disk")?;
    let bitmap = record.identity.as_ref().and_then(|it| it.bitmap.as_ref());
    let bitmap = bitmap.ok_or("the parent left no bitmap in its image")?;
    if !kept.there.contains(bitmap) {
        return Err("the parent's bitmap is not in its image".to_owned());
    }
    about_image(snapshot, &disk.target, disk.identity.as_ref())?;
    let spec = SourceSpec {
        bitmap: Some(bitmap.clone()),
        ..disk.spec.clone()
    };
    source::open(&spec).map_err(|error| error.to_string())?;
    Ok(bitmap.clone())
}

/// Whoever wrote to an image while it was read need not have told its bitmaps.
const TORN: &str = "it was written to while the newest snapshot was made";

/// Plans a disk whose bitmap, delta or neither is as the user says.
pub(super) fn by_hand(target: String, spec: SourceSpec) -> Planned {
    Planned {
        target,
        identity: identity(&spec),
        spec,
        doubt: None,
        kept: None,
    }
}

/// Leaves a bitmap aside of which it is in doubt that it counts from the parent.
///
/// # Errors
///
/// A delta of which it is: there is nothing else to be read. A parent named by its id is taken at
/// the user's word.
pub(super) fn doubt_by_hand(
    snapshots: &Snapshots,
    repository: &Repository,
    parent: &Snapshot,
    is_named: bool,
    disk: &mut Planned,
) -> Result<()> {
    let later = later(snapshots, repository, parent);
    if disk.spec.bitmap.is_some() {
        let of_image = about_image(parent, &disk.target, disk.identity.as_ref());
        if let Some(doubt) = of_image.err().or(later) {
            disk.spec.bitmap = None;
            disk.doubt = Some(doubt);
        }
    } else if let (true, false, Some(doubt)) = (disk.spec.delta, is_named, later) {
        let (target, id) = (&disk.target, parent.id.short());
        let text = format!(
            "disk {target}: {doubt}: name the snapshot by its id that the delta counts from; the \
             newest that is left is {id}"
        );
        return Err(CliError::Usage(text).into());
    }
    Ok(())
}

/// Returns what tells of snapshots that were made after the parent: a bitmap was cleared for one of
/// them.
fn later(snapshots: &Snapshots, repository: &Repository, parent: &Snapshot) -> Option<String> {
    let vm = &parent.manifest.vm;
    let rank = parent.summary().rank();
    let all = snapshots.list.snapshots.iter();
    let mut of_vm = all.filter(|snapshot| snapshot.manifest.vm == *vm);
    let later = of_vm.find(|snapshot| snapshot.summary().rank() > rank);
    if let Some(later) = later {
        let (id, parent) = (later.id.short(), parent.id.short());
        let forgotten = match later.state.forgotten {
            Some(_) => ", which is forgotten,",
            None => "",
        };
        return Some(format!(
            "snapshot {id}{forgotten} was made after the parent {parent}, and may be the one that \
             was counted from"
        ));
    }
    if let Some(lost) = snapshots.may_be_newer(parent) {
        return Some(format!(
            "snapshot {}, which is damaged or gone, may have been made after the parent",
            lost.short()
        ));
    }
    (repository.remembered_ordinal(vm) > parent.manifest.ordinal)
        .then(|| "a snapshot that is gone by now was made after the parent".to_owned())
}

/// Fails where the image is not the one that a snapshot's disk was read from, or where what it
/// calls unchanged since then was found to differ.
fn about_image(
    snapshot: &Snapshot,
    target: &str,
    identity: Option<&DiskIdentity>,
) -> Result<(), String> {
    if snapshot.state.mistrusted.contains(target) {
        return Err("an audit found that its bitmap did not tell all that changed".to_owned());
    }
    let record = snapshot
        .disk(target)
        .and_then(|disk| disk.identity.as_ref());
    let (Some(before), Some(now)) = (record, identity) else {
        return Ok(());
    };
    if before.path != now.path {
        return Err(format!(
            "the parent was taken from another image, {}",
            before.path
        ));
    }
    let told = before.inode.zip(now.inode);
    match told.filter(|(before, now)| before != now) {
        Some(_) => Err("the image was replaced by another file".to_owned()),
        None => Ok(()),
    }
}

/// Returns what an image here is.
fn identity(spec: &SourceSpec) -> Option<DiskIdentity> {
    let path = spec.location.file()?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let file = std::fs::metadata(&path).ok();
    // A device is another file after each start of the host.
    let file = file.filter(|file| file.file_type().is_file());
    Some(DiskIdentity {
        path: path.to_string_lossy().into_owned(),
        format: source::format_of(spec)?.to_string(),
        device: file.as_ref().map(MetadataExt::dev),
        inode: file.as_ref().map(MetadataExt::ino),
        bitmap: None,
        unknown: Unknown::new(),
    })
}
