//! A domain's disks as they were at one moment, and what keeps them so while they are read.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use super::options::DomainBackupOptions;
use super::plan::{Parent, Plan};
use super::remote::Host;
use super::scratch::Place;
use crate::backup::{DiskRequest, FileRequest};
use crate::domain::DomainError;
use crate::domain::checkpoint::CheckpointName;
use crate::domain::hook::HookEnvironment;
use crate::format::domain::{Consistency, Method};
use crate::progress::Cancel;
use crate::source::Origin;
use crate::source::libvirt::xml::{DomainDescription, DomainDisk};
use crate::source::libvirt::{Domain, DomainState, Transport};

/// What all ways of holding a domain's disks need to know.
pub(super) struct Run<'r> {
    pub(super) domain: &'r Domain,
    pub(super) description: &'r DomainDescription,
    pub(super) state: DomainState,
    pub(super) transport: &'r Transport,
    /// The shell of the domain's host, where that is another one with a shell.
    pub(super) host: Option<&'r Host>,
    pub(super) options: &'r DomainBackupOptions<'r>,
    pub(super) name: &'r CheckpointName,
    pub(super) parent: Option<&'r Parent>,
    pub(super) told: &'r HookEnvironment,
    /// Set to stop the reading: by the user, or by what watches the job.
    pub(super) stop: &'r Cancel,
}

impl Run<'_> {
    /// Returns where scratch files are.
    pub(super) fn place(&self) -> Place<'_> {
        match (self.transport, self.host) {
            (Transport::Local, _) => Place::Here,
            (_, Some(host)) => Place::There(host),
            (_, None) => Place::Unseen,
        }
    }

    /// Returns the image that the bitmap was made on which a disk is read by.
    pub(super) fn origin(&self, disk: &DomainDisk) -> Option<Origin> {
        self.parent.and_then(|parent| parent.origin(&disk.target))
    }

    pub(super) fn run_folder(&self) -> &Path {
        &self.options.run_folder
    }
}

/// A domain's disks at one moment.
pub(super) struct View {
    pub(super) disks: Vec<DiskRequest>,
    pub(super) files: Vec<FileRequest>,
    /// Documents that only this way has, or that must be those of the moment.
    pub(super) metadata: BTreeMap<String, String>,
    /// What belongs to the domain and could not be had, in words.
    pub(super) not_saved: Vec<String>,
    pub(super) method: Method,
    pub(super) consistency: Consistency,
    /// The checkpoint of this moment, and when libvirt says that it was made.
    pub(super) checkpoint: Option<(String, Option<i64>)>,
    pub(super) time: Timestamp,
    pub(super) frozen_ms: Option<u64>,
    pub(super) warnings: Vec<String>,
    pub(super) hold: Box<dyn Hold>,
}

/// Keeps a view as it is. Dropped without [`Hold::end`] it ends as after a failure.
pub(super) trait Hold {
    /// Asked when all is read, just before the snapshot is published: whether what was read is what
    /// it was taken for.
    fn check(&self) -> Result<(), String>;

    /// Returns what made the reading stop, where the hold did it.
    fn stopped_by(&self) -> Option<DomainError>;

    /// Lets the domain go on without us, and returns what went wrong with that.
    fn end(self: Box<Self>, published: bool) -> Vec<String>;
}

/// Opens a view of a plan's disks.
pub(super) type Opener = fn(&Run<'_>, &mut Plan) -> Result<View, DomainError>;

/// What is left of a hold that has ended.
pub(super) struct Ended;

impl Hold for Ended {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn stopped_by(&self) -> Option<DomainError> {
        None
    }

    fn end(self: Box<Self>, _: bool) -> Vec<String> {
        Vec::new()
    }
}
