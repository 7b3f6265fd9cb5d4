//! The backup of many domains: one that fails does not stop the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use cairn_engine::domain::vm_name::vm_name;
use cairn_engine::source::libvirt::Domain;
use globset::{Glob, GlobSetBuilder};

use super::BackupArgs;
use super::domain::{Shared, check};
use crate::context::Context;
use crate::exit::{self, CliError, Outcome};
use crate::output::domain::{FleetBackup, FleetReport};

/// Runs the command.
pub fn run(args: &BackupArgs, context: &Context) -> Result<Outcome> {
    check(args)?;
    let domains = choose(args)?;
    let jobs = args.domain.jobs.get().min(domains.len());
    let shared = Shared::open(args, context, jobs)?;
    let meter = shared.meter();
    let next = AtomicUsize::new(0);
    let backups = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(domain) = domains.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let backup = one(&shared, domain);
                    backups
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(backup);
                }
            });
        }
    });
    drop(meter);
    let mut backups = backups.into_inner().unwrap_or_else(PoisonError::into_inner);
    backups.sort_by(|a, b| a.vm.cmp(&b.vm));
    let failed = backups
        .iter()
        .filter(|backup| backup.error.is_some())
        .count();
    let has_problems = backups.iter().any(|backup| backup.outcome != "done");
    let report = FleetReport {
        done: backups.len() - failed,
        failed,
        backups,
    };
    context.report(&report)?;
    Ok(match (report.done, has_problems) {
        _ if shared.cancel.is_cancelled() => Outcome::Interrupted,
        (0, true) => Outcome::Failed,
        (_, true) => Outcome::Problems,
        (_, false) => Outcome::Done,
    })
}

/// Returns the domains that are meant, by their names.
fn choose(args: &BackupArgs) -> Result<Vec<Domain>> {
    let mut patterns = GlobSetBuilder::new();
    for pattern in &args.domain.pattern {
        let glob = Glob::new(pattern);
        patterns.add(glob.map_err(|error| CliError::Usage(error.to_string()))?);
    }
    let patterns = patterns
        .build()
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let mut domains = args.domain.connect.open()?.domains()?;
    domains.retain(|domain| args.domain.all || patterns.is_match(domain.name()));
    domains.sort_by(|a, b| a.name().cmp(b.name()));
    match domains.is_empty() {
        true => Err(CliError::Usage("no domain matches".to_owned()).into()),
        false => Ok(domains),
    }
}

fn one(shared: &Shared<'_>, domain: &Domain) -> FleetBackup {
    let name = domain.name();
    let vm = vm_name(name, domain.uuid());
    let say = |text: &str| shared.context.warn(&format!("{name}: {text}"));
    let begun = Instant::now();
    match shared.back_up(domain, &say) {
        Ok(done) => {
            let (report, outcome) = shared.report(done, begun.elapsed());
            FleetBackup {
                vm,
                outcome: match outcome {
                    Outcome::Done => "done",
                    _ => "problems",
                },
                error: None,
                backup: Some(report),
            }
        }
        Err(error) => {
            let error = exit::one_line(&error);
            shared.context.warn(&format!("{name}: {error}"));
            FleetBackup {
                vm,
                outcome: "failed",
                error: Some(error),
                backup: None,
            }
        }
    }
}
