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

use args::{DiskArg, EXAMPLES, IfWrittenArg, ParentArg, Tag, disk_parser};

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::limit::rate_limit;

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

    /// What to do where an image is open for writing, or was written to while it was read
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value = "refuse",
        requires = "disks"
    )]
    pub if_written: IfWrittenArg,

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
