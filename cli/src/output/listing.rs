//! Files of a guest, listed as they are found: a listing may be longer than memory.

use std::io::{self, Write};

use cairn_engine::guest::tree::{FileKind, FileTime, Stat};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::files::shown;

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One name on each line.
    Names,
    /// With what is known of each file.
    Long,
    /// As one JSON document.
    Json,
}

/// One file. What is not known is left out.
#[derive(Debug)]
pub struct Entry<'e> {
    /// What the text shows.
    pub name: &'e [u8],
    /// The file system, as it is typed.
    pub place: &'e str,
    /// The path within it, from the top.
    pub path: &'e [u8],
    /// What is known of it.
    pub stat: &'e Stat,
    /// Where it points, if it is a symbolic link.
    pub target: Option<&'e [u8]>,
}

#[derive(Serialize)]
struct JsonEntry<'e> {
    place: &'e str,
    path: String,
    /// The path in hexadecimal digits, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: &'static str,
    size: u64,
    /// In octal digits, as people write it.
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    links: u32,
    /// Seconds since 1970, and nanoseconds.
    modified: (i64, u32),
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

/// A listing that is being written.
pub struct Listing<W: Write> {
    out: W,
    form: Form,
    zone: TimeZone,
    count: u64,
}

impl<W: Write> Listing<W> {
    /// Begins a listing of files of a snapshot.
    pub fn begin(mut out: W, form: Form, snapshot: &str) -> io::Result<Self> {
        if form == Form::Json {
            write!(out, "{{\n  \"snapshot\": \"{snapshot}\",\n  \"entries\": [")?;
        }
        Ok(Self {
            out,
            form,
            zone: TimeZone::system(),
            count: 0,
        })
    }

    /// Writes one file.
    pub fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.count += 1;
        match self.form {
            Form::Names => writeln!(self.out, "{}", shown(entry.name)),
            Form::Long => self.long(entry),
            Form::Json => {
                let comma = if self.count > 1 { "," } else { "" };
                write!(self.out, "{comma}\n    ")?;
                serde_json::to_writer(&mut self.out, &json(entry)).map_err(io::Error::from)
            }
        }
    }

    /// Ends the listing.
    pub fn finish(mut self, problems: u64) -> io::Result<()> {
        if self.form == Form::Json {
            let space = if self.count > 0 { "\n  " } else { "" };
            writeln!(self.out, "{space}],\n  \"problems\": {problems}\n}}")?;
        }
        self.out.flush()
    }

    fn long(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let Stat { links, size, .. } = *entry.stat;
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let size = match device(entry.stat.kind) {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => size.to_string(),
        };
        let owner = entry.stat.owner;
        let line = format!(
            "{} {links:>3} {:>5} {:>5} {size:>12} {} {}",
            mode(entry.stat),
            id(owner.map(|owner| owner.0)),
            id(owner.map(|owner| owner.1)),
            self.time(entry.stat.modified),
            shown(entry.name),
        );
        match entry.target {
            Some(target) => writeln!(self.out, "{line} -> {}", shown(target)),
            None => writeln!(self.out, "{line}"),
        }
    }

    fn time(&self, time: FileTime) -> String {
        match Timestamp::from_second(time.seconds) {
            Ok(moment) => {
                let moment = moment.to_zoned(self.zone.clone());
                moment.strftime("%Y-%m-%d %H:%M:%S").to_string()
            }
            Err(_) => time.seconds.to_string(),
        }
    }
}

fn device(kind: FileKind) -> Option<(u32, u32)> {
    match kind {
        FileKind::BlockDevice(number) | FileKind::CharDevice(number) => {
            Some((rustix::fs::major(number), rustix::fs::minor(number)))
        }
        _ => None,
    }
}

fn json<'e>(entry: &Entry<'e>) -> JsonEntry<'e> {
    let Entry { path, stat, .. } = *entry;
    let is_text = std::str::from_utf8(path).is_ok();
    JsonEntry {
        place: entry.place,
        path: String::from_utf8_lossy(path).into_owned(),
        path_hex: (!is_text).then(|| hex(path)),
        kind: kind(stat.kind).1,
        size: stat.size,
        mode: stat.mode.map(|mode| format!("{mode:04o}")),
        uid: stat.owner.map(|owner| owner.0),
        gid: stat.owner.map(|owner| owner.1),
        links: stat.links,
        modified: (stat.modified.seconds, stat.modified.nanoseconds),
        target: entry
            .target
            .map(|target| String::from_utf8_lossy(target).into_owned()),
        device: device(stat.kind),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the letter and the word for a kind.
fn kind(kind: FileKind) -> (char, &'static str) {
    match kind {
        FileKind::File => ('-', "file"),
        FileKind::Folder => ('d', "folder"),
        FileKind::Symlink => ('l', "symlink"),
        FileKind::BlockDevice(_) => ('b', "block device"),
        FileKind::CharDevice(_) => ('c', "character device"),
        FileKind::Fifo => ('p', "fifo"),
        FileKind::Socket => ('s', "socket"),
    }
}

/// Writes a mode as `ls` does.
fn mode(stat: &Stat) -> String {
    let mut text = String::from(kind(stat.kind).0);
    let Some(mode) = stat.mode else {
        return text + "?????????";
    };
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        let has = |bit| bits & bit != 0;
        text.push(if has(4) { 'r' } else { '-' });
        text.push(if has(2) { 'w' } else { '-' });
        text.push(match (mode & special != 0, has(1)) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(kind: FileKind, mode: u16) -> Stat {
        Stat {
            kind,
            mode: Some(mode),
            owner: Some((0, 1000)),
            size: 12,
            links: 2,
            modified: FileTime {
                seconds: 0,
                nanoseconds: 5,
            },
            accessed: None,
        }
    }

    #[test]
    fn modes_are_written_as_ls_does() {
        assert_eq!(mode(&stat(FileKind::File, 0o4755)), "-rwsr-xr-x");
        assert_eq!(mode(&stat(FileKind::Folder, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&stat(FileKind::Fifo, 0o2640)), "prw-r-S---");
        let mut unknown = stat(FileKind::File, 0);
        unknown.mode = None;
        assert_eq!(mode(&unknown), "-?????????");
    }

    #[test]
    fn a_listing_is_one_document() {
        let stat = stat(FileKind::Symlink, 0o777);
        for count in 0..3 {
            let mut out = Vec::new();
            let mut listing = Listing::begin(&mut out, Form::Json, "ab").expect("memory");
            for _ in 0..count {
                let entry = Entry {
                    name: b"x",
                    place: "vdap1",
                    path: b"/a\xff",
                    stat: &stat,
                    target: Some(b"t"),
                };
                listing.entry(&entry).expect("memory can be written");
            }
            listing.finish(7).expect("memory can be written");
            let found: serde_json::Value = serde_json::from_slice(&out).expect("it is JSON");
            assert_eq!(found["entries"].as_array().map(Vec::len), Some(count));
            assert_eq!(found["problems"], 7);
            if count > 0 {
                assert_eq!(found["entries"][0]["path_hex"], "2f61ff");
                assert_eq!(found["entries"][0]["mode"], "0777");
                assert_eq!(found["entries"][0]["target"], "t");
            }
        }
    }
}
