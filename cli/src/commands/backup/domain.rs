//! The backup of one libvirt domain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use cairn_engine::domain::backup::{DomainBackupDone, DomainBackupOptions, back_up};
use cairn_engine::progress::{Cancel, Progress};
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::source::RateLimit;
use cairn_engine::source::libvirt::Domain;

use super::{BackupArgs, disks};
use crate::context::Context;
use crate::exit::Outcome;
use crate::libvirt;
use crate::output::backup::{BackupReport, DomainReport};
use crate::output::progress::Meter;
use crate::session::{self, Snapshots};

/// What the backups of one command share.
pub(super) struct Shared<'s> {
    args: &'s BackupArgs,
    pub(super) context: &'s Context,
    repository: Arc<Repository>,
    /// Those that are not forgotten, oldest first.
    snapshots: Vec<Snapshot>,
    limit: Option<Arc<RateLimit>>,
    progress: Arc<Progress>,
    pub(super) cancel: Cancel,
    /// Threads for each domain.
    threads: usize,
}

/// Runs the command.
pub fn run(args: &BackupArgs, name: &str, context: &Context) -> Result<Outcome> {
    check(args)?;
    let domain = args.domain.connect.domain(name)?;
    let shared = Shared::open(args, context, 1)?;
    let meter = shared.meter();
    let begun = Instant::now();
    let done = shared.back_up(&domain, &|text| context.warn(text));
    drop(meter);
    let (report, outcome) = shared.report(done?, begun.elapsed());
    match (disks::print(context, &report)?, outcome) {
        (Outcome::Done, outcome) => Ok(outcome),
        (problems, _) => Ok(problems),
    }
}

/// Refuses arguments that make no sense, before anything is looked at.
pub(super) fn check(args: &BackupArgs) -> Result<()> {
    args.rate_limit()?;
    args.tags()?;
    Ok(args.domain.check()?)
}

impl<'s> Shared<'s> {
    /// Opens the repository, for so many domains at once.
    pub(super) fn open(args: &'s BackupArgs, context: &'s Context, jobs: usize) -> Result<Self> {
        let repository = session::open(context)?;
        let snapshots = Snapshots::read(context, &repository)?;
        let mut live: Vec<Snapshot> = snapshots.live().cloned().collect();
        // In the order in which they were made, whatever the clocks said.
        live.sort_by_key(|snapshot| snapshot.summary().rank());
        Ok(Self {
            args,
            context,
            snapshots: live,
            limit: args.rate_limit()?,
            progress: Arc::new(Progress::default()),
            cancel: context.cancel()?,
            threads: (context.threads().get() / jobs).max(1),
            repository,
        })
    }

    /// Shows how far the backups are until the meter is dropped.
    pub(super) fn meter(&self) -> Meter {
        self.context.meter("backup", &self.progress)
    }

    /// Backs up one domain.
    pub(super) fn back_up(
        &self,
        domain: &Domain,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<DomainBackupDone> {
        let args = &self.args.domain;
        let options = DomainBackupOptions {
            name: args.name.clone(),
            only: args.only.clone(),
            exclude: args.exclude.clone(),
            reading: args.reading(),
            way: args.way(),
            freeze: args.freeze(),
            offline: args.offline(),
            audit_percent: self.args.audit,
            limit: self.limit.clone(),
            scratch: args.scratch()?,
            tls: args.tls(),
            run_folder: args.connect.run_folder()?,
            guard: libvirt::guard_program()?,
            hooks: args.hooks.clone(),
            tags: self.args.tags()?,
            threads: self.threads,
            progress: &self.progress,
            cancel: &self.cancel,
            say,
        };
        Ok(back_up(
            &self.repository,
            &self.snapshots,
            domain,
            &options,
        )?)
    }

    /// Says what was done, and how it ended.
    pub(super) fn report(&self, done: DomainBackupDone, took: Duration) -> (BackupReport, Outcome) {
        let DomainBackupDone {
            backup,
            warnings,
            unreadable,
            frozen_ms,
        } = done;
        disks::said(self.context, &backup);
        let mut report = BackupReport::of(&backup, took);
        for warning in warnings {
            self.context.warn(&warning);
            report.warnings.push(warning);
        }
        for out in &unreadable {
            let text = format!("disk {} is NOT in the snapshot: {}", out.target, out.reason);
            self.context.warn(&text);
        }
        let outcome = match unreadable.is_empty() {
            true => Outcome::Done,
            false => Outcome::Problems,
        };
        report.domain = backup.manifest.domain.map(|record| DomainReport {
            uuid: record.uuid,
            checkpoint: record.checkpoint,
            method: record.method,
            consistency: record.consistency,
            frozen_ms,
            left_out: record.left_out,
            unreadable,
            not_saved: record.not_saved,
        });
        (report, outcome)
    }
}
