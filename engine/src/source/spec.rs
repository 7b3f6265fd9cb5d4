//! How a source is named: a path or an NBD URI, its format, and what may be opened and read.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::nbd::uri::{Uri, UriError};

/// A disk format. Never guessed from content: a guest can write a qcow2 header into a raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// Returns the format that is called `name`, by qemu's names.
    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"raw" => Some(Format::Raw),
            b"qcow2" => Some(Format::Qcow2),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

/// Where a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In an image file or block device.
    File(PathBuf),
    /// With an NBD server.
    Nbd(Uri),
}

impl Location {
    /// Returns the image file or block device, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Nbd(_) => None,
        }
    }
}

/// The image that a bitmap was made on, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where it was.
    pub path: PathBuf,
    /// Its inode, where that is known: another one is another file.
    pub inode: Option<u64>,
}

/// A source as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// Where the disk is.
    pub location: Location,
    /// The format of a file; where absent, its extension must tell it.
    pub format: Option<Format>,
    /// Whether the backing files that images name may be opened.
    pub backing: bool,
    /// The format of a backing file whose image does not tell it.
    pub backing_format: Option<Format>,
    /// Whether the external data files that images name may be opened.
    pub data_file: bool,
    /// An internal snapshot to read instead of the active state, by id or name.
    pub snapshot: Option<String>,
    /// A dirty bitmap that tells what changed: a persistent one of an image, or a metadata context
    /// of an NBD server.
    pub bitmap: Option<String>,
    /// The image that the bitmap was made on: a chain must have the bitmap down to it. Users do
    /// not name it; the parent snapshot does.
    pub origin: Option<Origin>,
    /// Whether what is unallocated in the image is unchanged from the parent.
    pub delta: bool,
    /// Whether the files may be open for writing elsewhere. Users do not say so here.
    pub may_be_written: bool,
}

