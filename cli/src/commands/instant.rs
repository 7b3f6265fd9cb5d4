//! `cairn instant`: domains that run while their disks become whole.

use anyhow::{Result, bail};
use cairn_engine::domain::instant::{Record, pull};
use cairn_engine::source::libvirt::{Connection, DomainState};

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::instant::{ExportProcess, Places, finish, start_watcher, stop_watcher, watch};
use crate::output::instant::{
    AbortReport, InstantDiskStatus, InstantReport, InstantStatus, UnitReport,
};
use crate::output::unit::{quoted, quoted_path};
use crate::session;

const EXAMPLES: &str = "\
Examples:
  cairn restore web1 --instant --define web1-back --new-ids --start
  cairn instant list
  cairn instant resume
  cairn instant unit web1-back > /etc/systemd/system/cairn-instant-web1-back.service

An instant restore gives a domain disks that are read from the repository until they are copied.
Until then the domain needs a process of Cairn, which `resume` starts again after a reboot. When all
is copied, the restore is no longer listed, and nothing of Cairn is left in the domain.";

/// Watch over domains that run while their disks are restored
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct InstantArgs {
    /// What to do
    #[command(subcommand)]
    pub command: InstantCommand,

    #[command(flatten)]
    pub places: Places,
}

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum InstantCommand {
    /// List restores whose disks are not whole
    List {
        /// Domain [default: all of them]
        name: Option<String>,
    },
    /// Start what serves and watches again, after a reboot or a crash
    Resume {
        /// Domain [default: all of them]
        name: Option<String>,
    },
    /// Give a restore up: remove the domain and its disks
    ///
    /// Refuses where the domain needs the export, unless --force is given. What the guest has
    /// written since it was restored is lost.
    Abort {
        /// Domain
        name: String,
        /// Stop the domain, undefine it and remove its disks
        #[arg(long)]
        force: bool,
    },
    /// Print a systemd unit that does what `resume` does at every start of the host
    Unit {
        /// Domain
        name: String,
    },
    /// Watch over a restore until its disks are whole
    #[command(hide = true)]
    Run {
        /// Domain
        name: String,
    },
}

/// Runs the command.
pub fn run(args: &InstantArgs, context: &Context) -> Result<Outcome> {
    let places = &args.places;
    match &args.command {
        InstantCommand::List { name } => list(name.as_deref(), places, context)?,
        InstantCommand::Resume { name } => resume(name.as_deref(), places, context)?,
        InstantCommand::Abort { name, force } => abort(name, *force, places, context)?,
        InstantCommand::Unit { name } => unit(name, places, context)?,
        InstantCommand::Run { name } => watch(name, places, context)?,
    }
    Ok(Outcome::Done)
}

/// Returns the records that are meant.
fn records(name: Option<&str>, places: &Places) -> Result<Vec<Record>> {
    let states = places.states()?;
    match name {
        None => Ok(states.all()?),
        Some(name) => Ok(vec![record(name, places)?]),
    }
}

fn record(name: &str, places: &Places) -> Result<Record> {
    let found = places.states()?.find(name)?;
    let unknown = || CliError::Usage(format!("there is no instant restore of `{name}`"));
    Ok(found.ok_or_else(unknown)?)
}

fn list(name: Option<&str>, places: &Places, context: &Context) -> Result<()> {
    let records = records(name, places)?;
    let status = |record: &Record| status(record, places, context);
    let instants: Result<Vec<_>> = records.iter().map(status).collect();
    context.report(&InstantReport {
        instants: instants?,
    })
}

fn status(record: &Record, places: &Places, context: &Context) -> Result<InstantStatus> {
    let looked = look(record);
    if let Err(error) = &looked {
        context.remark(&format!("warning: domain {}: {error:#}", record.domain));
    }
    let (state, known) = looked.map_or((None, Vec::new()), |(state, disks)| (Some(state), disks));
    let disk = |disk: &cairn_engine::domain::instant::InstantDisk| {
        let now = known.iter().find(|known| known.target == disk.target);
        let percent = now
            .and_then(|now| now.job)
            .map(|(done, total)| match total {
                0 => 0.0,
                total => done as f64 * 100.0 / total as f64,
            });
        InstantDiskStatus {
            target: disk.target.clone(),
            path: disk.path.clone(),
            size: disk.size,
            is_whole: now.is_some_and(|now| now.is_whole),
            percent,
        }
    };
    Ok(InstantStatus {
        domain: record.domain.clone(),
        uuid: record.uuid.clone(),
        snapshot: record.snapshot,
        repository: record.repository.clone(),
        socket: record.socket.clone(),
        export_alive: ExportProcess::serves(record),
        supervisor_alive: places.states()?.watcher(&record.uuid).is_some(),
        state,
        disks: record.disks.iter().map(disk).collect(),
    })
}

