//! Why a source could not be opened or read.

use std::io;
use std::path::PathBuf;

use super::spec::SpecError;
use crate::nbd::client::ClientError;

/// A source failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The operating system refused.
    #[error("cannot {op} {path}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Reading the disk's bytes failed.
    #[error("cannot read {path} at disk offset {offset}", path = path.display())]
    Read {
        /// The file that was read.
        path: PathBuf,
        /// The disk offset.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The path names something that holds no disk.
    #[error("{path} is {kind}, not a regular file or a block device", path = path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A running QEMU (or whoever follows its locks) may write to the file.
    #[error("{path} is open for writing in {by}", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who has it open, in words.
        by: String,
    },
    /// The options of the source are wrong.
    #[error("the options of {path} cannot be used", path = path.display())]
    Spec {
        /// The source.
        path: PathBuf,
        /// The rule that they break.
        source: SpecError,
    },
    /// Neither the user nor the file's extension says what the format is.
    #[error(
        "the format of {path} is not known: say format=raw or format=qcow2",
        path = path.display()
    )]
    FormatUnknown {
        /// The file.
        path: PathBuf,
    },
    /// An image names its backing file, but not that file's format.
    #[error(
        "{path} does not say the format of its backing file `{name}`: \
         say backing-format=raw or backing-format=qcow2",
        path = path.display()
    )]
    BackingFormatUnknown {
        /// The image.
        path: PathBuf,
        /// The backing file's name as it stands in the image, made printable.
        name: String,
    },
    /// The image breaks its format's rules.
    #[error("{path} is damaged or not what it is said to be: {fault}", path = path.display())]
    Malformed {
        /// The image.
        path: PathBuf,
        /// The rule that is broken.
        fault: String,
    },
    /// The image uses something that cannot be read.
    #[error("{path}: {feature} is not supported", path = path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// The feature.
        feature: String,
    },
    /// The image is encrypted; its bytes without the key are of no use to anyone.
    #[error(
        "{path} is encrypted ({method}) and not supported directly; qemu-nbd of the package \
         qemu-utils reads it: `qemu-nbd --read-only --persistent --socket=SOCKET \
         --object=secret,id=key,file=KEYFILE --image-opts \
         driver=qcow2,encrypt.key-secret=key,file.driver=file,file.filename={doubled}`, \
         and `--disk TARGET=nbd+unix:///?socket=SOCKET` reads from there",
        path = path.display(),
        doubled = path.display().to_string().replace(',', ",,")
    )]
    Encrypted {
        /// The image.
        path: PathBuf,
        /// How: "LUKS" or "AES".
        method: &'static str,
    },
    /// The image names another file, and following it was not allowed.
    #[error("{path} refers to {role} `{name}`, which may not be opened without leave",
        path = path.display())]
    NotAllowed {
        /// The image.
        path: PathBuf,
        /// "backing file" or "data file".
        role: &'static str,
        /// The name as it stands in the image, made printable.
        name: String,
    },
    /// A backing file is, further down, its own backing file.
    #[error("the backing chain loops back to {path}", path = path.display())]
    ChainLoop {
        /// The file that was met twice.
        path: PathBuf,
    },
    /// A backing chain is longer than anyone's.
    #[error("the backing chain at {path} is longer than {limit} files", path = path.display())]
    ChainTooLong {
        /// The file at which reading stopped.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A bitmap cannot be used.
    #[error("bitmap `{name}` of {path} {fault}", path = path.display())]
    Bitmap {
        /// The image.
        path: PathBuf,
        /// The bitmap.
        name: String,
        /// Why, as a predicate ("is not there", "is in use", "is inconsistent").
        fault: &'static str,
    },
    /// The image has no internal snapshot of that id or name.
    #[error("{path} has no internal snapshot `{name}`", path = path.display())]
    NoInternalSnapshot {
        /// The image.
        path: PathBuf,
        /// The id or name asked for.
        name: String,
    },
    /// An NBD server could not be read from.
    #[error("cannot read {uri}")]
    Nbd {
        /// The export.
        uri: String,
        /// What went wrong.
        source: Box<ClientError>,
    },
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// The bytes are only in the parent snapshot.
    #[error("bytes at disk offset {offset} are unchanged and not in the delta")]
    NotHere {
        /// The disk offset.
        offset: u64,
    },
}
