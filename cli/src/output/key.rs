//! What `key` says.

use std::io::{self, Write};

use cairn_engine::id::KeyId;
use jiff::Timestamp;
use serde::Serialize;

use super::table::Table;
use super::{Report, time};

/// The key slots of a repository.
#[derive(Debug, Serialize)]
pub struct KeysReport {
    /// Every slot, oldest first.
    pub keys: Vec<KeySlot>,
}

/// One slot: a way to open the repository.
#[derive(Debug, Serialize)]
pub struct KeySlot {
    /// The slot.
    pub id: KeyId,
    /// What its owner called it.
    pub label: String,
    /// When it was made.
    #[serde(serialize_with = "super::time::rfc3339")]
    pub created: Timestamp,
    /// Whether it is the one that opened the repository just now.
    pub current: bool,
}

/// A slot that was added or removed.
#[derive(Debug, Serialize)]
pub struct KeyReport {
    /// What was done: `added`, `removed` or `changed`.
    pub done: &'static str,
    /// The slot.
    pub id: KeyId,
}

impl Report for KeysReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["", "ID", "CREATED", "LABEL"]);
        for key in &self.keys {
            let mark = if key.current { "*" } else { " " };
            let created = time::local(key.created);
            table.row([mark.to_owned(), key.id.short(), created, key.label.clone()]);
        }
        table.write(out)
    }
}

impl Report for KeyReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} key {}", self.done, self.id.short())
    }
}
