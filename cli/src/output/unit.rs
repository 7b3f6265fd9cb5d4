//! What `unit` prints, and how systemd's units are written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Report;

/// Units that belong together.
#[derive(Debug, Serialize)]
pub struct UnitsReport {
    /// Their files.
    pub units: Vec<UnitFile>,
}

/// One unit.
#[derive(Debug, Serialize)]
pub struct UnitFile {
    /// The name that its file should have.
    pub file_name: String,
    /// Its text.
    pub text: String,
}

/// Units that were written.
#[derive(Debug, Serialize)]
pub struct WrittenReport {
    /// Their files.
    pub written: Vec<PathBuf>,
}

impl UnitsReport {
    /// Returns where the units are now.
    pub fn written(&self, folder: &Path) -> WrittenReport {
        let files = self.units.iter().map(|unit| folder.join(&unit.file_name));
        WrittenReport {
            written: files.collect(),
        }
    }
}

impl Report for UnitsReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for (number, unit) in self.units.iter().enumerate() {
            let gap = if number > 0 { "\n" } else { "" };
            write!(out, "{gap}# {}\n{}", unit.file_name, unit.text)?;
        }
        Ok(())
    }
}

impl Report for WrittenReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for path in &self.written {
            writeln!(out, "wrote {}", path.display())?;
        }
        Ok(())
    }
}

/// Returns a word as systemd reads it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let word = word.replace('\\', "\\\\").replace('"', "\\\"");
    let word = word.replace('\n', "\\n");
    format!("\"{}\"", word.replace('%', "%%").replace('$', "$$"))
}

/// Returns a path as systemd reads it.
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}
