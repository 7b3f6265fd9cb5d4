//! A backup job of a running domain: QEMU serves all disks as they were when it began.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::begin::{Moment, at_one_moment};
use super::far_folder::{remote_mark, server_socket};
use super::plan::{Plan, PlannedDisk};
use super::remote::Bridge;
use super::scratch::{Place, Scratch, scratch_mark};
use super::view::{Hold, Run, View};
use super::watch::{Look, Trouble, Watch, go_on_after_io_error, look, look_at_paused};
use crate::backup::DiskRequest;
use crate::domain::DomainError;
use crate::domain::run_folder::{RemoteRecord, RunFolder, RunRecord};
use crate::format::Unknown;
use crate::format::domain::Method;
use crate::format::manifest::SourceRecord;
use crate::nbd::client::ClientOptions;
use crate::nbd::uri::Uri;
use crate::source::libvirt::xml::{
    BackupDisk, BackupJob, BackupServer, Checkpoint, checkpoint_xml,
};
use crate::source::libvirt::{
    CheckpointDescription, Domain, DomainState, LibvirtError, Reason, Transport,
};
use crate::source::{Limited, NbdSource, Source};

/// How long the end of a job is tried where the daemon cannot be reached.
const END_MAX: Duration = Duration::from_secs(30);
/// How long QEMU may take to let go of its files.
const CLEAR_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(50);

/// Opens a view by a backup job.
pub(super) fn open(run: &Run<'_>, plan: &mut Plan) -> Result<View, DomainError> {
    let sizes = plan.disks.iter().map(|planned| {
        let size = run.domain.disk_size(&planned.disk.target)?;
        Ok((&planned.disk, size))
    });
    let sizes: Vec<_> = sizes.collect::<Result<_, LibvirtError>>()?;
    let mut scratch = Scratch::plan(run.name.drawn(), &sizes, &run.options.scratch, run.place())?;
    let remote = remote(run)?;
    let there = remote.as_ref().and_then(|remote| remote.folder.clone());
    let record = RunRecord {
        uuid: run.domain.uuid().to_owned(),
        name: run.domain.name().to_owned(),
        pid: std::process::id(),
        checkpoint: Some(run.name.to_string()),
        scratch: scratch.files(),
        overlays: Vec::new(),
        images: Vec::new(),
        frozen: None,
        published: false,
        remote,
    };
    let label = run.description.label;
    // QEMU's user of another host is none of this one's.
    let here = label.filter(|_| there.is_none());
    let mut folder = RunFolder::make(run.run_folder(), run.name.drawn(), here, record)?;
    let bridge = match run.host.zip(there.as_deref()) {
        Some((host, there)) => {
            let socket = folder.socket();
            let bridge = Bridge::open(host, there, label, &socket, scratch.folders())?;
            scratch.look_through(bridge.far());
            Some(bridge)
        }
        None => None,
    };
    let server = server(run, &folder, there.as_deref())?;
    let begun = at_one_moment(run, &mut folder, || begin(run, plan, &scratch, &server));
    // Whatever becomes of it, from here on the job is ended by its hold.
    let was_paused = run.state == DomainState::PausedByIoError;
    let look = if was_paused { look_at_paused } else { look };
    let watch = Watch::start(
        look,
        run.domain.clone(),
        scratch.clone(),
        run.options.cancel.clone(),
        run.stop.clone(),
    );
    let hold = Box::new(PullHold {
        domain: run.domain.clone(),
        checkpoint: run.name.to_string(),
        folder,
        bridge,
        scratch,
        watch: watch.ok(),
        look,
        was_paused,
        ended: false,
    });
    let moment = begun?;
    if hold.watch.is_none() {
        let reason = "no thread can be started to watch the job".to_owned();
        return Err(DomainError::GivenUp { reason });
    }
    let disks = plan.disks.iter();
    let disks = disks.map(|planned| request(run, planned, &hold));
    let disks = disks.collect::<Result<Vec<_>, _>>();
    // A bridge that broke explains what a disk does not.
    let disks = disks.map_err(|error| hold.stopped_by().unwrap_or(error))?;
    Ok(view(run, disks, moment, hold))
}