fn look(record: &Record) -> Result<(&'static str, Vec<pull::DiskState>)> {
    let connection = Connection::open(Some(&record.uri))?;
    let Some(domain) = pull::domain_of(&connection, record)? else {
        return Ok(("gone", Vec::new()));
    };
    let state = match domain.state()? {
        DomainState::Running => "running",
        DomainState::Paused | DomainState::PausedByIoError => "paused",
        DomainState::InShutdown | DomainState::Off => "off",
    };
    Ok((state, pull::disks(&domain, record)?))
}

fn resume(name: Option<&str>, places: &Places, context: &Context) -> Result<()> {
    let states = places.states()?;
    for record in records(name, places)? {
        match states.watcher(&record.uuid) {
            Some(pid) => context.detail(&format!("{}: process {pid} watches", record.domain)),
            None => start_watcher(&record, places)?,
        }
    }
    list(None, places, context)
}

fn abort(name: &str, force: bool, places: &Places, context: &Context) -> Result<()> {
    let states = places.states()?;
    let record = record(name, places)?;
    let connection = Connection::open(Some(&record.uri))?;
    let domain = pull::domain_of(&connection, &record)?;
    let needs = match &domain {
        Some(domain) => pull::needs_export(domain, &record)?,
        None => false,
    };
    if needs && !force {
        let text = format!(
            "domain {} needs the export: --force stops it, undefines it and removes its disks",
            record.domain
        );
        return Err(CliError::Usage(text).into());
    }
    if context.repository()? != record.repository
        && std::path::absolute(context.repository()?)? != record.repository
    {
        let text = format!(
            "the restore is from {}: give it by -r",
            record.repository.display()
        );
        return Err(CliError::Usage(text).into());
    }
    let repository = session::open(context)?;
    stop_watcher(&states, &record.uuid)?;
    let Some(_watch) = states.watch(&record.uuid)? else {
        bail!(
            "another process watches over the restore of {}",
            record.domain
        );
    };
    if let Some(domain) = domain.filter(|_| needs) {
        if domain.state()? != DomainState::Off {
            domain.destroy()?;
        }
        if domain.is_persistent().unwrap_or(false) {
            domain.undefine()?;
        }
    }
    let mut report = AbortReport {
        domain: record.domain.clone(),
        removed: Vec::new(),
    };
    for disk in &record.disks {
        // One that is whole is worth something by itself.
        let is_hollow = pull_is_needed(&disk.path);
        if is_hollow && force && std::fs::remove_file(&disk.path).is_ok() {
            report.removed.push(disk.path.clone());
        }
    }
    let log = states.log(&record.uuid);
    ExportProcess::new(&record, std::path::PathBuf::new(), log).stop()?;
    finish(&repository, &states, &record)?;
    context.print(&report)
}

fn pull_is_needed(path: &std::path::Path) -> bool {
    cairn_engine::domain::instant::overlay::has_backing(path).unwrap_or(false)
}

fn unit(name: &str, places: &Places, context: &Context) -> Result<()> {
    let record = record(name, places)?;
    let mut command = vec![std::env::current_exe()?.display().to_string()];
    command.extend(["-r".to_owned(), record.repository.display().to_string()]);
    if let Some(file) = &record.password_file {
        command.extend(["--password-file".to_owned(), file.display().to_string()]);
    }
    command.extend(["instant".to_owned(), "run".to_owned(), record.uuid.clone()]);
    for argument in places.arguments()? {
        command.push(argument.to_string_lossy().into_owned());
    }
    let quoted: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let unit = format!(
        "[Unit]\n\
         Description=Cairn: disks of domain {} that are not whole\n\
         # Stopped after the guests, started before them.\n\
         Before=libvirtd.service virtqemud.service libvirt-guests.service\n\
         RequiresMountsFor={}\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         Environment=HOME=%h\n\
         # Whoever restarts the service does not restart the export below a running guest.\n\
         KillMode=process\n\
         Restart=on-failure\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        record.domain.replace('%', "%%"),
        quoted_path(&record.repository),
        quoted.join(" "),
    );
    context.print(&UnitReport {
        file_name: format!("cairn-instant-{}.service", record.uuid),
        unit,
    })
}
