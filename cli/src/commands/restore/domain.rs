//! `cairn restore --define`: a snapshot as a libvirt domain.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::domain::define::{DefineOptions, Defined, FileRights, Place, define};
use cairn_engine::domain::rewrite::DiskFormat;
use cairn_engine::repository::{Contents, Repository, Snapshot};
use cairn_engine::source::libvirt::Connection;

use super::{ImageFormat, RestoreArgs, Work, users};
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::instant::{Begin, Places, StateArgs, begin};
use crate::libvirt::ConnectArgs;
use crate::limit;
use crate::output::restore::{DomainReport, RestoredDisk};

/// What concerns domains.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Domains")]
pub struct DomainArgs {
    /// Define a domain of this name with the snapshot's disks
    #[arg(long, value_name = "NAME", group = "where", conflicts_with = "disk")]
    pub define: Option<String>,

    /// Write only where the disks of the snapshot's domain differ from it; the domain must be off
    #[arg(long, group = "where", conflicts_with_all = ["format", "force"])]
    pub in_place: bool,

    /// With --in-place: only say which disks would be set back, and which not
    #[arg(long, requires = "in_place")]
    pub dry_run: bool,

    /// With --in-place: ask nothing, which where there is no terminal must be said
    #[arg(short, long, requires = "in_place")]
    pub yes: bool,

    /// Define the domain as it was, and let its guest go on from its saved memory
    #[arg(long, group = "where", conflicts_with = "disk")]
    pub memory: bool,

    #[command(flatten)]
    pub connect: ConnectArgs,

    /// Folder for the disks [default: that of libvirt's pool `default`]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "in_place"])]
    pub dir: Option<PathBuf>,

    /// Storage pool whose folder gets the disks
    #[arg(long, conflicts_with_all = ["to", "in_place", "dir"])]
    pub pool: Option<String>,

    /// Leave the network interfaces without a link
    #[arg(long, conflicts_with_all = ["to", "in_place", "memory"])]
    pub no_ip: bool,

    /// Leave the network interfaces out
    #[arg(long, conflicts_with_all = ["to", "in_place", "memory", "no_ip"])]
    pub no_nic: bool,

    /// Draw a new UUID and new MAC addresses, so that it can stand beside the original
    #[arg(long, conflicts_with_all = ["to", "in_place", "memory"])]
    pub new_ids: bool,

    /// Keep disks, media and shared folders that are not in the snapshot
    #[arg(long, conflicts_with_all = ["to", "in_place", "memory"])]
    pub keep_foreign_disks: bool,

    /// Let the domain run at once, and copy its disks in the background; qcow2 only
    ///
    /// Until all is copied, the domain reads what is missing from the repository. See
    /// `cairn instant --help`.
    #[arg(long, conflicts_with_all = ["to", "in_place", "memory"])]
    pub instant: bool,

    /// Copy at most SIZE a second of each disk [default: no limit]
    #[arg(long, value_name = "SIZE", requires = "instant")]
    pub pull_limit: Option<String>,

    /// XML of the domain, in place of the snapshot's own
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "in_place", "memory"])]
    pub domain_xml: Option<PathBuf>,

    #[command(flatten)]
    pub state: StateArgs,

    /// Start the domain
    #[arg(long, conflicts_with_all = ["to", "in_place", "memory"])]
    pub start: bool,

    /// User that the files get, by name or number
    #[arg(long, value_name = "USER", conflicts_with_all = ["to", "in_place"])]
    pub owner: Option<String>,

    /// Group that the files get, by name or number
    #[arg(long, conflicts_with_all = ["to", "in_place"])]
    pub group: Option<String>,

    /// Mode that the files get, in octal
    #[arg(long, conflicts_with_all = ["to", "in_place"], value_parser = users::mode)]
    pub mode: Option<u32>,
}

impl DomainArgs {
    /// Connects to the daemon.
    pub fn connection(&self) -> Result<Connection> {
        self.connect.open().context("cannot reach libvirt")
    }

