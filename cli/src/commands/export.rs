//! `cairn export`: disks of snapshots over NBD.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cairn_engine::format::manifest::DiskRecord;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, ImageCache};
use cairn_engine::nbd::tls::ServerTls;
use cairn_engine::repository::{Access, Contents, Repository, Snapshot};
use cairn_nbd_export::disk::{Changes, Disk};
use cairn_nbd_export::exports::{Export, Exports};
use cairn_nbd_export::listen::Listener;
use cairn_nbd_export::log::{Event, Log};
use cairn_nbd_export::overlay::{Opened, Origin, Overlay};
use cairn_nbd_export::server::{Server, ServerOptions};
use cairn_nbd_export::snapshot::{SnapshotDisk, WithWrites};
use cairn_nbd_export::stop::Stop;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;
use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::interrupt;
use crate::output::export::{ExportReport, ExportedDisk, Place, uri};
use crate::output::failures::{Failures, with_causes};
use crate::output::terminal::say;
use crate::output::{size, time};
use crate::session::{self, Snapshots};

const EXAMPLES: &str = "\
Examples:
  cairn export web1 --socket /run/web1.sock
  cairn export web1@2026-11-20:vda --listen 127.0.0.1:10809
  cairn export web1 --socket /run/web1.sock --writable /var/tmp/web1.overlay
  nbdinfo [ cairn export web1:vda ]
  nbdcopy 'nbd+unix:///vda?socket=/run/web1.sock' web1.raw

Each disk is served as VM@ID/TARGET, and as TARGET too where one snapshot is given; a single disk is
the default export as well. The URI of each disk is printed once connections can be made; a socket's
file appears at the same moment. The server ends on SIGTERM, SIGINT and SIGHUP, when the requests
that it has read are answered; clients that reconnect notice nothing but a pause.

Without --socket and --listen the sockets are those that systemd, or a client that starts its server
itself, hands over (LISTEN_FDS); then nothing is printed.

What changed since another snapshot B of the same disk is told by the metadata contexts
cairn:diff:B and qemu:dirty-bitmap:cairn-diff-B, with B a whole id.";

/// Name of an overlay in a folder of overlays, after the disk's.
const OVERLAY_EXTENSION: &str = "overlay";

/// Serve disks of snapshots over NBD
///
/// Clients see each disk as it was, and read what they need of it at once. Every byte is checked
/// before it is sent.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct ExportArgs {
    /// Snapshots to serve, all disks of each or one
    #[arg(required = true, value_name = "SNAPSHOT[:TARGET]")]
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    pub snapshots: Vec<String>,

    /// Listen on a unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,

    /// Who may use the socket, as a file's mode in octal digits
    ///
    /// A VM that libvirt starts runs as another user: let its group in with 660, in a folder whose
    /// files get that group (chmod g+s), or everybody with 666.
    #[arg(long, value_name = "MODE", default_value = "600", requires = "socket")]
    #[arg(value_parser = parse_mode)]
    pub socket_mode: u32,

    /// Listen on an address of the network
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,

    /// Take only connections under TLS, with the certificates in DIR
    ///
    /// DIR holds server-cert.pem and server-key.pem, and ca-cert.pem to check clients with.
    #[arg(long, value_name = "DIR")]
    pub tls_certificates: Option<PathBuf>,

    /// Take only clients that show a certificate of ca-cert.pem
    #[arg(long, requires = "tls_certificates")]
    pub tls_verify_peer: bool,

    /// Let clients write; what they write goes to OVERLAY, and the snapshot stays as it is
    ///
    /// OVERLAY is a file, made where there is none, or a folder with one for each disk. The same
    /// overlay can be used again, with the same snapshot.
    #[arg(long, value_name = "OVERLAY")]
    pub writable: Option<PathBuf>,

    /// Memory for what was read and may be read again
    ///
    /// With the default the whole server stays under 256 MiB.
    #[arg(long, value_name = "SIZE", default_value_t = size::exact(CACHE_BYTES_DEFAULT as u64))]
    pub cache: String,

    /// Take at most N connections at once; more wait
    #[arg(long, value_name = "N", default_value = "128")]
    pub max_connections: NonZeroUsize,

    /// Send clients away that did not choose an export after SECONDS
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..86400))]
    pub handshake_timeout: u64,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "a mode is three octal digits, such as 660".to_owned())
}

