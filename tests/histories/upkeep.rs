//! What processes do to keep a repository in order: forget, prune, bring back, verify, repair.

use cairn_engine::id::SnapshotId;
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repair::{RepairError, RepairOptions, repair as run_repair};
use cairn_engine::repository::{RepositoryError, Snapshot};
use cairn_engine::retention::{self, Candidate, Clock, Count, Policy, decide};
use cairn_engine::verify::VerifyReport;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::acts::{Process, is_locked};
use crate::support::memory::verify_fresh;

/// Forgets one snapshot.
pub fn forget(random: &mut fastrand::Rng, process: &Process<'_>) {
    if let Some(snapshot) = process.any_live(random) {
        forget_all(process, &[snapshot.id]);
    }
}

/// Forgets what no rule keeps.
pub fn prune(random: &mut fastrand::Rng, process: &Process<'_>) {
    let snapshots = process.snapshots();
    let policy = Policy {
        last: Count::new(random.u32(1..4)),
        ..Policy::default()
    };
    let clock = Clock {
        now: Timestamp::now(),
        zone: TimeZone::UTC,
    };
    let all = Candidate::all(&snapshots);
    let groups = decide(&all, &policy, None, &clock, |_| true).expect("it keeps something");
    let decisions = groups.iter().flat_map(|group| &group.decisions);
    let dropped: Vec<SnapshotId> = decisions
        .filter(|decision| !decision.is_kept())
        .map(|decision| decision.id)
        .collect();
    forget_all(process, &dropped);
}

fn forget_all(process: &Process<'_>, ids: &[SnapshotId]) {
    let model = &process.round.model;
    for id in ids {
        model.known().begin_forget(*id);
    }
    match process.repository.forget(ids) {
        Ok(()) if !process.is_over() => {
            for id in ids {
                model.known().end_forget(*id);
            }
        }
        Ok(()) => {}
        Err(error) => process.failed("forget", &error),
    }
}

/// Brings one snapshot back.
pub fn undelete(random: &mut fastrand::Rng, process: &Process<'_>) {
    let all = process.snapshots().into_iter();
    let resting: Vec<Snapshot> = all.filter(|it| it.state.forgotten.is_some()).collect();
    let Some(snapshot) = random.choice(resting) else {
        return;
    };
    let model = &process.round.model;
    let before = model.known().forgotten.get(&snapshot.id).copied();
    match retention::undelete(&process.repository, &[snapshot.id]) {
        Ok(()) if !process.is_over() => {
            let before = before.unwrap_or_default();
            model.known().undeleted(snapshot.id, before);
        }
        Ok(()) | Err(RepositoryError::SnapshotGone(_)) => {}
        Err(error) if is_locked(&error) => {}
        Err(error) => process.failed("undelete", &error),
    }
}

/// Verifies everything, beside whoever is at work: nobody has done any damage.
pub fn verify(process: &Process<'_>) {
    match verify_fresh(&process.repository) {
        Ok(report) => check_whole(process, "verify", &report),
        Err(error) => process.failed("verify", &error),
    }
}

fn check_whole(process: &Process<'_>, what: &str, report: &VerifyReport) {
    if !process.is_over() {
        for fault in &report.faults {
            let model = &process.round.model;
            model.violation(format!("{what} beside others: {fault:?}"));
        }
    }
}

/// Repairs what is whole: nothing is found, nothing is moved, and the index is made anew.
pub fn repair(process: &Process<'_>) {
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let options = RepairOptions {
        packs: None,
        donors: &[],
        threads: 1,
        progress: &progress,
        cancel: &cancel,
    };
    match run_repair(&process.repository, &options) {
        Ok(report) if !process.is_over() => {
            let model = &process.round.model;
            for pack in &report.damaged {
                model.violation(format!("repair calls a whole pack damaged: {pack:?}"));
            }
            for fault in &report.remaining {
                model.violation(format!("repair beside others: {fault:?}"));
            }
        }
        Ok(_) | Err(RepairError::Writers(_)) => {}
        Err(RepairError::Repository(error)) if is_locked(&error) => {}
        Err(error) => process.failed("repair", &error),
    }
}
