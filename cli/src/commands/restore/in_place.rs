//! `cairn restore --in-place`: the disks of a domain as they were in a snapshot.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use cairn_engine::domain::in_place::{InPlaceError, InPlaceOptions, restore_in_place};
use cairn_engine::image::CACHE_BYTES_DEFAULT;
use cairn_engine::progress::Progress;
use cairn_engine::repository::{Access, Repository, Snapshot};
use cairn_engine::restore::RestoreOptions;

use super::RestoreArgs;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::restore::{InPlaceReport, SetBackDisk};
use crate::session;

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
    let access = Access::Read(vec![snapshot.id]);
    let contents = session::contents(context, repository, access, "restore")?;
    let contents = Arc::new(contents);
    let cancel = context.cancel()?;
    let progress = Arc::new(Progress::default());
    let meter = context.meter("restore", &progress);
    let say = |text: &str| context.warn(text);
    let options = InPlaceOptions {
        only: args.disk.clone(),
        run_folder: run_folder(),
        cache_bytes: CACHE_BYTES_DEFAULT,
        restore: RestoreOptions {
            threads: context.threads().get(),
            progress: &progress,
            cancel: &cancel,
        },
        say: &say,
    };
    let done = restore_in_place(&contents, snapshot, &domain, &options);
    drop(meter);
    let disks = done?.into_iter().map(|disk| SetBackDisk {
        target: disk.target,
        path: disk.path,
        size: disk.size,
        compared_bytes: disk.compared_bytes,
        changed_bytes: disk.changed_bytes,
        written_bytes: disk.written_bytes,
        doubt: disk.doubt,
    });
    context.print(&InPlaceReport {
        snapshot: snapshot.id,
        domain: domain.name().to_owned(),
        disks: disks.collect(),
    })?;
    Ok(Outcome::Done)
}

/// Returns the folder of runs and locks.
fn run_folder() -> PathBuf {
    let given = std::env::var_os("CAIRN_RUN_DIR").filter(|folder| !folder.is_empty());
    let own = || match rustix::process::geteuid().is_root() {
        true => None,
        false => std::env::var_os("XDG_RUNTIME_DIR").map(|own| PathBuf::from(own).join("cairn")),
    };
    given
        .map(PathBuf::from)
        .or_else(own)
        .unwrap_or_else(|| PathBuf::from("/run/cairn"))
}