/// Runs the command.
pub fn run(args: &ExportArgs, context: &Context) -> Result<Outcome> {
    let cache_len = size::parse(&args.cache).map_err(CliError::Usage)?;
    let repository = session::open(context)?;
    let snapshots = Snapshots::read(context, &repository)?;
    let chosen = choose(&args.snapshots, &snapshots)?;
    let mut ids: Vec<_> = chosen.iter().map(|chosen| chosen.snapshot.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let is_one_snapshot = ids.len() == 1;
    if args.writable.is_some() && !is_one_snapshot {
        let text = "--writable takes the disks of one snapshot";
        return Err(CliError::Usage(text.to_owned()).into());
    }
    let listener = args.listener(context)?;
    let contents = session::contents(context, &repository, Access::Read(ids), "export")?;
    let opener = Opener {
        args,
        context,
        repository: &repository,
        contents: Arc::new(contents),
        snapshots: &snapshots,
        cache: ImageCache::new(usize::try_from(cache_len).unwrap_or(usize::MAX)),
        is_one_disk: chosen.len() == 1,
        is_one_snapshot,
    };
    let mut exports = Vec::new();
    for chosen in &chosen {
        let opened = opener.open(chosen);
        exports.push(opened.with_context(|| format!("cannot export disk {}", chosen.disk.target))?);
    }
    let report = report(
        &chosen,
        &exports,
        &listener,
        args.tls_certificates.is_some(),
    );
    let exports = Exports::new(exports).map_err(|error| CliError::Usage(error.to_string()))?;
    let server = Server::new(exports, args.options(context)?, logger(context))
        .context("cannot start the server")?;
    let stop = Stop::new().context("cannot start the server")?;
    let _signals = interrupt::stop_on_signals(&stop).context("cannot handle signals")?;
    if let Some(report) = report {
        context.print(&report)?;
    }
    server.run(listener, &stop)?;
    Ok(Outcome::Done)
}

/// A disk that is to be served.
struct Chosen<'s> {
    snapshot: &'s Snapshot,
    disk: &'s DiskRecord,
}

/// Finds the disks that were typed. A time may have colons too, so that a text is taken for a
/// whole snapshot where it can be.
fn choose<'s>(texts: &[String], snapshots: &'s Snapshots) -> Result<Vec<Chosen<'s>>> {
    let mut chosen: Vec<Chosen<'s>> = Vec::new();
    for text in texts {
        let (snapshot, target) = match (snapshots.find(text), text.rsplit_once(':')) {
            (Ok(snapshot), _) => (snapshot, None),
            (Err(error), None) => return Err(error),
            (Err(_), Some((snapshot, target))) => (snapshots.find(snapshot)?, Some(target)),
        };
        let before = chosen.len();
        for disk in &snapshot.manifest.disks {
            let is_there = |other: &Chosen<'_>| {
                other.snapshot.id == snapshot.id && other.disk.target == disk.target
            };
            let is_meant = target.is_none_or(|target| target == disk.target);
            if is_meant && !chosen.iter().any(is_there) {
                chosen.push(Chosen { snapshot, disk });
            }
        }
        if let Some(target) = target
            && snapshot.disk(target).is_none()
        {
            let text = format!("snapshot {} has no disk `{target}`", snapshot.id.short());
            return Err(CliError::Usage(text).into());
        }
        if chosen.len() == before && snapshot.manifest.disks.is_empty() {
            let text = format!("snapshot {} has no disks", snapshot.id.short());
            return Err(CliError::Usage(text).into());
        }
    }
    Ok(chosen)
}

impl ExportArgs {
    fn listener(&self, context: &Context) -> Result<Vec<Listener>> {
        if let Some(path) = &self.socket {
            let path = std::path::absolute(path).context("cannot tell the current folder")?;
            return Ok(vec![Listener::unix(&path, self.socket_mode)?]);
        }
        if let Some(address) = &self.listen {
            let listener = Listener::tcp(address)?;
            let is_local = listener.address().is_none_or(|at| at.ip().is_loopback());
            if !is_local && self.tls_certificates.is_none() {
                context.warn(
                    "the disks are served to the whole network, unencrypted; \
                     --tls-certificates protects them",
                );
            }
            return Ok(vec![listener]);
        }
        let listeners = Listener::inherited()?;
        if listeners.is_empty() {
            let text = "give --socket PATH or --listen ADDR:PORT";
            return Err(CliError::Usage(text.to_owned()).into());
        }
        Ok(listeners)
    }

    fn options(&self, context: &Context) -> Result<ServerOptions> {
        let tls = match &self.tls_certificates {
            Some(folder) => Some(ServerTls::load(folder, self.tls_verify_peer)?),
            None => None,
        };
        // Workers wait for storage as much as they decode; one is always left for a client that
        // comes while another keeps the rest busy.
        let workers = context
            .threads()
            .saturating_mul(NonZeroUsize::MIN.saturating_add(1));
        Ok(ServerOptions {
            workers: workers.max(NonZeroUsize::MIN.saturating_add(3)),
            connections_max: self.max_connections.get(),
            handshake_timeout: Duration::from_secs(self.handshake_timeout),
            tls,
        })
    }

    /// Returns where the writes to a disk go.
    fn overlay_path(&self, is_one_disk: bool, target: &str) -> Result<Option<PathBuf>> {
        let Some(path) = &self.writable else {
            return Ok(None);
        };
        let names_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir();
        match (names_folder, is_one_disk) {
            (true, _) => {
                std::fs::create_dir_all(path)
                    .with_context(|| format!("cannot make folder {}", path.display()))?;
                Ok(Some(path.join(format!("{target}.{OVERLAY_EXTENSION}"))))
            }
            (false, true) => Ok(Some(path.clone())),
            (false, false) => {
                let text = "several disks need a folder for --writable; let it end in `/`";
                Err(CliError::Usage(text.to_owned()).into())
            }
        }
    }
}

