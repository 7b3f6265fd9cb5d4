//! `cairn restore --in-place`: the disks of a domain as they were in a snapshot.

use std::sync::Arc;

use anyhow::Result;
use cairn_engine::domain::in_place::{self, InPlaceError, InPlaceOptions, restore_in_place};
use cairn_engine::image::CACHE_BYTES_DEFAULT;
use cairn_engine::repository::{Repository, Snapshot};

use super::{RestoreArgs, Work};
use crate::ask;
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::in_place::{InPlacePlan, InPlaceReport, SetBackDisk};

/// Sets disks back.
pub fn run(
    args: &RestoreArgs,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    context: &Context,
) -> Result<Outcome> {
    let record = snapshot.manifest.domain.as_ref();
    let record = record.ok_or(InPlaceError::NoDomain)?;
    let domain = args.domain.connection()?.domain(&record.uuid)?;
    let plan = in_place::plan(snapshot, &domain, args.disk.as_deref())?;
    let plan = InPlacePlan::of(snapshot, domain.name(), plan);
    if args.domain.dry_run {
        context.print(&plan)?;
        return Ok(Outcome::Done);
    }
    if !args.domain.yes {
        let name = domain.name();
        if !ask::is_anyone_there() {
            let what = format!("what domain {name} has on its disks is lost");
            return Err(CliError::NotConfirmed(what).into());
        }
        ask::may(
            &plan,
            &format!("set domain {name} back, and lose what it has now?"),
        )?;
    }
    let run_folder = args.domain.connect.run_folder()?;
    let work = Work::begin(repository, snapshot, context)?;
    let say = |text: &str| context.warn(text);
    let options = InPlaceOptions {
        only: args.disk.clone(),
        run_folder,
        cache_bytes: CACHE_BYTES_DEFAULT,
        restore: work.options(),
        say: &say,
    };
    let done = restore_in_place(&work.contents, snapshot, &domain, &options);
    drop(work.meter);
    let disks = done?.into_iter().map(|disk| SetBackDisk {
        target: disk.target,
        path: disk.path,
        size: disk.size,
        compared_bytes: disk.compared_bytes,
        changed_bytes: disk.changed_bytes,
        written_bytes: disk.written_bytes,
        doubt: disk.doubt,
    });
    context.report(&InPlaceReport {
        snapshot: snapshot.id,
        domain: domain.name().to_owned(),
        disks: disks.collect(),
        left: plan.left,
    })?;
    Ok(Outcome::Done)
}
