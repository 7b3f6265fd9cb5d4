//! Which snapshot an incremental may count from: the newest whose checkpoint is proven.

use std::collections::BTreeMap;

use super::plan::Parent;
use crate::domain::DomainError;
use crate::repository::Snapshot;
use crate::source::libvirt::xml::{Checkpoint, checkpoint_xml};
use crate::source::libvirt::{CheckpointDescription, Domain, Reason};

/// Most snapshots that are looked at: all but this one and its parent have lost their checkpoints.
const CANDIDATES_MAX: usize = 8;

/// Returns the newest of a domain's snapshots whose checkpoint has an intact bitmap on some disk;
/// if none has, the newest with a checkpoint, so that the user is told what is broken. `snapshots`
/// are not forgotten, oldest first.
pub(super) fn newest_proven(
    domain: &Domain,
    snapshots: &[Snapshot],
) -> Result<Option<Parent>, DomainError> {
    let is_of_domain = |snapshot: &&Snapshot| {
        let record = snapshot.manifest.domain.as_ref();
        record.is_some_and(|record| record.uuid == domain.uuid() && record.checkpoint.is_some())
    };
    let candidates = snapshots
        .iter()
        .rev()
        .filter(is_of_domain)
        .take(CANDIDATES_MAX);
    let there = domain.checkpoints()?;
    let mut broken = None;
    for snapshot in candidates {
        let Some(record) = &snapshot.manifest.domain else {
            continue;
        };
        let Some(name) = &record.checkpoint else {
            continue;
        };
        if !there.contains(name) && !redefine(domain, snapshot, name)? {
            continue;
        }
        let checkpoint = match described(domain, name) {
            Ok(checkpoint) => checkpoint,
            Err(DomainError::Libvirt(error)) if error.is_disconnected() => return Err(error.into()),
            // A checkpoint that cannot be described proves nothing.
            Err(_) => continue,
        };
        let parent = Parent {
            snapshot: snapshot.clone(),
            checkpoint,
            faults: BTreeMap::new(),
        };
        if parent.is_proven() {
            return Ok(Some(parent));
        }
        broken.get_or_insert(parent);
    }
    Ok(broken)
}

fn described(domain: &Domain, name: &str) -> Result<Checkpoint, DomainError> {
    let xml = domain.checkpoint_xml(name, CheckpointDescription::WithSizes)?;
    Checkpoint::parse(&xml).map_err(|source| DomainError::Xml {
        domain: domain.name().to_owned(),
        source,
    })
}

/// Defines a checkpoint anew that libvirt has forgotten, while the images may still have its
/// bitmaps: after a migration, an undefine, the restart of a transient domain. QEMU is asked
/// whether they are intact; where they are not, there is no checkpoint.
fn redefine(domain: &Domain, snapshot: &Snapshot, name: &str) -> Result<bool, DomainError> {
    let created = snapshot
        .manifest
        .domain
        .as_ref()
        .and_then(|record| record.checkpoint_time);
    let with_bitmap = snapshot.manifest.disks.iter().filter(|disk| {
        let identity = disk.identity.as_ref();
        identity.is_some_and(|identity| identity.bitmap.as_deref() == Some(name))
    });
    let mut targets: Vec<String> = with_bitmap.map(|disk| disk.target.clone()).collect();
    while !targets.is_empty() {
        let xml = checkpoint_xml(name, "", created.or(Some(0)), &targets, &[]);
        let error = match domain.checkpoint_redefine(&xml, true) {
            Ok(()) => return Ok(true),
            Err(error) => error,
        };
        if error.is_disconnected() {
            return Err(error.into());
        }
        let is_of_disk = error.reason == Reason::CheckpointInconsistent;
        let named = targets
            .iter()
            .position(|target| error.message.contains(&format!("'{target}'")));
        match (is_of_disk, named) {
            (true, Some(place)) => drop(targets.remove(place)),
            _ => return Ok(false),
        }
    }
    Ok(false)
}
