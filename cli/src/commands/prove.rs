//! `cairn prove`: boots a snapshot as a throw-away domain, and records the verdict.

mod accel;
mod serve;
mod trial;

use cairn_engine::printable::is_printable;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use cairn_engine::domain::backup::DOMAIN_XML;
use cairn_engine::domain::define::DefineError;
use cairn_engine::domain::prove::ProveError;
use cairn_engine::format::note::Fact;
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::source::libvirt::Transport;
use cairn_engine::source::libvirt::xml::Element;
use clap_complete::engine::ArgValueCompleter;
use regex::bytes::{Regex, RegexBuilder};

use crate::complete;
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::libvirt::ConnectArgs;
use crate::output::prove::{ProveReport, RanCommand};
use crate::output::size;
use crate::session::{self, Snapshots};
use accel::AccelChoice;
use trial::{Trial, Tried};

const EXAMPLES: &str = "\
Examples:
  cairn prove web1
  cairn prove web1 --run 'systemctl is-active nginx' --timeout 5min
  cairn prove web1@2026-11-20 --console 'login: $' --screenshot web1.ppm

The domain has a name of its own and no network, and reads the snapshot through overlays that are
thrown away: the original and the stored disks stay as they are. What it has not of the original is
listed. The verdict is kept with the snapshot; `cairn snapshots` and `cairn show` tell it.

The exit code is 0 where the snapshot is proved, 1 where it is not or could not be tried, and 3
where it is proved and no picture of its screen could be taken.";

/// Longest text that is kept as a verdict, in characters.
const VERDICT_LEN_MAX: usize = 500;
/// Where what guests write goes: not to /tmp, which may be in memory.
pub const DIR_DEFAULT: &str = "/var/tmp";

/// Boot a snapshot as a throw-away domain of libvirt, and record whether it works
///
/// It works where the guest's agent answers, or its console shows a pattern, and the command that
/// is given ends with 0.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct ProveArgs {
    /// Snapshot to boot
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshot: String,

    #[command(flatten)]
    connect: ConnectArgs,

    /// What runs the guest: `auto` is KVM where the host has it, else TCG, which is slow
    #[arg(long, value_enum, default_value = "auto")]
    accel: AccelChoice,

    /// How long the boot and the command may take together, such as 90s, 10min or 1h
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = parse_timeout)]
    timeout: Duration,

    /// Wait for this pattern on the first serial line, in place of the agent
    #[arg(long, value_name = "REGEX", value_parser = parse_pattern)]
    console: Option<Regex>,

    /// Run CMD by /bin/sh in the guest, through its agent; it must end with 0
    #[arg(long, value_name = "CMD")]
    run: Option<String>,

    /// Keep a picture of the screen as it was at the end; its format is QEMU's, PPM or PNG
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,

    /// XML of the domain, in place of the snapshot's own
    #[arg(long, value_name = "FILE")]
    domain_xml: Option<PathBuf>,

    /// Folder for what the guest writes
    #[arg(long, value_name = "DIR", default_value = DIR_DEFAULT)]
    dir: PathBuf,

    /// Memory of the guest [default: as much as it had]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
}

/// A snapshot that failed its proof.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {snapshot} is not proved: {failure}")]
struct NotProved {
    snapshot: String,
    failure: String,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    let parsed = parsed.and_then(|time| Duration::try_from(time).ok());
    let in_range = parsed.filter(|time| (1..=86_400).contains(&time.as_secs()));
    in_range.ok_or_else(|| "a time like 90s or 10min is wanted, a day at most".to_owned())
}

fn parse_pattern(text: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    // `$` is the end of a line: a console has many.
    let built = builder.multi_line(true).build();
    built.map_err(|error| error.to_string())
}

/// Runs the command.
pub fn run(args: &ProveArgs, context: &Context) -> Result<Outcome> {
    let connection = args.connect.open()?;
    if connection.transport() != Transport::Local {
        let uri = connection.uri().to_owned();
        return Err(ProveError::NotLocal { uri }.into());
    }
    args.check_screenshot()?;
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let snapshot = snapshots.find(&args.snapshot)?;
    let domain = args.domain(snapshot)?;
    let trial = Trial {
        args,
        context,
        connection: &connection,
        repository: &repository,
        snapshots: &snapshots,
        snapshot,
        domain: &domain,
        cancel: context.cancel()?,
    };
    let tried = trial.run()?;
    record(args, &repository, snapshot, &tried)?;
    report(args, context, snapshot, tried)
}

