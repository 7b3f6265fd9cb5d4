//! Opens any source from its spec.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::nbd::NbdSource;
use super::qcow2::{Qcow2Options, Qcow2Source};
use super::raw::RawSource;
use super::spec::{Format, Location, SourceSpec};
use super::{Source, SourceError};
use crate::nbd::client::ClientOptions;

/// Opens the source that `spec` names.
///
/// The format is what the spec says, or what the extension says (`.qcow2`; `.raw`, `.img` and block
/// devices are raw): content is never asked.
///
/// # Errors
///
/// [`SourceError::FormatUnknown`] and [`SourceError::Spec`] before anything is opened; then
/// whatever stands in the way of reading the disk.
pub fn open(spec: &SourceSpec) -> Result<Box<dyn Source>, SourceError> {
    open_with(spec, &ClientOptions::default())
}

/// Opens the source that `spec` names; servers are waited for as `options` say.
///
/// # Errors
///
/// As [`open`]; [`SourceError::Cancelled`] too.
pub fn open_with(
    spec: &SourceSpec,
    options: &ClientOptions,
) -> Result<Box<dyn Source>, SourceError> {
    match &spec.location {
        Location::File(path) => open_file(spec, path),
        Location::Nbd(uri) => NbdSource::open_with(uri, spec.bitmap.as_deref(), options).map(boxed),
    }
}

fn open_file(spec: &SourceSpec, path: &Path) -> Result<Box<dyn Source>, SourceError> {
    let format = match format_of(spec) {
        Some(format) => format,
        None if std::fs::metadata(path).is_err() => {
            // A name that does not exist deserves the system's own words.
            return RawSource::open(path).map(boxed);
        }
        None => {
            let path = path.to_path_buf();
            return Err(SourceError::FormatUnknown { path });
        }
    };
    spec.check(Some(format))
        .map_err(|source| SourceError::Spec {
            path: path.to_path_buf(),
            source,
        })?;
    match format {
        Format::Raw => RawSource::open_though(path, spec.may_be_written).map(boxed),
        Format::Qcow2 => Qcow2Source::open(path, &options(spec)).map(boxed),
    }
}

/// Returns the format that a spec's image is read in, if the spec or the name tells it. What an NBD
/// server serves has none.
pub fn format_of(spec: &SourceSpec) -> Option<Format> {
    spec.format
        .or_else(|| format_by_name(spec.location.file()?))
}

/// Returns the files that are read beside the image of a spec: the backing and data files that it,
/// and they in turn, name.
///
/// # Errors
///
/// As [`open`].
pub fn named_files(spec: &SourceSpec) -> Result<Vec<PathBuf>, SourceError> {
    match (spec.location.file(), format_of(spec)) {
        (Some(path), Some(Format::Qcow2)) => {
            let source = Qcow2Source::open(path, &options(spec))?;
            Ok(source.named_files().to_vec())
        }
        _ => Ok(Vec::new()),
    }
}

fn boxed(source: impl Source + 'static) -> Box<dyn Source> {
    Box::new(source)
}

fn options(spec: &SourceSpec) -> Qcow2Options {
    Qcow2Options {
        allow_backing: spec.backing,
        backing_format: spec.backing_format,
        allow_data_file: spec.data_file,
        snapshot: spec.snapshot.clone(),
        bitmap: spec.bitmap.clone(),
        origin: spec.origin.clone(),
        delta: spec.delta,
        may_be_written: spec.may_be_written,
    }
}

/// Returns the format that the name or the kind of file tells.
fn format_by_name(path: &Path) -> Option<Format> {
    let is_device = std::fs::metadata(path)
        .map(|metadata| metadata.file_type().is_block_device())
        .unwrap_or(false);
    if is_device {
        return Some(Format::Raw);
    }
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "qcow2" => Some(Format::Qcow2),
        "raw" | "img" => Some(Format::Raw),
        _ => None,
    }
}
