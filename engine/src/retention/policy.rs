//! What a user wants kept.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::span::KeepSpan;

/// How many snapshots a rule keeps at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(u32);

/// Returned when a text is not a [`Count`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a number or `unlimited` is wanted")]
pub struct ParseCountError;

impl Count {
    /// No bound.
    pub const UNLIMITED: Self = Self(u32::MAX);

    /// Returns the count of so many.
    pub const fn new(count: u32) -> Self {
        Self(count)
    }

    pub(super) fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Count {
    type Err = ParseCountError;

    fn from_str(text: &str) -> Result<Self, ParseCountError> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        text.parse().map(Self).map_err(|_| ParseCountError)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNLIMITED => f.write_str("unlimited"),
            Self(count) => count.fmt(f),
        }
    }
}

/// The rules that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The newest ones.
    Last,
    /// The newest of each hour that has any.
    Hourly,
    /// The newest of each day that has any.
    Daily,
    /// The newest of each ISO week that has any.
    Weekly,
    /// The newest of each month that has any.
    Monthly,
    /// The newest of each year that has any.
    Yearly,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Last,
        Self::Hourly,
        Self::Daily,
        Self::Weekly,
        Self::Monthly,
        Self::Yearly,
    ];
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

/// A tag that some snapshots have: with this value, or with any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepTag {
    /// The tag's key.
    pub key: String,
    /// Its value; any where none is wanted.
    pub value: Option<String>,
}

impl KeepTag {
    /// Returns whether these tags have it.
    pub fn fits(&self, tags: &BTreeMap<String, String>) -> bool {
        let found = tags.get(&self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

impl FromStr for KeepTag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            None => (text, None),
            Some((key, value)) => (key, Some(value.to_owned())),
        };
        if key.is_empty() {
            return Err("KEY or KEY=VALUE is wanted".to_owned());
        }
        let key = key.to_owned();
        Ok(Self { key, value })
    }
}

impl fmt::Display for KeepTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => f.write_str(&self.key),
            Some(value) => write!(f, "{}={value}", self.key),
        }
    }
}

/// What is to be kept: whatever any of these keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `--keep-last`
    pub last: Count,
    /// `--keep-hourly`
    pub hourly: Count,
    /// `--keep-daily`
    pub daily: Count,
    /// `--keep-weekly`
    pub weekly: Count,
    /// `--keep-monthly`
    pub monthly: Count,
    /// `--keep-yearly`
    pub yearly: Count,
    /// `--keep-within`: all that are not older than this before the newest.
    pub within: KeepSpan,
    /// `--keep-tag`: all that have one of these.
    pub tags: Vec<KeepTag>,
}

/// A policy that would keep nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy is empty: it would keep no snapshot at all")]
pub struct EmptyPolicyError;

impl Policy {
    /// Returns how many a rule keeps.
    pub fn count(&self, rule: Rule) -> Count {
        match rule {
            Rule::Last => self.last,
            Rule::Hourly => self.hourly,
            Rule::Daily => self.daily,
            Rule::Weekly => self.weekly,
            Rule::Monthly => self.monthly,
            Rule::Yearly => self.yearly,
        }
    }

    pub(super) fn check(&self) -> Result<(), EmptyPolicyError> {
        let counts = Rule::ALL.iter().any(|rule| self.count(*rule).get() > 0);
        match counts || !self.within.is_zero() || !self.tags.is_empty() {
            true => Ok(()),
            false => Err(EmptyPolicyError),
        }
    }
}
