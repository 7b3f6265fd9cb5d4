//! What a guest writes to its serial line, read as it comes and in bounded pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::printable::is_printable;

/// Bytes that are read at once.
const PIECE_LEN: usize = 64 * 1024;
/// Most pieces that one look takes: a guest may write faster than they are read.
const PIECES_MAX: usize = 64;
/// Bytes of before that are seen again with what follows, so that nothing is missed in between.
const KEPT_LEN: usize = 16 * 1024;
const ESCAPE: u8 = 0x1b;

/// Tells whether a text has what is looked for.
pub type Rule<'r> = dyn Fn(&[u8]) -> bool + 'r;

/// Follows the file of a serial line.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    at: u64,
    kept: Vec<u8>,
}

impl Console {
    /// Begins at the beginning.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            at: 0,
            kept: Vec::new(),
        }
    }

    /// Reads what is new, and returns whether a rule finds in it what it looks for. The rule sees
    /// the text without the terminal's control sequences.
    pub fn look(&mut self, finds: &Rule<'_>) -> io::Result<bool> {
        let file = File::open(&self.path)?;
        if file.metadata()?.len() < self.at {
            // A log daemon begins anew when the file is too long for it.
            self.at = 0;
        }
        let mut piece = vec![0; PIECE_LEN];
        for _ in 0..PIECES_MAX {
            let len = file.read_at(&mut piece, self.at)?;
            if len == 0 {
                return Ok(false);
            }
            self.at = self.at.saturating_add(len as u64);
            self.kept.extend(piece.iter().take(len));
            if finds(&visible(&self.kept)) {
                return Ok(true);
            }
            let too_many = self.kept.len().saturating_sub(KEPT_LEN);
            self.kept.drain(..too_many);
        }
        Ok(false)
    }
}

/// Returns the last lines that a guest wrote, as people can read them.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(KEPT_LEN as u64);
        let mut text = vec![0; KEPT_LEN];
        let len = file.read_at(&mut text, from)?;
        text.truncate(len);
        Ok(text)
    };
    let text = visible(&read().unwrap_or_default());
    let text = String::from_utf8_lossy(&text);
    let readable = |line: &str| -> String {
        let plain = line.chars().filter(|c| is_printable(*c));
        plain.take(400).collect()
    };
    let lines: Vec<String> = text.lines().map(readable).collect();
    let mut lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let too_many = lines.len().saturating_sub(count);
    lines.drain(..too_many);
    lines
}

/// Takes control sequences and carriage returns out of a terminal's text.
fn visible(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {}
            ESCAPE => skip_sequence(&mut bytes),
            byte => out.push(byte),
        }
    }
    out
}

/// Skips what follows an escape.
fn skip_sequence(bytes: &mut impl Iterator<Item = u8>) {
    match bytes.next() {
        // A control sequence ends with a letter or the like.
        Some(b'[') => drop(bytes.find(|byte| (0x40..=0x7e).contains(byte))),
        // A title and the like ends with a bell, or with an escape and one more byte.
        Some(b']') => {
            let end = bytes.find(|byte| [7, ESCAPE].contains(byte));
            let _more = end
                .filter(|byte| *byte == ESCAPE)
                .and_then(|_| bytes.next());
        }
        // A choice of characters has one more byte.
        Some(b'(' | b')') => drop(bytes.next()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn finds(wanted: &'static str) -> impl Fn(&[u8]) -> bool {
        move |text| String::from_utf8_lossy(text).contains(wanted)
    }

    #[test]
    fn a_text_is_found_across_pieces_and_control_sequences() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("console.log");
        let mut file = File::create(&path)?;
        let mut console = Console::new(&path);
        let rule = finds("web1 login:");
        assert!(!console.look(&rule)?);
        file.write_all(&vec![b'x'; PIECE_LEN - 4])?;
        file.write_all(b"web1 \x1b[0;1mlo")?;
        assert!(!console.look(&rule)?);
        file.write_all(b"\x1b]0;title\x07gin\x1b(B: ")?;
        assert!(console.look(&rule)?);
        assert!(!console.look(&rule)?, "nothing is new");
        Ok(())
    }

    #[test]
    fn a_file_that_begins_anew_is_read_anew() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("console.log");
        std::fs::write(&path, "a long line of before")?;
        let mut console = Console::new(&path);
        assert!(!console.look(&finds("ready"))?);
        std::fs::write(&path, "ready")?;
        assert!(console.look(&finds("ready"))?);
        std::fs::remove_file(&path)?;
        assert!(console.look(&finds("ready")).is_err());
        Ok(())
    }

    #[test]
    fn the_last_lines_can_be_read() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("console.log");
        std::fs::write(&path, b"one\r\n\r\n\x1b[2Jt\x01wo\nthree\xff")?;
        assert_eq!(last_lines(&path, 2), ["two", "three\u{fffd}"]);
        assert!(last_lines(&folder.path().join("none"), 2).is_empty());
        Ok(())
    }
}