/// Returns what the run will have on another host. Its job is told by its socket there, or by its
/// scratch files where it has none.
fn remote(run: &Run<'_>) -> Result<Option<RemoteRecord>, DomainError> {
    let drawn = run.name.drawn();
    let uri = run.domain.connection().uri().to_owned();
    Ok(match (run.place(), run.host) {
        (Place::Here, _) => None,
        (_, Some(host)) => {
            let folder = host.choose_folder(drawn, run.description.label)?;
            Some(RemoteRecord {
                uri,
                mark: remote_mark(&folder),
                folder: Some(folder),
            })
        }
        (_, None) => Some(RemoteRecord {
            uri,
            folder: None,
            mark: scratch_mark(drawn),
        }),
    })
}

/// Returns where QEMU serves.
fn server(
    run: &Run<'_>,
    folder: &RunFolder,
    there: Option<&Path>,
) -> Result<BackupServer, DomainError> {
    let Transport::Tls { host } = run.transport else {
        let socket = there.map_or_else(|| folder.socket(), server_socket);
        return Ok(BackupServer::Unix(socket));
    };
    let Some(tls) = &run.options.tls else {
        let host = host.clone();
        return Err(DomainError::NoTls { host });
    };
    // The name by which this side knows the host may mean nothing there.
    let any = if host.contains(':') { "::" } else { "0.0.0.0" };
    Ok(BackupServer::Tls {
        host: any.to_owned(),
        port: tls.port,
    })
}

/// Returns the URI of one disk's export.
fn export(run: &Run<'_>, target: &str, folder: &RunFolder) -> String {
    let target = percent(target);
    match (run.transport, &run.options.tls) {
        (Transport::Tls { host }, Some(tls)) => {
            let host = match host.contains(':') {
                true => format!("[{host}]"),
                false => percent(host),
            };
            let port = tls.port;
            let certificates = percent(&tls.certificates.to_string_lossy());
            format!("nbds://{host}:{port}/{target}?tls-certificates={certificates}")
        }
        _ => {
            let socket = percent(&folder.socket().to_string_lossy());
            format!("nbd+unix:///{target}?socket={socket}")
        }
    }
}

fn view(run: &Run<'_>, disks: Vec<DiskRequest>, moment: Moment, hold: Box<PullHold>) -> View {
    let Moment {
        consistency,
        extras,
        time,
        frozen_ms,
        mut warnings,
    } = moment;
    let has_bitmap = disks.iter().any(|disk| {
        let identity = disk.identity.as_ref();
        identity.is_some_and(|identity| identity.bitmap.is_some())
    });
    if let Place::Unseen = run.place() {
        warnings.push("free space for scratch files cannot be looked at over TLS".to_owned());
    }
    let checkpoint =
        has_bitmap.then(|| (run.name.to_string(), created(run.domain, &hold.checkpoint)));
    View {
        disks,
        files: extras.files,
        metadata: BTreeMap::new(),
        not_saved: extras.not_saved,
        method: Method::Pull,
        consistency,
        checkpoint,
        time,
        frozen_ms,
        warnings,
        hold,
    }
}

/// Returns when libvirt says that a checkpoint was made.
pub(super) fn created(domain: &Domain, name: &str) -> Option<i64> {
    let xml = domain
        .checkpoint_xml(name, CheckpointDescription::Plain)
        .ok()?;
    Checkpoint::parse(&xml).ok()?.created
}

/// Begins the job. Where no bitmap can be added, it is begun without a checkpoint: the disks are
/// read all the same.
fn begin(
    run: &Run<'_>,
    plan: &mut Plan,
    scratch: &Scratch,
    server: &BackupServer,
) -> Result<(), LibvirtError> {
    let begun = begin_by_changes(run, plan, scratch, server);
    let Err(error) = begun else {
        return Ok(());
    };
    let has_checkpoint = plan.disks.iter().any(PlannedDisk::can_have_bitmap);
    if !is_about_bitmaps(&error) || !has_checkpoint {
        return Err(error);
    }
    let mut without = plan.clone();
    for planned in without.disks.iter_mut().filter(|it| it.can_have_bitmap()) {
        planned.no_bitmap = Some(format!("no bitmap can be added: {}", error.message));
    }
    run.domain
        .backup_begin(&job(run, &without, scratch, server).xml(), None)?;
    *plan = without;
    Ok(())
}

/// Returns whether QEMU refused something for a bitmap's sake. libvirt hands on its words.
pub(super) fn is_about_bitmaps(error: &LibvirtError) -> bool {
    error.message.contains("bitmap")
}