    /// Returns where an instant restore keeps what it needs: sockets are where all others are.
    pub(super) fn places(&self) -> Places {
        Places {
            state: self.state.clone(),
            run_dir: self.connect.run_dir.clone(),
        }
    }

    fn pull_limit(&self) -> Result<u64> {
        let limit = self.pull_limit.as_deref().map(limit::bytes_a_second);
        Ok(limit.transpose()?.unwrap_or(0))
    }

    fn place(&self) -> Place {
        match (&self.dir, &self.pool) {
            (Some(folder), _) => Place::Folder(folder.clone()),
            (None, Some(pool)) => Place::Pool(pool.clone()),
            (None, None) => Place::Default,
        }
    }

    fn rights(&self) -> Result<FileRights> {
        Ok(FileRights {
            owner: self.owner.as_deref().map(users::user).transpose()?,
            group: self.group.as_deref().map(users::group).transpose()?,
            mode: self.mode,
        })
    }
}

fn read_xml(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path);
    text.with_context(|| format!("cannot read {}", path.display()))
}

/// Restores a snapshot to a new definition.
pub fn run(
    args: &RestoreArgs,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    context: &Context,
) -> Result<Outcome> {
    let domain = &args.domain;
    if domain.instant && args.format == Some(ImageFormat::Raw) {
        let text = "an instant restore makes qcow2 files: a raw one cannot tell what it lacks";
        return Err(CliError::Usage(text.to_owned()).into());
    }
    let pull_limit = domain.pull_limit()?;
    let domain_xml = domain.domain_xml.as_deref().map(read_xml).transpose()?;
    let connection = domain.connection()?;
    let work = Work::begin(repository, snapshot, context)?;
    let options = DefineOptions {
        domain_xml: domain_xml.as_deref(),
        ..options(args, &work)?
    };
    let defined = match domain.instant {
        true => {
            let how = Begin {
                name: &options.name,
                snapshot,
                repository,
                connection: &connection,
                pull_limit,
                places: &domain.places(),
            };
            at_once(&how, &work.contents, &options, context)
        }
        false => define(&work.contents, snapshot, &connection, &options).map_err(Into::into),
    };
    drop(work.meter);
    report(snapshot, defined?, context)
}

/// Returns how a domain is to be defined.
pub(super) fn options<'o>(args: &RestoreArgs, work: &'o Work) -> Result<DefineOptions<'o>> {
    let domain = &args.domain;
    Ok(DefineOptions {
        name: domain.define.clone().unwrap_or_default(),
        place: domain.place(),
        format: match args.format {
            Some(ImageFormat::Raw) => DiskFormat::Raw,
            Some(ImageFormat::Qcow2) | None => DiskFormat::Qcow2,
        },
        new_ids: domain.new_ids,
        no_nic: domain.no_nic,
        no_ip: domain.no_ip,
        keep_foreign_disks: domain.keep_foreign_disks,
        rights: domain.rights()?,
        force: args.force,
        run_folder: domain.connect.run_folder()?,
        start: domain.start,
        domain_xml: None,
        maker: None,
        restore: work.options(),
    })
}

/// Defines the domain over an export of the snapshot.
fn at_once(
    how: &Begin<'_>,
    contents: &Contents,
    options: &DefineOptions<'_>,
    context: &Context,
) -> Result<Defined> {
    begin(how, context, |maker| {
        let options = DefineOptions {
            maker: Some(maker),
            ..options.clone()
        };
        define(contents, how.snapshot, how.connection, &options)
    })
}

/// Says what was restored.
pub(super) fn report(snapshot: &Snapshot, defined: Defined, context: &Context) -> Result<Outcome> {
    let disks = defined.disks.into_iter().map(|disk| RestoredDisk {
        target: disk.target,
        path: disk.path,
        size: disk.size,
        written_bytes: disk.written_bytes,
    });
    context.report(&DomainReport {
        snapshot: snapshot.id,
        domain: defined.name,
        uuid: defined.uuid,
        disks: disks.collect(),
        files: defined.files,
        dropped: defined.dropped,
        started: defined.is_started,
    })?;
    Ok(Outcome::Done)
}
