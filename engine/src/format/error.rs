//! Why stored bytes could not be decoded.

/// A decoding failure. Which object it was is added by whoever read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes do not begin (or end) with what this kind of object begins with.
    #[error("magic bytes of a {expected} are missing")]
    BadMagic {
        /// The kind of object expected.
        expected: &'static str,
    },
    /// The object was written by a newer Cairn.
    #[error("version {found} of {what} is not supported (this is {supported})")]
    UnsupportedVersion {
        /// What has the version.
        what: &'static str,
        /// The version found.
        found: u64,
        /// The newest version understood.
        supported: u64,
    },
    /// The object needs a feature that this Cairn does not have.
    #[error("feature `{feature}` is not supported")]
    UnsupportedFeature {
        /// The feature's name.
        feature: String,
    },
    /// There are fewer bytes than the object says it has.
    #[error("{what} is truncated: needs {needed} bytes, has {had}")]
    Truncated {
        /// The part that is short.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        had: u64,
    },
    /// A hash over the bytes does not match.
    #[error("checksum of {what} does not match")]
    ChecksumMismatch {
        /// The part whose checksum it is.
        what: &'static str,
    },
    /// The authentication tag does not match: damaged, replaced, or sealed under another key.
    #[error("authentication of {what} failed")]
    AuthenticationFailed {
        /// The part that was sealed.
        what: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("{field} is out of range: {value} (limit {limit})")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Its limit.
        limit: u64,
    },
    /// The bytes break a rule of the format.
    #[error("{rule}")]
    Malformed {
        /// The rule that is broken, as a sentence without a stop.
        rule: &'static str,
    },
    /// A JSON document cannot be parsed.
    #[error("{what} is not a valid document at line {line}, column {column}")]
    BadDocument {
        /// The document.
        what: &'static str,
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
}