/// Begins the job. Where bitmaps that were proven a moment ago are broken now, all is read.
fn begin_by_changes(
    run: &Run<'_>,
    plan: &mut Plan,
    scratch: &Scratch,
    server: &BackupServer,
) -> Result<(), LibvirtError> {
    let checkpoint = checkpoint(run, plan);
    let begun = run.domain.backup_begin(
        &job(run, plan, scratch, server).xml(),
        checkpoint.as_deref(),
    );
    let Err(error) = begun else {
        return Ok(());
    };
    let is_broken = matches!(
        error.reason,
        Reason::CheckpointInconsistent | Reason::NoCheckpoint
    );
    if !is_broken || plan.disks.iter().all(|planned| planned.doubt.is_some()) {
        return Err(error);
    }
    for planned in plan
        .disks
        .iter_mut()
        .filter(|planned| planned.doubt.is_none())
    {
        planned.doubt = Some(format!("the bitmap cannot be used: {}", error.message));
    }
    let job = job(run, plan, scratch, server);
    run.domain.backup_begin(&job.xml(), checkpoint.as_deref())
}

fn job(run: &Run<'_>, plan: &Plan, scratch: &Scratch, server: &BackupServer) -> BackupJob {
    let disks = plan.disks.iter();
    let disks = disks.map(|planned| disk(run, planned, scratch));
    BackupJob {
        server: server.clone(),
        disks: disks.collect(),
        left_out: plan.others(),
    }
}

/// Returns what the job does with one disk.
fn disk(run: &Run<'_>, planned: &PlannedDisk, scratch: &Scratch) -> BackupDisk {
    BackupDisk {
        target: planned.disk.target.clone(),
        incremental: since(run, planned),
        scratch: scratch.file(&planned.disk.target),
        has_bitmap: planned.can_have_bitmap(),
    }
}

/// Returns the checkpoint that a disk is read since.
pub(super) fn since(run: &Run<'_>, planned: &PlannedDisk) -> Option<String> {
    let parent = run.parent.filter(|_| planned.doubt.is_none())?;
    Some(parent.checkpoint.name.clone())
}

pub(super) fn checkpoint(run: &Run<'_>, plan: &Plan) -> Option<String> {
    let (with, without): (Vec<_>, Vec<_>) = plan
        .disks
        .iter()
        .partition(|planned| planned.can_have_bitmap());
    let names =
        |disks: Vec<&PlannedDisk>| disks.into_iter().map(|p| p.disk.target.clone()).collect();
    let with: Vec<String> = names(with);
    let mut others: Vec<String> = names(without);
    others.extend(plan.others());
    let description = format!(
        "made by cairn on {}, process {}, {}",
        crate::repository::host_name(),
        std::process::id(),
        jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"),
    );
    let name = run.name.to_string();
    (!with.is_empty()).then(|| checkpoint_xml(&name, &description, None, &with, &others))
}

/// Connects to one disk's export.
fn request(
    run: &Run<'_>,
    planned: &PlannedDisk,
    hold: &PullHold,
) -> Result<DiskRequest, DomainError> {
    let target = &planned.disk.target;
    let disk = disk(run, planned, &hold.scratch);
    let context = disk.dirty_context();
    let text = export(run, target, &hold.folder);
    let failed = |source| DomainError::Source {
        target: target.clone(),
        source,
    };
    let uri = Uri::parse(&text).map_err(|error| DomainError::GivenUp {
        reason: format!("its socket cannot be named: {error}"),
    })?;
    let waiting = ClientOptions {
        cancel: run.stop.clone(),
        ..ClientOptions::default()
    };
    let source = NbdSource::open_with(&uri, context.as_deref(), &waiting).map_err(failed)?;
    let source: Box<dyn Source> = Box::new(source);
    Ok(disk_request(run, planned, source, disk.incremental))
}

/// Asks for one disk to be read, no faster than the user wants it.
pub(super) fn disk_request(
    run: &Run<'_>,
    planned: &PlannedDisk,
    source: Box<dyn Source>,
    since: Option<String>,
) -> DiskRequest {
    let source = match &run.options.limit {
        Some(limit) => Box::new(Limited::new(source, Arc::clone(limit), run.stop.clone())),
        None => source,
    };
    let mut identity = planned.identity.clone();
    identity.bitmap = planned.can_have_bitmap().then(|| run.name.to_string());
    DiskRequest {
        target: planned.disk.target.clone(),
        source,
        changes_only: since.is_some(),
        record: SourceRecord {
            kind: "libvirt".to_owned(),
            location: identity.path.clone(),
            bitmap: since,
            unknown: Unknown::new(),
        },
        identity: Some(identity),
        is_known: planned.is_known,
        doubt: planned.doubt.clone().filter(|_| planned.is_known),
    }
}

