//! What may be typed after `backup`, as far as it has a form of its own.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use crate::exit::CliError;

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
