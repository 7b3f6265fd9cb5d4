//! The backup of a domain, from the lock to the end of the job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::identity::Files;
use super::options::{DomainBackupDone, DomainBackupOptions, Reading, Way};
use super::plan::{Parent, Plan, PlannedDisk, Selected};
use super::remote::Host;
use super::view::{Opener, Run, View};
use super::{below, bitmaps, identity, lineage, offline, plan, pull, snapshot};
use crate::backup::{
    self as engine, BackupDone, BackupError, BackupOptions, BackupRequest, IfWritten,
};
use crate::domain::checkpoint::{CheckpointName, delete_others};
use crate::domain::hook::{self, HookEnvironment, Phase};
use crate::domain::lock::DomainLock;
use crate::domain::vm_name::vm_name;
use crate::domain::{DomainError, in_place, recover};
use crate::format::Unknown;
use crate::format::domain::{DomainRecord, LeftOut};
use crate::progress::Cancel;
use crate::repository::{Repository, Snapshot};
use crate::source::libvirt::xml::DomainDescription;
use crate::source::libvirt::{Domain, DomainState, Transport};

/// Key of the domain's XML in a manifest's metadata.
pub const DOMAIN_XML: &str = "domain";
/// How long a domain may take to end: libvirt waits 30 seconds for a job's lock.
const SHUTDOWN_MAX: Duration = Duration::from_secs(45);
const SHUTDOWN_TICK: Duration = Duration::from_millis(200);
/// Name of the socket by which commands on another host share one connection.
const CONTROL: &str = "ctl";
/// Key of the checkpoint's XML there.
const CHECKPOINT_XML: &str = "checkpoint";

/// Backs a domain up. `snapshots` are the repository's, those not forgotten, oldest first.
///
/// # Errors
///
/// Nothing is published then. The guest runs, the job is ended, and the checkpoints of before are
/// still there; what could not be undone is cleared by the next run.
pub fn back_up(
    repository: &Arc<Repository>,
    snapshots: &[Snapshot],
    domain: &Domain,
    options: &DomainBackupOptions<'_>,
) -> Result<DomainBackupDone, DomainError> {
    let transport = domain.connection().transport();
    refuse_transport(&transport, options)?;
    let _lock = DomainLock::take(&options.run_folder, domain.name(), domain.uuid())?;
    recover::recover(domain, &options.run_folder, options.say)?;
    if transport == Transport::Local && in_place::is_unfinished(domain)? {
        return Err(DomainError::HalfRestored {
            domain: domain.name().to_owned(),
        });
    }
    refuse_foreign_job(domain)?;
    let mut told = HookEnvironment::default();
    told.set("CAIRN_DOMAIN", domain.name());
    told.set("CAIRN_DOMAIN_UUID", domain.uuid());
    told.set(
        "CAIRN_REPOSITORY_ID",
        &repository.config().repository_id.to_hex(),
    );
    let vm = options.name.clone();
    let vm = vm.unwrap_or_else(|| vm_name(domain.name(), domain.uuid()));
    if let Some(words) = name_words(&vm, domain, snapshots) {
        (options.say)(&words);
    }
    hook::run(&options.hooks, Phase::BeforeBackup, &told)?;
    let attempt = Attempt {
        repository,
        snapshots,
        domain,
        vm: &vm,
        options,
        transport: &transport,
        told: &told,
    };
    let mut done = attempt.run();
    let again = match &done {
        Err(DomainError::Off { .. }) => Some("the domain stopped: its images are read now"),
        Err(DomainError::Started { .. }) => {
            Some("the domain was started, or its images were changed: it is read again")
        }
        _ => None,
    };
    if let Some(words) = again.filter(|_| !options.cancel.is_cancelled()) {
        (options.say)(words);
        done = attempt.run();
    }
    let mut ended = told.clone();
    ended.set("CAIRN_STATUS", if done.is_ok() { "done" } else { "failed" });
    if let Ok(done) = &done {
        ended.set("CAIRN_SNAPSHOT", &done.backup.snapshot.to_hex());
    }
    let after = hook::run(&options.hooks, Phase::AfterBackup, &ended);
    let mut done = done?;
    // The snapshot is there, whatever the hook says.
    done.warnings
        .extend(after.err().map(|error| error.to_string()));
    Ok(done)
}

/// Says once under which name a domain is found in the repository, where that is not its own.
fn name_words(vm: &str, domain: &Domain, snapshots: &[Snapshot]) -> Option<String> {
    let name = domain.name();
    let mut of_vm = snapshots.iter().filter(|it| it.manifest.vm == vm);
    let is_known = of_vm.any(|snapshot| {
        let record = snapshot.manifest.domain.as_ref();
        record.is_some_and(|record| record.uuid == domain.uuid())
    });
    (vm != name && !is_known)
        .then(|| format!("the snapshots of domain `{name}` are those of VM `{vm}` from now on"))
}