/// Makes exports of disks.
struct Opener<'a> {
    args: &'a ExportArgs,
    context: &'a Context,
    repository: &'a Repository,
    contents: Arc<Contents>,
    snapshots: &'a Snapshots,
    cache: Arc<ImageCache>,
    is_one_disk: bool,
    is_one_snapshot: bool,
}

impl Opener<'_> {
    fn open(&self, chosen: &Chosen<'_>) -> Result<Export> {
        let Chosen { snapshot, disk } = chosen;
        let list = &self.snapshots.list;
        let opened = SnapshotDisk::open(&self.contents, list, snapshot, disk, &self.cache)?;
        let opened = Arc::new(opened);
        let mut served: Arc<dyn Disk> = opened.clone();
        let mut changes: Arc<dyn Changes> = opened;
        if let Some(path) = self.args.overlay_path(self.is_one_disk, &disk.target)? {
            served = self.overlay(&path, chosen, served)?;
            changes = Arc::new(WithWrites::new(changes, Arc::clone(&served)));
        }
        let target = &disk.target;
        let (vm, taken) = (&snapshot.manifest.vm, time::local(snapshot.manifest.time));
        let mut aliases = Vec::new();
        if self.is_one_snapshot {
            aliases.push(target.clone());
        }
        if self.is_one_disk {
            aliases.push(String::new());
        }
        Ok(Export {
            name: format!("{vm}@{}/{target}", snapshot.id),
            aliases,
            description: format!("{target} of {vm}, {taken}"),
            disk: served,
            changes: Some(changes),
        })
    }

    fn overlay(
        &self,
        path: &Path,
        chosen: &Chosen<'_>,
        base: Arc<dyn Disk>,
    ) -> Result<Arc<dyn Disk>> {
        let origin = Origin {
            repository: self.repository.config().repository_id,
            snapshot: chosen.snapshot.id,
            target: chosen.disk.target.clone(),
            recipe: chosen.disk.recipe,
        };
        let overlay = Overlay::open(path, base, &origin, &*logger(self.context))?;
        if let Opened::AfterPowerCut { dropped } = overlay.opened()
            && dropped > 0
        {
            let (path, dropped) = (path.display(), size::human(dropped));
            self.context.warn(&format!(
                "{path} holds what was flushed before the machine stopped or the last flush \
                 failed; {dropped} written after that are gone"
            ));
        }
        Ok(Arc::new(overlay))
    }
}

/// Returns what is served where; `None` if only whoever handed the sockets over can tell.
fn report(
    chosen: &[Chosen<'_>],
    exports: &[Export],
    listeners: &[Listener],
    is_tls: bool,
) -> Option<ExportReport> {
    let [listener] = listeners else {
        return None;
    };
    if listener.is_inherited() {
        return None;
    }
    let path = listener.path();
    let place = match (&path, listener.address()) {
        (Some(path), _) => Place::Socket(path),
        (None, Some(address)) => Place::Network(address.to_string()),
        (None, None) => return None,
    };
    let exports = chosen.iter().zip(exports).map(|(chosen, export)| {
        let target = &chosen.disk.target;
        let name = match export.aliases.contains(target) {
            true => target,
            false => &export.name,
        };
        ExportedDisk {
            name: export.name.clone(),
            aliases: export.aliases.clone(),
            snapshot: chosen.snapshot.id,
            vm: chosen.snapshot.manifest.vm.clone(),
            target: target.clone(),
            size: export.disk.size(),
            writable: export.is_writable(),
            uri: uri(&place, is_tls, name),
        }
    });
    Some(ExportReport {
        exports: exports.collect(),
    })
}

/// Returns what tells the user of events: those that someone should look into always, the comings
/// and goings of clients if asked to.
fn logger(context: &Context) -> Arc<Log> {
    let is_verbose = context.is_verbose();
    let failures = Failures::default();
    Arc::new(move |event: &Event<'_>| {
        let lines = match event {
            Event::DiskFailed { export, error } => {
                failures.line(export, &with_causes(error), Instant::now())
            }
            Event::Closed { export, .. } => {
                let rest = failures.rest(export);
                rest.into_iter().chain(line_of(event, is_verbose)).collect()
            }
            event => Vec::from_iter(line_of(event, is_verbose)),
        };
        for line in lines {
            say(&line);
        }
    })
}

fn line_of(event: &Event<'_>, is_verbose: bool) -> Option<String> {
    Some(match event {
        Event::AcceptFailed { error } => {
            format!("warning: cannot take a connection in: {error}")
        }
        Event::OverlayAwaited { path } => {
            let path = path.display();
            format!("warning: another process has {path} in use; waiting for its end")
        }
        _ if !is_verbose => return None,
        Event::Opened { export, peer } => format!("{peer} opened {export}"),
        Event::Closed {
            export,
            peer,
            error: None,
        } => format!("{peer} closed {export}"),
        Event::Closed {
            export,
            peer,
            error: Some(error),
        } => format!("{peer} lost {export}: {error}"),
        Event::Refused { peer, error } => {
            format!("{peer} was sent away: {}", with_causes(*error))
        }
        _ => return None,
    })
}
