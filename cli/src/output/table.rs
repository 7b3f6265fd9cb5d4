//! Tables with aligned columns.

use std::io::{self, Write};

use cairn_engine::printable::{self, is_printable};

/// Rows under a heading, as wide as they need to be.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    heading: &'static str,
    right: bool,
}

impl Table {
    /// Begins a table. A heading that begins with `>` makes its column flush right, as numbers are
    /// read best.
    pub fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => Column {
                heading,
                right: true,
            },
            None => Column {
                heading,
                right: false,
            },
        };
        Self {
            columns: headings.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row, which has a cell for every column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(printable).collect();
        assert_eq!(
            cells.len(),
            self.columns.len(),
            "a row has a cell for every column"
        );
        self.rows.push(cells);
    }

    /// Writes the table.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .map(|column| column.heading.chars().count())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let headings: Vec<&str> = self.columns.iter().map(|column| column.heading).collect();
        self.write_row(out, &widths, &headings)?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.write_row(out, &widths, &cells)?;
        }
        Ok(())
    }

    fn write_row(&self, out: &mut dyn Write, widths: &[usize], cells: &[&str]) -> io::Result<()> {
        let mut line = String::new();
        for ((column, width), cell) in self.columns.iter().zip(widths).zip(cells) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(&match column.right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// Makes a text that came from outside safe for a terminal, and one line: line breaks and tabs
/// become spaces.
pub fn printable(text: String) -> String {
    let shown = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c => printable::shown(c),
    };
    match text.chars().all(is_printable) {
        true => text,
        false => text.replace("\r\n", "\n").chars().map(shown).collect(),
    }
}

/// Makes a name that came from outside safe for a terminal. What cannot be shown stays visible as
/// such: another file may have the name with a space in its place.
pub fn visible(name: &str) -> String {
    printable::text(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", ">SIZE", "MODE"]);
        table.row(["vda".into(), "1.0 GiB".into(), "full".into()]);
        table.row(["größe".into(), "5 B".into(), "a\u{1b}[2J".into()]);
        let mut out = Vec::new();
        table.write(&mut out).expect("memory can be written");
        let text = String::from_utf8(out).expect("the table is text");
        let lines = [
            "NAME      SIZE  MODE",
            "vda    1.0 GiB  full",
            "größe      5 B  a\u{fffd}[2J",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        assert_eq!(printable("a\r\nb\tc".into()), "a b c");
        assert_eq!(visible("a\nb"), "a\u{fffd}b");
    }
}