/// Writes what a URI would read otherwise.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let bytes = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// A backup job at work.
struct PullHold {
    domain: Domain,
    checkpoint: String,
    folder: RunFolder,
    /// To another host.
    bridge: Option<Bridge>,
    scratch: Scratch,
    watch: Option<Watch>,
    look: Look,
    /// By an I/O error, before there was a job.
    was_paused: bool,
    ended: bool,
}

impl PullHold {
    fn finish(&mut self, published: bool) -> Vec<String> {
        if std::mem::replace(&mut self.ended, true) {
            return Vec::new();
        }
        self.watch = None;
        let mut faults = Vec::new();
        if published {
            // Whoever clears up after us must not take the checkpoint away.
            drop(self.folder.update(|record| record.published = true));
        }
        if let Err(error) = end_job(&self.domain, &self.folder.mark()) {
            self.folder.keep();
            faults.push(format!("the backup job could not be ended: {error}"));
        }
        if !self.was_paused {
            faults.extend(go_on_after_io_error(&self.domain));
        }
        if !published && let Err(error) = self.domain.checkpoint_delete(&self.checkpoint) {
            faults.push(error.to_string());
        }
        if let Err(error) = self.clear_files() {
            self.folder.keep();
            faults.push(error.to_string());
        }
        faults
    }

    /// Waits until QEMU has let go of its files, and removes what it left.
    fn clear_files(&mut self) -> Result<(), DomainError> {
        let files = self.scratch.files();
        if self.folder.record().remote.is_some() {
            // Without a shell there, libvirt alone removes them.
            let bridge = self.bridge.as_mut();
            return bridge.map_or(Ok(()), |bridge| bridge.clear(&files));
        }
        let begun = Instant::now();
        while files.iter().any(|file| file.exists()) && begun.elapsed() < CLEAR_MAX {
            let _now = after(TICK).recv();
        }
        if let Ok(None) = self.domain.backup_xml() {
            for file in files {
                drop(std::fs::remove_file(file));
            }
        }
        Ok(())
    }
}

/// Ends the job whose XML holds a mark, over a new connection where the old one is gone. Another
/// job is another program's, and is left alone.
pub(in crate::domain) fn end_job(domain: &Domain, mark: &str) -> Result<(), LibvirtError> {
    let begun = Instant::now();
    let is_ours = |xml: &String| xml.contains(mark);
    loop {
        let ended = match domain.backup_xml() {
            Ok(job) if !job.as_ref().is_some_and(is_ours) => Ok(true),
            // The call returns before all is over: the next turn looks again.
            Ok(_) => domain.abort_job().map(|()| false),
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.is_disconnected() && begun.elapsed() < END_MAX => {
                drop(domain.connection().revive());
                let _now = after(Duration::from_millis(500)).recv();
            }
            Err(error) if error.reason == Reason::NoDomain => return Ok(()),
            Err(error) => return Err(error),
            Ok(true) => return Ok(()),
            Ok(false) if begun.elapsed() > END_MAX => return Ok(()),
            Ok(false) => {
                let _now = after(TICK).recv();
            }
        }
    }
}

impl Hold for PullHold {
    fn check(&self) -> Result<(), String> {
        match (self.look)(&self.domain) {
            Some(Trouble::Off) => Err("the domain stopped while it was read".to_owned()),
            Some(Trouble::Other(reason)) => Err(reason),
            None => Ok(()),
        }
    }

    fn stopped_by(&self) -> Option<DomainError> {
        let seen = self.watch.as_ref().and_then(Watch::trouble);
        let broken = || {
            let reason = self.scratch.shortage()?;
            Some(DomainError::GivenUp { reason })
        };
        let off = || match (self.look)(&self.domain) {
            Some(Trouble::Off) => Some(DomainError::Off {
                domain: self.domain.name().to_owned(),
            }),
            _ => None,
        };
        seen.or_else(off).or_else(broken)
    }

    fn end(mut self: Box<Self>, published: bool) -> Vec<String> {
        self.finish(published)
    }
}

impl Drop for PullHold {
    fn drop(&mut self) {
        // Nobody is left to be told.
        drop(self.finish(false));
    }
}
