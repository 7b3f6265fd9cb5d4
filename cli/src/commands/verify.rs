//! `cairn verify`: whether everything can still be restored.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result as AnyResult;
use cairn_engine::progress::Progress;
use cairn_engine::repository::Access;
use cairn_engine::verify::{self, StoredOptions, VerifyOptions, verify_stored};
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;

use crate::complete;
use crate::context::Context;
use crate::exit::{Outcome, one_line};
use crate::output::time;
use crate::output::verify::VerifyReport;
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn verify                     every stored byte
  cairn verify --metadata-only     in seconds: is everything there that snapshots refer to?
  cairn verify --sample 5          a different twentieth of the data each time
  cairn verify --max-duration 1h   each night: what was not read for longest comes first
  cairn verify web1@latest         what one snapshot needs
  cairn verify --stored            without the passphrase: stored bytes only

What was read and found whole is remembered in the user's cache folder, so that runs which are cut
short, by --max-duration or by Ctrl-C, cover the repository in turn. The last lines say how much of
it was read, and since when all of it was. Packs found damaged come first until they are whole
again.

Parity is read together with its pack. Where it is damaged that is damage which hurts nobody; packs
that have none are counted, and are no damage. `cairn repair` makes both anew.

Exits with 13 if damage was found, and with 0 if none was, even where not everything was read. Every
damaged object is named, with what it hurts.";

/// Read back what is stored, and check it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// Snapshots to verify [default: everything that is stored]
    #[arg(value_name = "SNAPSHOT")]
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshots: Vec<String>,

    /// Leave the data of disks unread
    #[arg(long)]
    pub metadata_only: bool,

    /// Read a random part of the data only
    #[arg(long, value_name = "PERCENT", conflicts_with = "metadata_only")]
    pub sample: Option<Percent>,

    /// Read data for so long at most, such as 1h: what was not read for longest first
    ///
    /// The pack that is being read then is read to its end. What is missing altogether is looked
    /// for first, in at most half of the time. Where damage is found, whom it hurts is looked for
    /// in any case. With 0, one pack is read.
    #[arg(long, value_name = "DURATION", value_parser = time::parse)]
    #[arg(conflicts_with = "metadata_only")]
    pub max_duration: Option<Duration>,

    /// Only compare stored bytes with the hashes that name them: needs no passphrase
    ///
    /// Finds whatever decayed, in packs, manifests, notes and key slots. Cannot find what is
    /// missing altogether, and cannot say whom damage hurts.
    #[arg(long, conflicts_with_all = ["snapshots", "metadata_only", "sample"])]
    pub stored: bool,
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
    let progress = Arc::new(Progress::default());
    let report = match args.stored {
        true => stored(args, context, &progress)?,
        false => plain(args, context, &progress)?,
    };
    if let Some(error) = &report.coverage.unremembered {
        context.warn(&format!(
            "what was read cannot be remembered, and will be read again: {error}"
        ));
    }
    let outcome = match report.faults.is_empty() {
        true => Outcome::Done,
        false => Outcome::Damage,
    };
    let report = VerifyReport::of(report, args.stored);
    match outcome {
        Outcome::Done => context.report(&report)?,
        _ => context.print(&report)?,
    }
    Ok(outcome)
}

/// Verifies stored bytes only.
fn stored(
    args: &VerifyArgs,
    context: &Context,
    progress: &Arc<Progress>,
) -> AnyResult<verify::VerifyReport> {
    let (storage, open) = (session::storage(context)?, session::open_options(context)?);
    let _meter = context.meter("verify", progress);
    let options = StoredOptions {
        max_duration: args.max_duration,
        now: Timestamp::now(),
        threads: context.threads().get(),
        progress,
        cancel: &context.cancel()?,
    };
    Ok(verify_stored(&storage, &open, &options)?)
}

/// Decodes what is verified.
fn plain(
    args: &VerifyArgs,
    context: &Context,
    progress: &Arc<Progress>,
) -> AnyResult<verify::VerifyReport> {
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
    let _meter = context.meter("verify", progress);
    let options = VerifyOptions {
        snapshots: (!named.is_empty()).then_some(named),
        metadata_only: args.metadata_only,
        sample_percent: args.sample.map_or(100.0, |share| share.0),
        max_duration: args.max_duration,
        now: Timestamp::now(),
        threads: context.threads().get(),
        progress,
        cancel: &context.cancel()?,
    };
    let report = verify::verify(&contents, &snapshots.list, &options)?;
    if contents.why_unseen().is_some() {
        context.warn("that it was verified is not noted in the repository");
        return Ok(report);
    }
    let added = repository.add_verified(&snapshots.list, &report.whole, Timestamp::now());
    if let Err(error) = added {
        let error = one_line(&error.into());
        context.warn(&format!("that it was verified cannot be noted: {error}"));
    }
    Ok(report)
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
