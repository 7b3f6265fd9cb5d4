//! `cairn diff`: where two snapshots differ.

use anyhow::Result;
use cairn_engine::repository::Access;

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::diff::{DiffExtent, DiffReport};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn diff web1@2026-11-19 web1@latest
  cairn diff 3f2a9c 81b0d2 --disk vda --json";

/// List the extents in which the disks of two snapshots differ
///
/// Compares what is stored and reads no data. Extents are those of chunks: at most a few of them
/// longer than what really differs.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct DiffArgs {
    /// One snapshot
    pub a: String,

    /// The other
    pub b: String,

    /// Disk to compare [default: all that both have]
    #[arg(long, value_name = "TARGET")]
    pub disk: Option<String>,
}

/// Runs the command.
pub fn run(args: &DiffArgs, context: &Context) -> Result<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let (a, b) = (snapshots.find(&args.a)?, snapshots.find(&args.b)?);
    let access = Access::Read(vec![a.id, b.id]);
    let contents = session::contents(context, &repository, access, "diff")?;
    let mut report = DiffReport {
        a: a.id,
        b: b.id,
        extents: Vec::new(),
    };
    let mut compared = 0;
    for old in &a.manifest.disks {
        let wanted = args
            .disk
            .as_ref()
            .is_none_or(|target| *target == old.target);
        let Some(new) = b.disk(&old.target).filter(|_| wanted) else {
            continue;
        };
        compared += 1;
        for range in cairn_engine::diff::diff(&contents, old, new)? {
            let (offset, length) = (range.start, range.end - range.start);
            report.extents.push(DiffExtent {
                target: old.target.clone(),
                offset,
                length,
            });
        }
    }
    if compared == 0 {
        let text = match &args.disk {
            Some(target) => format!("the snapshots do not both have a disk `{target}`"),
            None => "the snapshots have no disk in common".to_owned(),
        };
        return Err(CliError::Usage(text).into());
    }
    context.print(&report)?;
    Ok(Outcome::Done)
}
