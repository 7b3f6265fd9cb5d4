//! Clearing up after runs that were killed: nothing of another program's is touched.

use std::path::Path;

use super::DomainError;
use super::backup::{Host, end_job, remove_bitmaps};
use super::freeze::{Held, let_go};
use super::overlay::end_saving;
use super::run_folder::{DeadRun, dead_runs};
use crate::source::libvirt::Domain;

/// What was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Dead runs.
    pub runs: usize,
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
    for run in dead_runs(run_folder, domain.uuid()) {
        say(&format!(
            "a backup of {} by process {} ended midway; clearing up after it",
            domain.name(),
            run.record.pid
        ));
        clear(domain, &run, say)?;
        run.remove()?;
        recovered.runs += 1;
    }
    Ok(recovered)
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
        remove_bitmaps(domain, &run.record.images, checkpoint)?;
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
