//! `cairn verify`: whether everything can still be restored.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result as AnyResult;
use cairn_engine::progress::Progress;
use cairn_engine::repository::Access;
use cairn_engine::verify::{VerifyOptions, verify};

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::verify::VerifyReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn verify                     every stored byte
  cairn verify --metadata-only     in seconds: is everything there that snapshots refer to?
  cairn verify --sample 5          a different twentieth of the data each time
  cairn verify web1@latest         what one snapshot needs

Exits with 13 if damage was found. Every damaged object is named, with what it hurts.";

/// Read back what is stored, and check it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// Snapshots to verify [default: everything that is stored]
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,

    /// Leave the data of disks unread
    #[arg(long)]
    pub metadata_only: bool,

    /// Read a random part of the data only
    #[arg(long, value_name = "PERCENT", conflicts_with = "metadata_only")]
    pub sample: Option<Percent>,
}

/// A share in percent, more than nothing and at most everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
        let share = number.filter(|share| *share > 0.0 && *share <= 100.0);
        share
            .map(Self)
            .ok_or_else(|| "a number over 0, at most 100, is wanted".to_owned())
    }
}

/// Runs the command.
pub fn run(args: &VerifyArgs, context: &Context) -> AnyResult<Outcome> {
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let mut named = Vec::new();
    for text in &args.snapshots {
        named.push(snapshots.find(text)?.id);
    }
    let pins = match named.is_empty() {
        true => snapshots.live().map(|snapshot| snapshot.id).collect(),
        false => named.clone(),
    };
    let contents = session::contents(context, &repository, Access::Read(pins), "verify")?;
    let cancel = context.cancel()?;
    let progress = Arc::new(Progress::default());
    let meter = context.meter("verify", &progress);
    let options = VerifyOptions {
        snapshots: (!named.is_empty()).then_some(named),
        metadata_only: args.metadata_only,
        sample_percent: args.sample.map_or(100.0, |share| share.0),
        threads: context.threads().get(),
        progress: &progress,
        cancel: &cancel,
    };
    let report = verify(&contents, &snapshots.list, &options)?;
    drop(meter);
    let outcome = match report.faults.is_empty() {
        true => Outcome::Done,
        false => Outcome::Damage,
    };
    context.print(&VerifyReport::of(report))?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_bounds() {
        assert_eq!("5".parse(), Ok(Percent(5.0)));
        assert_eq!("0.5%".parse(), Ok(Percent(0.5)));
        for text in ["0", "-1", "100.1", "NaN", "inf", "x", ""] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
