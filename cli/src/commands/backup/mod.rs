//! `cairn backup`: a new snapshot of a VM.

mod args;
mod disks;
#[cfg(feature = "libvirt")]
mod domain;
#[cfg(feature = "libvirt")]
mod domain_args;
#[cfg(feature = "libvirt")]
mod fleet;
mod lineage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use cairn_engine::source::RateLimit;

use args::{DiskArg, ParentArg, Tag, disk_parser};

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::limit::rate_limit;

const EXAMPLES: &str = "\
Without --disk the VM is a domain of libvirt, running or off: all of its disks are backed up as they
were at one moment, read by their changes where it is proven what these are. Hooks run at
before-backup, before-freeze, before-job (the guest is frozen), after-freeze (it runs again),
after-job and after-backup, by /bin/sh, with CAIRN_PHASE, CAIRN_DOMAIN, CAIRN_DOMAIN_UUID,
CAIRN_REPOSITORY_ID and, after the backup, CAIRN_STATUS (done or failed) and CAIRN_SNAPSHOT. One
that fails ends the backup; after it, it is a warning. A domain that is off has no freeze ones.

SOURCE is a path or an NBD URI, with options after commas:
  format=raw|qcow2    the image's format, where its extension does not tell
  bitmap=auto         read only what has changed, by dirty bitmaps that Cairn keeps in the qcow2
  bitmap=NAME         read only what this dirty bitmap of a qcow2 says has changed
  delta               what a qcow2 has not allocated is unchanged from the parent
  snapshot=NAME       read an internal snapshot of a qcow2, by name or id
  backing=allow       follow the backing file that a qcow2 names
  backing-format=raw|qcow2
                      its format, where the qcow2 does not tell
  data-file=allow     follow the external data file that a qcow2 names
  bitmap=CONTEXT      of an NBD server: read only what this dirty bitmap, such as
                      qemu:dirty-bitmap:NAME, says has changed
A comma that belongs to a path or name is written twice. NBD URIs are nbd://HOST[:PORT]/EXPORT and
nbd+unix:///EXPORT?socket=PATH; over TLS nbds and nbds+unix, with tls-certificates=DIR after ? or &.

Examples:
  cairn backup web1
  cairn backup web1 --full --exclude vdb --freeze agent
  cairn backup --all --jobs 2 --limit 100MiB
  cairn backup web@dc1 --as web-dc1
  cairn backup web1 --disk vda=/vm/web1.qcow2,bitmap=auto
  cairn backup web1 --disk vda=/vm/web1.raw --disk vdb=/dev/vg0/web1-data --tag job=nightly
  cairn backup web1 --disk 'vda=nbd+unix:///vda?socket=/run/web1.nbd'
  cairn backup web1 --disk vda=/vm/increment.4,format=qcow2,delta --parent web1@latest

With bitmap=auto each backup adds a bitmap before it reads, and the next one counts from that: one
command does for the first backup and for all others. Nobody may have the image open meanwhile. A
bitmap made by hand counts from the moment it was added or cleared: that must be when the parent was
taken. Where anything speaks against it, such as a later snapshot that was forgotten, all is read.";

/// Back up virtual machines
///
/// Only what the repository does not have yet is stored. Of a libvirt domain, and with a parent and
/// a bitmap, or a delta, only what has changed is read. Every snapshot is complete in itself.
#[derive(Debug, clap::Args)]
#[command(after_help = super::with_snapshots(EXAMPLES))]
pub struct BackupArgs {
    /// Name of the virtual machine; without --disk, name or UUID of a libvirt domain
    #[cfg_attr(feature = "libvirt", arg(required_unless_present_any = ["all", "pattern"]))]
    #[cfg_attr(not(feature = "libvirt"), arg(required = true))]
    pub vm: Option<String>,

    /// Disk to back up: its name in the VM, and where it is (can be given several times)
    #[arg(long = "disk", value_name = "TARGET=SOURCE")]
    #[arg(value_parser = disk_parser())]
    pub disks: Vec<DiskArg>,

    /// Snapshot that bitmaps and deltas count from; `none` reads everything
    #[arg(long, value_name = "SNAPSHOT|none", requires = "disks")]
    pub parent: Option<ParentArg>,

    /// Note to keep with the snapshot (can be given several times)
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,

    /// Read at most so many bytes a second, such as 100MiB, over all disks together
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,

    /// Read this share of what is said to be unchanged again, and compare: 0 to 100
    ///
    /// A difference fails the backup, and the next one reads everything of that disk.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub audit: u8,

    #[cfg(feature = "libvirt")]
    #[command(flatten)]
    domain: domain_args::DomainArgs,
}

/// Runs the command.
pub fn run(args: &BackupArgs, context: &Context) -> Result<Outcome> {
    #[cfg(feature = "libvirt")]
    match (&args.vm, args.disks.is_empty()) {
        (Some(vm), true) => return domain::run(args, vm, context),
        (None, _) => return fleet::run(args, context),
        (Some(_), false) => {}
    }
    disks::run(args, context)
}

impl BackupArgs {
    /// Returns the tags by their keys.
    pub fn tags(&self) -> Result<BTreeMap<String, String>, CliError> {
        let mut tags = BTreeMap::new();
        for Tag { key, value } in &self.tags {
            if tags.insert(key.clone(), value.clone()).is_some() {
                return Err(CliError::Usage(format!("tag `{key}` is given twice")));
            }
        }
        Ok(tags)
    }

    /// Refuses two disks of one name.
    pub fn check_targets(&self) -> Result<(), CliError> {
        let mut seen = std::collections::BTreeSet::new();
        match self.disks.iter().find(|disk| !seen.insert(&disk.target)) {
            None => Ok(()),
            Some(disk) => Err(CliError::Usage(format!(
                "disk `{}` is given twice",
                disk.target
            ))),
        }
    }

    /// Returns the bound on what is read.
    pub fn rate_limit(&self) -> Result<Option<Arc<RateLimit>>, CliError> {
        rate_limit(self.limit.as_deref())
    }
}
