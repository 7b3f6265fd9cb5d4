//! `cairn restore --memory`: a snapshot whose guest goes on where it was.

use std::sync::Arc;

use anyhow::Result;
use cairn_engine::domain::{define::DefineOptions, memory};
use cairn_engine::repository::{Repository, Snapshot};

use super::{RestoreArgs, Work, domain};
use crate::context::Context;
use crate::exit::Outcome;

/// Restores a snapshot's domain and its memory.
pub fn run(
    args: &RestoreArgs,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    context: &Context,
) -> Result<Outcome> {
    let connection = args.domain.connection()?;
    let work = Work::begin(repository, snapshot, context)?;
    let options = DefineOptions {
        name: memory::name(snapshot).unwrap_or_default(),
        ..domain::options(args, &work)?
    };
    let restored = memory::restore(&work.contents, snapshot, &connection, &options);
    drop(work.meter);
    domain::report(snapshot, restored?, context)
}
