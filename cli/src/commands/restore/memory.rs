//! `cairn restore --memory`: a snapshot whose guest goes on where it was.

use std::sync::Arc;

use anyhow::Result;
use cairn_engine::domain::{define::DefineOptions, memory};
use cairn_engine::progress::Progress;
use cairn_engine::repository::{Access, Repository, Snapshot};

use super::{RestoreArgs, domain};
use crate::context::Context;
use crate::exit::Outcome;
use crate::session;

/// Restores a snapshot's domain and its memory.
pub fn run(
    args: &RestoreArgs,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    context: &Context,
) -> Result<Outcome> {
    let connection = args.domain.connection()?;
    let access = Access::Read(vec![snapshot.id]);
    let contents = session::contents(context, repository, access, "restore")?;
    let cancel = context.cancel()?;
    let progress = Arc::new(Progress::default());
    let meter = context.meter("restore", &progress);
    let options = DefineOptions {
        name: snapshot.manifest.vm.clone(),
        ..domain::options(args, context, &progress, &cancel)?
    };
    let restored = memory::restore(&contents, snapshot, &connection, &options);
    drop(meter);
    domain::report(snapshot, restored?, context)
}