/// Fails where the domain's disks cannot be read by the connection's way.
fn refuse_transport(
    transport: &Transport,
    options: &DomainBackupOptions<'_>,
) -> Result<(), DomainError> {
    let refused = |reason| Err(DomainError::Transport { reason });
    match transport {
        Transport::Refused { transport } => refused(format!(
            "connections by {transport} protect nothing: use ssh or TLS"
        )),
        Transport::Tls { host } if options.tls.is_none() => {
            let host = host.clone();
            Err(DomainError::NoTls { host })
        }
        Transport::Tls { .. } | Transport::Ssh { .. } if options.way != Way::Job => refused(
            "the domain is on another host: its disks can be held by a backup job alone".to_owned(),
        ),
        _ => Ok(()),
    }
}

/// Fails at once where libvirt would wait half a minute for another's job to end.
fn refuse_foreign_job(domain: &Domain) -> Result<(), DomainError> {
    let Some(xml) = domain.backup_xml()? else {
        return Ok(());
    };
    let start = xml.find("socket=").or_else(|| xml.find("<server"));
    let what: String = xml[start.unwrap_or(0)..].chars().take(80).collect();
    Err(DomainError::ForeignJob {
        domain: domain.name().to_owned(),
        what: what.split('>').next().unwrap_or_default().to_owned(),
    })
}

/// One try to back a domain up.
struct Attempt<'a> {
    repository: &'a Arc<Repository>,
    snapshots: &'a [Snapshot],
    domain: &'a Domain,
    vm: &'a str,
    options: &'a DomainBackupOptions<'a>,
    transport: &'a Transport,
    told: &'a HookEnvironment,
}

