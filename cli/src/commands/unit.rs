//! `cairn unit`: units of systemd that run a command at fixed times.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::args::Cli;
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::unit::{UnitFile, UnitsReport};
use crate::output::unit::{quoted, quoted_path};

const EXAMPLES: &str = "\
Examples:
  cairn unit backup --all --jobs 2
  cairn unit --at '*-*-* 03:00' backup web1 --disk vda=/vm/web1.qcow2,bitmap=auto
  cairn unit --at 'Sun 05:00' verify --max-duration 4h
  cairn unit --at 'Sun 06:00' --into /etc/systemd/system prune --keep-daily 7 + gc

Prints a service and a timer, or writes them with --into; then `systemctl daemon-reload`, and
`systemctl enable` and `start` of the timer, set it going. The repository is the one that is named
here, by -r or CAIRN_REPOSITORY. The passphrase of an encrypted one comes from --password-file,
which systemd hands to the service. A service that ends with any other exit code than 0 has failed,
as `systemctl --failed` tells.";

/// Print units of systemd that run commands at fixed times
///
/// After a `+` begins another command, which runs when the one before has succeeded.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct UnitArgs {
    /// When, as systemd writes it: `daily`, `*-*-* 02:30`, `Sun 05:00`
    #[arg(long, value_name = "CALENDAR", default_value = "*-*-* 02:00")]
    pub at: String,

    /// Name of the units [default: cairn-COMMAND]
    #[arg(long)]
    pub name: Option<String>,

    /// Write them into this folder, such as /etc/systemd/system
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,

    /// Overwrite what is there
    #[arg(long, requires = "into")]
    pub force: bool,

    /// Command of cairn with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_name = "COMMAND")]
    pub words: Vec<OsString>,
}

/// Runs the command.
pub fn run(args: &UnitArgs, context: &Context) -> Result<Outcome> {
    let commands: Vec<&[OsString]> = args.words.split(|word| word == "+").collect();
    for words in &commands {
        check(words)?;
    }
    let repository = std::path::absolute(context.repository()?);
    let repository = repository.context("cannot tell the current folder")?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => format!("cairn-{}", commands[0][0].to_string_lossy()),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) || name.starts_with('.') {
        let text = format!("`{name}` is no name of a unit: letters, digits, `-`, `_` and `.`");
        return Err(CliError::Usage(text).into());
    }
    if args.at.chars().any(char::is_control) {
        return Err(CliError::Usage("--at is one line".to_owned()).into());
    }
    let units = UnitsReport {
        units: vec![
            UnitFile {
                file_name: format!("{name}.service"),
                text: service(&repository, &commands, context)?,
            },
            UnitFile {
                file_name: format!("{name}.timer"),
                text: timer(&args.at, &name),
            },
        ],
    };
    if let Some(folder) = &args.into {
        for unit in &units.units {
            write(folder, unit, args.force)?;
        }
        context.remark(&format!(
            "now: systemctl daemon-reload && systemctl enable --now {name}.timer"
        ));
        context.report(&units.written(folder))?;
        return Ok(Outcome::Done);
    }
    context.print(&units)?;
    Ok(Outcome::Done)
}

/// Refuses what the program would refuse at two o'clock in the morning.
fn check(words: &[OsString]) -> Result<()> {
    let name = OsString::from("cairn");
    let line = [&name].into_iter().chain(words);
    let cli = Cli::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let text = text.trim_start_matches("error: ");
        CliError::Usage(format!("`cairn {}`: {text}", words.join(" ")))
    })?;
    match cli.global.repository.is_some() && words.iter().any(|word| word == "-r") {
        true => Err(CliError::Usage("-r stands before `unit`".to_owned()).into()),
        false => Ok(()),
    }
}

fn service(repository: &Path, commands: &[&[OsString]], context: &Context) -> Result<String> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut unit = String::from("[Unit]\nDescription=Cairn:");
    for word in commands.iter().flat_map(|words| words.iter()) {
        unit += &format!(" {}", word.to_string_lossy().replace('%', "%%"));
    }
    unit += "\nAfter=network-online.target libvirtd.service virtqemud.service\n";
    unit += &format!("RequiresMountsFor={}\n", quoted_path(repository));
    unit += "\n[Service]\nType=oneshot\n";
    if let Some(file) = context.password_file() {
        let file = std::path::absolute(file).context("cannot tell the current folder")?;
        unit += &format!("LoadCredential=cairn.password:{}\n", file.display());
    }
    for words in commands {
        let mut line = format!(
            "ExecStart={} -r {}",
            quoted_path(&program),
            quoted_path(repository)
        );
        for word in *words {
            line += &format!(" {}", quoted(&word.to_string_lossy()));
        }
        unit += &format!("{line}\n");
    }
    // Guests come first.
    unit += "Nice=10\nIOSchedulingClass=best-effort\nIOSchedulingPriority=7\n";
    // It stops between two chunks, and leaves nothing half done.
    unit += "KillSignal=SIGINT\nTimeoutStopSec=5min\n";
    Ok(unit)
}

fn timer(at: &str, name: &str) -> String {
    format!(
        "[Unit]\nDescription=Times of {name}.service\n\n\
         [Timer]\nOnCalendar={}\n\
         # What was missed while the machine was off is made up for.\n\
         Persistent=true\n\n\
         [Install]\nWantedBy=timers.target\n",
        at.replace('%', "%%")
    )
}

fn write(folder: &Path, unit: &UnitFile, force: bool) -> Result<()> {
    let path = folder.join(&unit.file_name);
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .create_new(!force);
    let opened = options.open(&path);
    let written = opened.and_then(|mut file| file.write_all(unit.text.as_bytes()));
    written.with_context(|| match fs::exists(&path).unwrap_or(false) && !force {
        true => format!("{} is there already; --force overwrites it", path.display()),
        false => format!("cannot write {}", path.display()),
    })
}
