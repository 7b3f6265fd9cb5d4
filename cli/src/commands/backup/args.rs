//! What may be typed after `backup`, as far as it has a form of its own.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use crate::exit::CliError;

/// What `--help` says of sources, with examples.
pub const EXAMPLES: &str = "\
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
taken. Where anything speaks against it, such as a later snapshot that was forgotten, all is read.

An image that somebody may write to is refused with exit code 11, and one that was written to while
it was read is not published. `--if-written mark` does so all the same: what was read is of no one
moment, the snapshot says so, and no later backup is computed from it by changes.

MODE in the report: incremental read what has changed since the parent; scan read everything and
had a parent; full read everything and had none. Of all only what is new was stored: NEW is that
before compression, STORED after it, REUSED what lay in changed places and was stored before.";

/// One `--disk`: the source still as text, which need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    /// The disk's name in the VM.
    pub target: String,
    /// Path and options.
    pub source: OsString,
}

/// Reads `--disk`.
pub fn disk_parser() -> impl clap::builder::TypedValueParser<Value = DiskArg> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().try_map(|text| parse_disk(&text))
}

fn parse_disk(text: &OsStr) -> Result<DiskArg, CliError> {
    let refused = |reason: &str| CliError::Usage(reason.to_owned());
    let mut halves = text.as_bytes().splitn(2, |byte| *byte == b'=');
    let target = halves
        .next()
        .and_then(|target| std::str::from_utf8(target).ok());
    let target = target.filter(|target| !target.is_empty());
    let target =
        target.ok_or_else(|| refused("TARGET=SOURCE is wanted, such as vda=/vm/a.qcow2"))?;
    let source = halves.next().filter(|source| !source.is_empty());
    let source =
        source.ok_or_else(|| refused("TARGET=SOURCE is wanted, such as vda=/vm/a.qcow2"))?;
    if target.contains(['/', ',', ':', '@']) {
        return Err(refused("the name of a disk is one like `vda`, not a path"));
    }
    let source = OsString::from_vec(source.to_vec());
    Ok(DiskArg {
        target: target.to_owned(),
        source,
    })
}

/// The value of `--if-written`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IfWrittenArg {
    /// Fail, and publish nothing
    Refuse,
    /// Publish the snapshot with a mark, and end with exit code 3
    Mark,
}

/// The value of `--parent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParentArg {
    /// Compute against nothing.
    None,
    /// A snapshot, as it was typed.
    Snapshot(String),
}

impl FromStr for ParentArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "none" => Self::None,
            _ => Self::Snapshot(text.to_owned()),
        })
    }
}

/// One `--tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Before the first `=`.
    pub key: String,
    /// After it.
    pub value: String,
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let halves = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = halves.ok_or("KEY=VALUE is wanted")?;
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}