impl ProveArgs {
    /// Returns the XML of the snapshot's domain.
    fn domain(&self, snapshot: &Snapshot) -> Result<Element> {
        let text = match &self.domain_xml {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
            None => {
                let own = snapshot.manifest.metadata.get(DOMAIN_XML);
                own.ok_or(DefineError::NoDomain)?.clone()
            }
        };
        let domain = Element::parse(&text, "domain");
        Ok(domain.map_err(ProveError::from)?)
    }

    /// Fails before the guest boots, rather than after it.
    fn check_screenshot(&self) -> Result<()> {
        let folder = self.screenshot.as_deref().and_then(Path::parent);
        match folder {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                let text = format!("{} is no folder for a picture", folder.display());
                Err(CliError::Usage(text).into())
            }
            _ => Ok(()),
        }
    }
}

/// Keeps the verdict with the snapshot.
fn record(
    args: &ProveArgs,
    repository: &Repository,
    snapshot: &Snapshot,
    tried: &Tried,
) -> Result<()> {
    let what = verdict(args, tried);
    let fact = match tried.seen.failure {
        None => Fact::Proved { what },
        Some(_) => Fact::Disproved { what },
    };
    let added = repository.add_note(snapshot.id, fact);
    added.map(drop).context("the verdict cannot be recorded")
}

fn verdict(args: &ProveArgs, tried: &Tried) -> String {
    let (seen, accel) = (&tried.seen, tried.accel.name());
    let mut words = match &seen.failure {
        Some(failure) => format!("boot under {accel}: {failure}"),
        None => format!("booted under {accel}"),
    };
    if seen.pattern_found {
        words.push_str("; the console showed what was waited for");
    }
    if seen.agent_answered {
        words.push_str("; the agent answered");
    }
    if let Some(command) = args.run.as_ref().filter(|_| seen.command.is_some()) {
        words.push_str("; ran ");
        words.push_str(command);
    }
    let plain = words.chars().filter(|c| is_printable(*c));
    plain.take(VERDICT_LEN_MAX).collect()
}

fn report(
    args: &ProveArgs,
    context: &Context,
    snapshot: &Snapshot,
    tried: Tried,
) -> Result<Outcome> {
    let seen = tried.seen;
    let failure = seen.failure.map(|failure| failure.to_string());
    let lacks_picture = args.screenshot.is_some() && tried.screenshot.is_none();
    context.print(&ProveReport {
        snapshot: snapshot.id,
        vm: snapshot.manifest.vm.clone(),
        passed: failure.is_none(),
        failure: failure.clone(),
        domain: tried.domain,
        accel: tried.accel.name(),
        agent_answered: seen.agent_answered,
        pattern_found: seen.pattern_found,
        ready_after_ms: seen.ready_after.map(|time| time.as_millis()),
        command: seen.command.map(RanCommand::of),
        screenshot: tried.screenshot,
        console: tried.console,
        dropped: tried.dropped,
    })?;
    if let Some(failure) = failure {
        let snapshot = Snapshots::describe(snapshot);
        return Err(NotProved { snapshot, failure }.into());
    }
    Ok(match lacks_picture {
        true => Outcome::Problems,
        false => Outcome::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_typed() {
        for (text, seconds) in [("90s", 90), ("10min", 600), ("1h", 3600), ("1h 30m", 5400)] {
            assert_eq!(parse_timeout(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0s", "-5s", "10", "2 days", "25h", "x"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_match_lines_of_bytes() {
        let pattern = parse_pattern("login: $").expect("it is one");
        assert!(pattern.is_match(b"\xff\nweb1 login: \nx"));
        assert!(!pattern.is_match(b"login: x"));
        assert!(parse_pattern("(").is_err());
        assert!(parse_pattern("(a{1000}){1000}").is_err());
    }
}
