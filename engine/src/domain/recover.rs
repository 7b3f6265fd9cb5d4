//! Clearing up after runs that were killed: nothing of another program's is touched.

use std::path::{Path, PathBuf};

use super::DomainError;
use super::backup::{Host, end_job, remove_bitmaps};
use super::freeze::{Held, let_go};
use super::overlay::{describe, end_saving};
use super::run_folder::{DeadRun, Unbelieved, dead_runs};
use crate::source::libvirt::xml::DiskSource;
use crate::source::libvirt::{Domain, Reason};

/// What was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Dead runs.
    pub runs: usize,
    /// Records that are not believed. What they are of is as it was.
    pub refused: usize,
}

/// Clears what dead runs of a domain left: a frozen guest, a job, its scratch files, overlays
/// that its disks write to, its checkpoint.
/// The domain's lock must be held.
pub fn recover(
    domain: &Domain,
    run_folder: &Path,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Recovered, DomainError> {
    let mut recovered = Recovered::default();
    let (dead, unbelieved) = dead_runs(run_folder, domain.uuid());
    for refused in unbelieved {
        say(&refusal(&refused));
        recovered.refused += 1;
    }
    for run in dead {
        say(&format!(
            "a backup of {} by process {} ended midway; clearing up after it",
            domain.name(),
            run.record.pid
        ));
        if let Some(other) = other_uri(domain, &run) {
            say(&other);
            recovered.refused += 1;
            continue;
        }
        clear(domain, &run, say)?;
        run.remove()?;
        recovered.runs += 1;
    }
    Ok(recovered)
}

/// Says what is left to do by hand about a record that is not believed.
fn refusal(refused: &Unbelieved) -> String {
    let Unbelieved {
        path,
        folder,
        reason,
    } = refused;
    let (path, folder) = (path.display(), folder.display());
    format!(
        "warning: {path} is not believed, and what it speaks of is left alone: {reason}. If no \
         backup is at work, end a job whose socket is in {folder} by `virsh domjobabort`, see by \
         `virsh dumpxml` that no disk is on an overlay `.cairn-...`, and remove {path} and {folder}"
    )
}

/// A URI can say which program reaches the host. So it must be the one that the user gives.
fn other_uri(domain: &Domain, run: &DeadRun) -> Option<String> {
    let uri = &run.record.remote.as_ref()?.uri;
    (uri != domain.connection().uri()).then(|| {
        format!(
            "warning: it was begun by way of {uri}, and what it left there is reached by that \
             alone: `cairn recover {} --connect` with that URI",
            domain.name()
        )
    })
}

fn clear(domain: &Domain, run: &DeadRun, say: &(dyn Fn(&str) + Sync)) -> Result<(), DomainError> {
    if let Some(held) = run.record.frozen.as_deref().and_then(Held::of) {
        // The guard has done it long ago, unless it was killed as well.
        let_go(domain, held);
    }
    end_job(domain, &run.mark())?;
    if !run.record.overlays.is_empty() && run.record.scratch.iter().any(|file| file.exists()) {
        // A file beside overlays is the guest's memory, which may still be written.
        end_saving(domain)?;
    }
    for overlay in &run.record.overlays {
        if let Some(left) = overlay.bring_back(domain, true)? {
            say(&left);
        }
    }
    if let Some(checkpoint) = &run.record.checkpoint
        && !run.record.published
    {
        domain.checkpoint_delete(checkpoint)?;
        // libvirt deletes no bitmaps of a domain that is off.
        remove_bitmaps(domain, &own_images(domain, run)?, checkpoint)?;
    }
    let Some(remote) = &run.record.remote else {
        for scratch in &run.record.scratch {
            drop(std::fs::remove_file(scratch));
        }
        return Ok(());
    };
    // Where there is no shell, libvirt has removed what there was when it ended the job.
    let host = Host::of(&remote.uri, &run.path.join("none"));
    if let (Some(host), Some(folder)) = (host, &remote.folder) {
        host.remove_files(&run.record.scratch)?;
        host.remove_folder(folder)?;
    }
    Ok(())
}

/// Returns the images of a record that the domain has: no others are written to.
fn own_images(domain: &Domain, run: &DeadRun) -> Result<Vec<PathBuf>, DomainError> {
    let xml = match domain.inactive_xml() {
        Err(error) if error.reason == Reason::NoDomain => return Ok(Vec::new()),
        xml => xml?,
    };
    let description = describe(domain, &xml)?;
    let is_its = |image: &&PathBuf| {
        description.disks.iter().any(|disk| match &disk.source {
            DiskSource::File(path) | DiskSource::Block(path) => path == *image,
            _ => false,
        })
    };
    Ok(run.record.images.iter().filter(is_its).cloned().collect())
}