/// A source's text or options that mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There is no path before the first comma.
    #[error("a source begins with its path; a comma within the path is written twice")]
    NoPath,
    /// The NBD URI cannot be used.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The option does not exist.
    #[error(
        "unknown source option `{option}` (known: format, backing, backing-format, data-file, \
         bitmap, snapshot, delta; a comma within a path or name is written twice)"
    )]
    UnknownOption {
        /// The option as typed, made printable.
        option: String,
    },
    /// The option stands twice.
    #[error("source option `{option}` is given twice")]
    Repeated {
        /// The option.
        option: &'static str,
    },
    /// The value is none of the option's.
    #[error("source option `{option}` takes {expected}, not `{value}`")]
    BadValue {
        /// The option.
        option: &'static str,
        /// The value as typed, made printable.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Two options exclude each other.
    #[error("source options `{first}` and `{second}` cannot be used together")]
    Conflict {
        /// One option.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// The option means something for qcow2 images only.
    #[error("source option `{option}` needs format=qcow2")]
    NeedsQcow2 {
        /// The option.
        option: &'static str,
    },
    /// The option says how to read a file, and an NBD server has done that.
    #[error("source option `{option}` does not go with an NBD URI: only `bitmap` does")]
    NotOverNbd {
        /// The option.
        option: &'static str,
    },
}

/// What stands for a bitmap that Cairn makes, names and proves itself.
pub const AUTO_BITMAP: &str = "auto";

impl SourceSpec {
    /// Returns whether the bitmap is one that Cairn keeps.
    pub fn is_auto(&self) -> bool {
        self.bitmap.as_deref() == Some(AUTO_BITMAP)
    }

    /// Returns the spec of `path` with nothing said about it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        SourceSpec::at(Location::File(path.into()))
    }

    fn at(location: Location) -> Self {
        SourceSpec {
            location,
            format: None,
            backing: false,
            backing_format: None,
            data_file: false,
            snapshot: None,
            bitmap: None,
            origin: None,
            delta: false,
            may_be_written: false,
        }
    }

    /// Parses `PATH[,OPTION[=VALUE]]…`, where a comma within a path or value is written twice.
    /// What has the scheme of an NBD URI is one.
    ///
    /// # Errors
    ///
    /// Any [`SpecError`] except [`SpecError::NeedsQcow2`] where the extension tells the format.
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        let mut fields = split_fields(text.as_bytes()).into_iter();
        let path = fields.next().filter(|path| !path.is_empty());
        let path = path.ok_or(SpecError::NoPath)?;
        let mut spec = SourceSpec::at(match Uri::is_meant(&path) {
            true => Location::Nbd(Uri::parse(
                &String::from_utf8(path).map_err(|_| UriError::Syntax)?,
            )?),
            false => Location::File(OsString::from_vec(path).into()),
        });
        let mut seen = Vec::new();
        for field in fields {
            let option = spec.apply(&field)?;
            if seen.contains(&option) {
                return Err(SpecError::Repeated { option });
            }
            if spec.location.file().is_none() && option != "bitmap" {
                return Err(SpecError::NotOverNbd { option });
            }
            seen.push(option);
        }
        spec.check(spec.format)?;
        Ok(spec)
    }

    /// Takes one option in and returns its name.
    fn apply(&mut self, field: &[u8]) -> Result<&'static str, SpecError> {
        let mut halves = field.splitn(2, |&byte| byte == b'=');
        let name = halves.next().unwrap_or_default();
        let value = halves.next();
        Ok(match name {
            b"format" => {
                self.format = Some(format_value("format", value)?);
                "format"
            }
            b"backing-format" => {
                self.backing_format = Some(format_value("backing-format", value)?);
                "backing-format"
            }
            b"backing" => {
                self.backing = allow_value("backing", value)?;
                "backing"
            }
            b"data-file" => {
                self.data_file = allow_value("data-file", value)?;
                "data-file"
            }
            b"bitmap" => {
                self.bitmap = Some(name_value("bitmap", value)?);
                "bitmap"
            }
            b"snapshot" => {
                self.snapshot = Some(name_value("snapshot", value)?);
                "snapshot"
            }
            b"delta" => {
                if value.is_some() {
                    return Err(bad_value("delta", value, "no value"));
                }
                self.delta = true;
                "delta"
            }
            _ => {
                return Err(SpecError::UnknownOption {
                    option: printable(name),
                });
            }
        })
    }

    /// Checks that the options agree with one another and, where it is known, with the format.
    pub(super) fn check(&self, format: Option<Format>) -> Result<(), SpecError> {
        let given = [
            ("delta", self.delta),
            ("bitmap", self.bitmap.is_some()),
            ("snapshot", self.snapshot.is_some()),
        ];
        let mut used = given.iter().filter(|(_, given)| *given);
        if let (Some(&(first, _)), Some(&(second, _))) = (used.next(), used.next()) {
            return Err(SpecError::Conflict { first, second });
        }
        if format == Some(Format::Raw) {
            let needs = given.iter().find(|(_, given)| *given);
            if let Some(&(option, _)) = needs {
                return Err(SpecError::NeedsQcow2 { option });
            }
        }
        Ok(())
    }
}

/// Splits at single commas; a doubled comma is one that belongs to the field, as in qemu's options.
fn split_fields(text: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    let mut field = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b',' || bytes.next_if_eq(&b',').is_some() {
            field.push(byte);
        } else {
            fields.push(std::mem::take(&mut field));
        }
    }
    fields.push(field);
    fields
}

fn format_value(option: &'static str, value: Option<&[u8]>) -> Result<Format, SpecError> {
    let format = value.and_then(Format::from_name);
    format.ok_or_else(|| bad_value(option, value, "`raw` or `qcow2`"))
}

fn allow_value(option: &'static str, value: Option<&[u8]>) -> Result<bool, SpecError> {
    match value {
        Some(b"allow") => Ok(true),
        _ => Err(bad_value(option, value, "`allow`")),
    }
}

fn name_value(option: &'static str, value: Option<&[u8]>) -> Result<String, SpecError> {
    let name = value.filter(|value| !value.is_empty());
    name.and_then(|name| String::from_utf8(name.to_vec()).ok())
        .ok_or_else(|| bad_value(option, value, "a name in UTF-8"))
}

