//! Why a snapshot is kept or forgotten.

use std::fmt;

use jiff::Timestamp;

use super::decide::Flaw;
use super::policy::{Count, KeepTag, Rule};
use super::span::KeepSpan;
use crate::id::SnapshotId;

/// Why a snapshot is kept or forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is the newest of its bucket.
    Rule {
        /// The rule.
        rule: Rule,
        /// How many buckets there are up to this one, the newest first.
        number: u32,
        /// How many buckets the rule has.
        of: Count,
        /// The bucket, such as a day; the rule `last` has none.
        bucket: Option<String>,
    },
    /// It is not older than the span before the newest snapshot.
    Within {
        /// The span.
        span: KeepSpan,
        /// The newest snapshot's time.
        newest: Timestamp,
    },
    /// It has a tag.
    Tag(KeepTag),
    /// It is protected.
    Protected,
    /// A note of it is damaged, which may have protected it.
    DamagedNote,
    /// Something outside of the repository counts on it.
    Pinned(String),
    /// It is dated after now.
    Future,
    /// It is dated before a snapshot that it was computed from.
    OutOfOrder {
        /// That snapshot.
        ancestor: SnapshotId,
    },
    /// The rules would keep nothing of its group.
    Newest,
    /// No rule keeps it.
    NoRule,
    /// It may be of less use than others, and is counted apart from them.
    Flawed(Flaw),
}

impl Reason {
    /// Returns whether it speaks for keeping.
    pub fn is_keeping(&self) -> bool {
        !matches!(self, Self::NoRule | Self::Flawed(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule {
                rule,
                number,
                of,
                bucket,
            } => {
                write!(f, "{rule} {number} of {of}")?;
                match bucket {
                    None => Ok(()),
                    Some(bucket) => write!(f, " ({bucket})"),
                }
            }
            Self::Within { span, .. } => write!(f, "within {span}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Protected => f.write_str("protected"),
            Self::DamagedNote => f.write_str("one of its notes is damaged"),
            Self::Pinned(what) => write!(f, "pinned by {what}"),
            Self::Future => f.write_str("dated after now"),
            Self::OutOfOrder { ancestor } => {
                let ancestor = ancestor.short();
                write!(f, "dated before {ancestor}, from which it was computed")
            }
            Self::Newest => f.write_str("the newest, of which no rule would keep any"),
            Self::NoRule => f.write_str("no rule keeps it"),
            Self::Flawed(Flaw::Disproved) => f.write_str("failed its trial, counted apart"),
            Self::Flawed(Flaw::Partial) => f.write_str("lacks disks, counted apart"),
        }
    }
}
