//! The disks that are served, by their names.

use std::sync::Arc;

use cairn_engine::nbd::wire::{STRING_LEN_MAX, flag};

use crate::disk::{Changes, Disk};

/// A set of exports that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportsError {
    /// Two exports go by one name.
    #[error("two exports are called `{name}`")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name or a description is longer than the protocol allows.
    #[error("the name or description of export `{name}` is longer than {STRING_LEN_MAX} bytes")]
    TooLong {
        /// The name.
        name: String,
    },
}

/// One disk that is served.
pub struct Export {
    /// What clients ask for; at most 4096 bytes.
    pub name: String,
    /// Other names for the same; the empty one makes it the default export.
    pub aliases: Vec<String>,
    /// What it is, for people; at most 4096 bytes.
    pub description: String,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// What changed on it since other snapshots, what clients write included, if that can be told.
    pub changes: Option<Arc<dyn Changes>>,
}

impl Export {
    /// Returns whether clients may write.
    pub fn is_writable(&self) -> bool {
        self.disk.writer().is_some()
    }

    /// Returns the transmission flags that do not depend on how the client speaks.
    pub(crate) fn flags(&self) -> u16 {
        // A flush covers what was answered on any connection (see `WriteDisk`), so several are
        // always safe.
        let always = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE;
        always
            | match self.is_writable() {
                true => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
                false => flag::READ_ONLY,
            }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.aliases)
    }
}

/// All that a server serves.
pub struct Exports(Vec<Arc<Export>>);

impl Exports {
    /// Takes exports whose names differ.
    pub fn new(exports: Vec<Export>) -> Result<Self, ExportsError> {
        let mut seen = std::collections::HashSet::new();
        for export in &exports {
            for name in export.names() {
                let name = || name.clone();
                if name().len() > STRING_LEN_MAX || export.description.len() > STRING_LEN_MAX {
                    return Err(ExportsError::TooLong { name: name() });
                }
                if !seen.insert(name()) {
                    return Err(ExportsError::Duplicate { name: name() });
                }
            }
        }
        Ok(Self(exports.into_iter().map(Arc::new).collect()))
    }

    /// Returns the export of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Export>> {
        let is_named = |export: &&Arc<Export>| export.names().any(|other| other == name);
        self.0.iter().find(is_named)
    }

    /// Returns the exports in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Export>> {
        self.0.iter()
    }

    /// Returns every name but the empty one, with what it stands for.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|export| {
            let names = export.names().filter(|name| !name.is_empty());
            names.map(|name| (name.as_str(), export.description.as_str()))
        })
    }
}