fn bad_value(option: &'static str, value: Option<&[u8]>, expected: &'static str) -> SpecError {
    SpecError::BadValue {
        option,
        value: printable(value.unwrap_or_default()),
        expected,
    }
}

/// Returns text from outside fit for a message: no control characters, bounded.
pub(super) fn printable(text: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(text);
    let mut shown: String = (text.chars().take(SHOWN_MAX))
        .map(crate::printable::shown)
        .collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SourceSpec, SpecError> {
        SourceSpec::parse(OsStr::new(text))
    }

    #[test]
    fn a_path_alone_says_nothing_more() {
        assert_eq!(parse("/a/b.raw"), Ok(SourceSpec::new("/a/b.raw")));
    }

    #[test]
    fn every_option_is_taken_in() {
        let spec =
            parse("a,,b,format=qcow2,backing=allow,backing-format=raw,data-file=allow,delta")
                .expect("the text is right");
        assert_eq!(spec.location.file(), Some(Path::new("a,b")));
        assert_eq!(spec.format, Some(Format::Qcow2));
        assert_eq!(spec.backing_format, Some(Format::Raw));
        assert!(spec.backing && spec.data_file && spec.delta);
        let spec = parse("x,bitmap=a=b,,c").expect("the text is right");
        assert_eq!(spec.bitmap.as_deref(), Some("a=b,c"));
        let spec = parse("x,snapshot=1").expect("the text is right");
        assert_eq!(spec.snapshot.as_deref(), Some("1"));
    }

    #[test]
    fn a_path_that_is_not_utf8_is_kept() {
        let text = OsStr::from_bytes(b"/d\xff,delta");
        let spec = SourceSpec::parse(text).expect("the text is right");
        assert_eq!(
            spec.location.file(),
            Some(Path::new(OsStr::from_bytes(b"/d\xff")))
        );
    }

    #[test]
    fn a_scheme_makes_an_nbd_uri() {
        let text = "nbd+unix:///vda?socket=/s,bitmap=qemu:dirty-bitmap:backup-vda";
        let spec = parse(text).expect("the text is right");
        let uri = Uri::parse("nbd+unix:///vda?socket=/s").expect("the URI is right");
        assert_eq!(spec.location, Location::Nbd(uri));
        let bitmap = "qemu:dirty-bitmap:backup-vda";
        assert_eq!(spec.bitmap.as_deref(), Some(bitmap));
        assert_eq!(parse("./nbd://x"), Ok(SourceSpec::new("./nbd://x")));
        for option in ["format=raw", "delta", "backing=allow", "snapshot=s"] {
            let error = parse(&format!("nbd://h/x,{option}")).expect_err("not for NBD");
            assert!(error.to_string().contains("NBD URI"), "{error}");
        }
        let error = parse("nbd+unix:///x").expect_err("no socket");
        assert!(error.to_string().contains("?socket="), "{error}");
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let message = |text| parse(text).expect_err("refused").to_string();
        assert!(message("").contains("path"));
        assert!(message(",delta").contains("path"));
        assert!(message("x,frmat=raw").contains("`frmat`"));
        assert!(message("x,").contains("unknown source option ``"));
        assert!(message("x,format=vmdk").contains("not `vmdk`"));
        assert!(message("x,backing").contains("`allow`"));
        assert!(message("x,bitmap=").contains("a name"));
        assert!(message("x,delta=on").contains("no value"));
        assert!(message("x,delta,delta").contains("twice"));
        assert!(message("x,\u{1b}[2J").contains('\u{fffd}'));
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let conflict = |first, second| Err(SpecError::Conflict { first, second });
        assert_eq!(parse("x,bitmap=b,delta"), conflict("delta", "bitmap"));
        assert_eq!(
            parse("x,bitmap=b,snapshot=s"),
            conflict("bitmap", "snapshot")
        );
        let needs = Err(SpecError::NeedsQcow2 { option: "delta" });
        assert_eq!(parse("x,format=raw,delta"), needs);
    }
}
