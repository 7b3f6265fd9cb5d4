//! What people read, whatever it was made of: nothing in it moves the cursor, turns the direction
//! of writing, or is there and not seen.
//!
//! Reports name what came from outside by [`super::table::printable`], which lets no line break
//! through either. This is behind them all, and `tests/tidy/terminal.rs` sees to it that nothing
//! goes past it.

use std::io::{self, Write};

use cairn_engine::printable::shown;

/// Says a line on standard error. Work goes on when nobody reads what is said of it.
pub fn say(line: &str) {
    drop(writeln!(io::stderr(), "{}", one_line(line)));
}

/// Makes a text one line: what a guest or a tool says may have more, which must not pass for ours.
fn one_line(text: &str) -> String {
    plain(text.trim_end()).replace('\n', " ")
}

/// A stream of text that people read.
///
/// It comes in whole characters, as `write!` hands it on.
pub struct Plain<W: Write>(pub W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let shown = plain(&String::from_utf8_lossy(text));
        self.0.write_all(shown.as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Makes lines of text safe for a terminal.
fn plain(text: &str) -> String {
    let kept = |c: char| if c == '\n' { c } else { shown(c) };
    text.chars().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line() {
        let said = "warning: a\nhint: run \u{1b}[8mthis\u{1b}[0m\r\n";
        let line = "warning: a hint: run \u{fffd}[8mthis\u{fffd}[0m";
        assert_eq!(one_line(said), line);
    }

    #[test]
    fn lines_stay_and_nothing_else_is_obeyed() {
        let mut out = Plain(Vec::new());
        let hostile = "exe.\u{202e}gpj\u{200b}\u{9b}\r";
        writeln!(out, "größe \u{1b}[2J\n{hostile}").expect("memory can be written");
        let text = String::from_utf8(out.0).expect("it is text");
        assert_eq!(
            text,
            "größe \u{fffd}[2J\nexe.\u{fffd}gpj\u{fffd}\u{fffd}\u{fffd}\n"
        );
    }
}