impl Attempt<'_> {
    fn run(&self) -> Result<DomainBackupDone, DomainError> {
        let domain = self.domain;
        let xml = |source| DomainError::Xml {
            domain: domain.name().to_owned(),
            source,
        };
        let state = self.settled_state()?;
        let mut description = DomainDescription::parse(&domain.xml()?).map_err(xml)?;
        if state.has_process() && description.label.is_none() {
            description.label = domain.connection().qemu_user()?;
        }
        let parent = match state.has_process() {
            true => lineage::newest_proven(domain, self.snapshots)?,
            false => {
                let disks: Vec<_> = description.disks.iter().collect();
                offline::newest_proven(domain, &disks, self.snapshots)
            }
        };
        let name = self.name()?;
        let control = self.options.run_folder.join(name.drawn()).join(CONTROL);
        let host = Host::of(domain.connection().uri(), &control);
        let mut plan = self.plan(state, &description, parent.as_ref(), host.as_ref())?;
        let stop = Cancel::default();
        let run = Run {
            domain,
            description: &description,
            state,
            transport: self.transport,
            host: host.as_ref(),
            options: self.options,
            name: &name,
            parent: parent.as_ref(),
            told: self.told,
            stop: &stop,
        };
        let view = self.opener(state)?(&run, &mut plan)?;
        self.say_doubts(&plan);
        self.take(view, &run, plan)
    }

    /// Returns what the domain is doing, when it is not just ending.
    fn settled_state(&self) -> Result<DomainState, DomainError> {
        let begun = Instant::now();
        loop {
            let state = self.domain.state()?;
            if state != DomainState::InShutdown || begun.elapsed() > SHUTDOWN_MAX {
                return Ok(state);
            }
            if self.options.cancel.is_cancelled() {
                return Err(DomainError::Cancelled);
            }
            let _now = after(SHUTDOWN_TICK).recv();
        }
    }

    /// Chooses how the disks are held at one moment.
    fn opener(&self, state: DomainState) -> Result<Opener, DomainError> {
        match (self.options.way, state.has_process()) {
            (Way::Job, true) => Ok(pull::open),
            (Way::Snapshot, true) => Ok(snapshot::open),
            (Way::Memory, true) => Ok(snapshot::open_with_memory),
            (Way::Job | Way::Snapshot, false) => Ok(offline::open),
            (Way::Memory, false) => Err(DomainError::Off {
                domain: self.domain.name().to_owned(),
            }),
        }
    }

    fn plan(
        &self,
        state: DomainState,
        description: &DomainDescription,
        parent: Option<&Parent>,
        host: Option<&Host>,
    ) -> Result<Plan, DomainError> {
        let options = self.options;
        let Selected {
            chosen,
            left_out,
            unreadable,
        } = plan::select(description, &options.only, &options.exclude)?;
        let files = match self.transport {
            Transport::Local => Files::Here,
            _ => Files::there(host, &chosen)?,
        };
        let mut disks = Vec::with_capacity(chosen.len());
        for disk in chosen {
            let identity = identity::of(&disk, &files);
            let no_bitmap = bitmaps::refusal(&disk, self.transport, host);
            let why = no_bitmap.as_deref();
            let doubt = plan::doubt(&disk, &identity, why, parent, options.reading);
            let doubt = doubt.or_else(|| {
                let parent = parent.filter(|_| state.has_process())?;
                below::doubt(&disk, &identity, parent, &files)
            });
            if let (Some(doubt), Reading::Incremental) = (&doubt, options.reading) {
                return Err(DomainError::NotIncremental {
                    target: disk.target.clone(),
                    doubt: doubt.clone(),
                });
            }
            let is_known = self.is_known_disk(&disk.target);
            disks.push(PlannedDisk {
                disk,
                identity,
                doubt,
                no_bitmap,
                is_known,
            });
        }
        Ok(Plan {
            disks,
            left_out,
            unreadable,
        })
    }

    fn is_known_disk(&self, target: &str) -> bool {
        let mut of_domain = self.snapshots.iter().filter(|snapshot| {
            let record = snapshot.manifest.domain.as_ref();
            snapshot.manifest.vm == self.vm
                || record.is_some_and(|record| record.uuid == self.domain.uuid())
        });
        of_domain.any(|snapshot| snapshot.disk(target).is_some())
    }

    fn name(&self) -> Result<CheckpointName, DomainError> {
        let there = self.domain.checkpoints()?;
        let recorded = self
            .snapshots
            .iter()
            .filter_map(|s| s.manifest.domain.as_ref());
        let recorded = recorded.filter_map(|record| record.checkpoint.as_deref());
        let recorded: Vec<&str> = recorded.collect();
        let is_used =
            |name: &str| recorded.contains(&name) || there.iter().any(|there| there == name);
        let drawn = CheckpointName::draw(&self.repository.config().repository_id, is_used);
        drawn.map_err(|error| DomainError::GivenUp {
            reason: format!("there is no randomness: {error}"),
        })
    }

    fn say_doubts(&self, plan: &Plan) {
        let remarks = plan.disks.iter();
        for remark in remarks.filter_map(|planned| planned.remark(self.options.reading)) {
            (self.options.say)(&remark);
        }
        for out in &plan.left_out {
            (self.options.say)(&format!("disk {} is left out: {}", out.target, out.reason));
        }
    }

    /// Reads a view, publishes the snapshot, and lets the domain go on.
    fn take(&self, view: View, run: &Run<'_>, plan: Plan) -> Result<DomainBackupDone, DomainError> {
        let mut warnings = view.warnings.clone();
        let (frozen_ms, mut hold) = (view.frozen_ms, view.hold);
        let request = self.request(
            run,
            &plan,
            Taken {
                disks: view.disks,
                files: view.files,
                metadata: view.metadata,
                not_saved: view.not_saved,
                method: view.method,
                consistency: view.consistency,
                checkpoint: view.checkpoint,
                time: view.time,
            },
        )?;
        let options = self.options;
        let check = || hold.check();
        let backup_options = BackupOptions {
            threads: options.threads,
            audit_percent: options.audit_percent,
            progress: options.progress,
            cancel: run.stop,
            before_publish: Some(&check),
            // Whoever holds the disks still looks at that.
            if_written: IfWritten::NotAsked,
        };
        let done = engine::backup(self.repository, request, &backup_options);
        let cause = done.as_ref().err().and_then(|_| hold.stopped_by());
        warnings
            .extend(std::mem::replace(&mut hold, Box::new(super::view::Ended)).end(done.is_ok()));
        match done {
            Ok(backup) => {
                let after = hook::run(&options.hooks, Phase::AfterJob, self.told);
                warnings.extend(after.err().map(|error| error.to_string()));
                warnings.extend(
                    self.thin_out(run, &plan, &backup)
                        .err()
                        .map(|error| error.to_string()),
                );
                Ok(DomainBackupDone {
                    backup,
                    warnings,
                    unreadable: plan.unreadable,
                    frozen_ms,
                })
            }
            Err(error) => {
                for warning in &warnings {
                    (options.say)(warning);
                }
                Err(self.failure(&plan, error, cause))
            }
        }
    }

    /// Says why a backup failed: what stopped it counts more than how the reading ended.
    fn failure(&self, plan: &Plan, error: BackupError, cause: Option<DomainError>) -> DomainError {
        if let BackupError::AuditFailed { .. } = error {
            // The bitmaps lied once: nothing is built on them again.
            let repository = &self.repository.config().repository_id;
            let is_ours = |name: &str| CheckpointName::is_of(name, repository);
            let runs = self.domain.state().is_ok_and(DomainState::has_process);
            let deleted = match runs {
                true => delete_others(self.domain, repository, &[]).map_err(Into::into),
                false => offline::delete_others(self.domain, &offline::images(plan), is_ours),
            };
            if let Err(error) = deleted {
                (self.options.say)(&error.to_string());
            }
        }
        match (self.options.cancel.is_cancelled(), cause) {
            (true, _) => DomainError::Cancelled,
            (false, Some(cause)) => cause,
            (false, None) => error.into(),
        }
    }

    /// Deletes the checkpoints of before, but for the one that this snapshot counts from: the next
    /// run can count from it if this snapshot is lost.
    fn thin_out(&self, run: &Run<'_>, plan: &Plan, backup: &BackupDone) -> Result<(), DomainError> {
        let record = backup.manifest.domain.as_ref();
        let Some(own) = record.and_then(|record| record.checkpoint.as_deref()) else {
            return Ok(());
        };
        let mut keep = vec![own];
        let parent = run.parent.filter(|parent| parent.is_proven());
        keep.extend(parent.map(|parent| parent.checkpoint.name.as_str()));
        let repository = &self.repository.config().repository_id;
        let is_stale =
            |name: &str| CheckpointName::is_of(name, repository) && !keep.contains(&name);
        if !run.state.has_process() {
            return offline::delete_others(self.domain, &offline::images(plan), is_stale);
        }
        delete_others(self.domain, repository, &keep)?;
        if *self.transport == Transport::Local {
            bitmaps::remove_stale(self.domain, plan, is_stale)?;
        }
        Ok(())
    }

    fn request(
        &self,
        run: &Run<'_>,
        plan: &Plan,
        taken: Taken,
    ) -> Result<BackupRequest, DomainError> {
        let mut metadata = taken.metadata;
        let xml = match metadata.remove(DOMAIN_XML) {
            Some(xml) => xml,
            None => self.domain.inactive_xml()?,
        };
        if xml.contains("passwd=") && self.repository.config().encryption.is_none() {
            (self.options.say)(
                "the domain's XML holds a password, and the repository is not encrypted",
            );
        }
        metadata.insert(DOMAIN_XML.to_owned(), xml);
        if let Some((name, _)) = &taken.checkpoint {
            let plain = crate::source::libvirt::CheckpointDescription::Plain;
            let xml = self.domain.checkpoint_xml(name, plain).ok();
            metadata.extend(xml.map(|xml| (CHECKPOINT_XML.to_owned(), xml)));
        }
        let (checkpoint, checkpoint_time) = taken.checkpoint.unzip();
        let out = plan.left_out.iter().chain(&plan.unreadable);
        let left_out: Vec<LeftOut> = out.cloned().collect();
        let record = DomainRecord {
            uuid: self.domain.uuid().to_owned(),
            hypervisor: without_user(self.domain.connection().uri()),
            checkpoint,
            checkpoint_time: checkpoint_time.flatten(),
            method: taken.method,
            consistency: taken.consistency,
            machine: run.description.machine.clone(),
            cpu: run.description.cpu.clone(),
            left_out,
            not_saved: taken.not_saved,
            unknown: Unknown::new(),
        };
        let parent = run.parent.filter(|parent| parent.is_proven());
        Ok(BackupRequest {
            vm: self.vm.to_owned(),
            disks: taken.disks,
            parent: parent.map(|parent| parent.snapshot.clone()),
            tags: self.options.tags.clone(),
            metadata,
            files: taken.files,
            domain: Some(record),
            time: Some(taken.time),
        })
    }
}

/// What a view gives to the manifest.
struct Taken {
    disks: Vec<engine::DiskRequest>,
    files: Vec<engine::FileRequest>,
    metadata: BTreeMap<String, String>,
    not_saved: Vec<String>,
    method: crate::format::domain::Method,
    consistency: crate::format::domain::Consistency,
    checkpoint: Option<(String, Option<i64>)>,
    time: jiff::Timestamp,
}

/// Returns a URI without the user and the password that it may name.
fn without_user(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypervisor_is_named_without_its_user() {
        for (uri, named) in [
            ("qemu:///system", "qemu:///system"),
            (
                "qemu+ssh://u:p@h:22/system?x=@",
                "qemu+ssh://h:22/system?x=@",
            ),
        ] {
            assert_eq!(without_user(uri), named);
        }
    }
}
