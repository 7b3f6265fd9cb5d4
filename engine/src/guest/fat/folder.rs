//! Folders: short names, and the long ones that stand before them.

use super::WHAT;
use super::geometry::Width;
use crate::guest::fields::{Fields, damaged, time};
use crate::guest::tree::{FileKind, FileTime, GuestError, Stat};

pub(super) const ENTRY_SIZE: usize = 32;

const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTE_LONG: u8 = 0x0f;

/// A long name has at most so many units of UTF-16.
const LONG_MAX: usize = 255;

/// What of code page 437 is beyond ASCII.
const CODE_PAGE_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»\
    ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// An entry of a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    fields: Fields<'a>,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing follows.
    End,
    /// Deleted, or the label of the volume.
    Nothing,
    /// A part of a long name.
    Long,
    /// A file or a folder.
    File,
}

impl<'a> Entry<'a> {
    /// Returns the view of the bytes of an entry.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            fields: Fields::new(WHAT, bytes),
        }
    }

    /// Returns what the entry is.
    pub fn meaning(&self) -> Result<Meaning, GuestError> {
        let attributes = self.fields.u8(11)?;
        Ok(match self.fields.u8(0)? {
            0 => Meaning::End,
            0xe5 => Meaning::Nothing,
            _ if attributes & 0x3f == ATTRIBUTE_LONG => Meaning::Long,
            _ if attributes & ATTRIBUTE_LABEL != 0 => Meaning::Nothing,
            _ => Meaning::File,
        })
    }

    /// Returns the first cluster; 0 where there is none.
    pub fn cluster(&self, width: Width) -> Result<u64, GuestError> {
        let low = u64::from(self.fields.le16(26)?);
        Ok(match width {
            // Where clusters have short numbers, systems keep things of their own there.
            Width::Bits12 | Width::Bits16 => low,
            Width::Bits32 => u64::from(self.fields.le16(20)?) << 16 | low,
        })
    }

    /// Returns what is known of the file.
    pub fn stat(&self) -> Result<Stat, GuestError> {
        let folder = self.fields.u8(11)? & ATTRIBUTE_FOLDER != 0;
        let size = if folder {
            0
        } else {
            u64::from(self.fields.le32(28)?)
        };
        let kind = if folder {
            FileKind::Folder
        } else {
            FileKind::File
        };
        Ok(Stat {
            kind,
            mode: None,
            owner: None,
            size,
            links: 1,
            modified: dos_time(self.fields.le16(24)?, self.fields.le16(22)?),
            accessed: Some(dos_time(self.fields.le16(18)?, 0)),
        })
    }

    /// Returns the short name, in lower case where the entry says so.
    fn short_name(&self) -> Result<Vec<u8>, GuestError> {
        let case = self.fields.u8(12)?;
        let mut base = self.fields.get(0, 8)?.to_vec();
        if let Some(first @ 0x05) = base.first_mut() {
            *first = 0xe5;
        }
        let mut name = Vec::new();
        push_part(&mut name, &base, case & 0x08 != 0);
        let extension = self.fields.get(8, 3)?;
        if extension.iter().any(|byte| *byte != b' ') {
            name.push(b'.');
            push_part(&mut name, extension, case & 0x10 != 0);
        }
        Ok(name)
    }

    fn short_sum(&self) -> Result<u8, GuestError> {
        let bytes = self.fields.get(0, 11)?;
        Ok(bytes
            .iter()
            .fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte)))
    }
}

fn push_part(name: &mut Vec<u8>, part: &[u8], lower: bool) {
    let end = part.iter().rposition(|byte| *byte != b' ');
    let held = part.get(..end.map_or(0, |end| end.saturating_add(1)));
    for byte in held.unwrap_or_default() {
        let beyond = usize::from(byte.saturating_sub(0x80));
        let character = if byte.is_ascii() {
            char::from(*byte)
        } else {
            CODE_PAGE_437.chars().nth(beyond).unwrap_or('_')
        };
        if lower {
            name.extend(character.to_lowercase().to_string().as_bytes());
        } else {
            name.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// A long name on its way: its parts come last first, before the short name.
#[derive(Debug, Default)]
pub(super) struct LongName {
    units: Vec<u16>,
    /// Number of the part that must come next; 0 where the short name must.
    expected: u8,
    sum: u8,
}

impl LongName {
    /// Takes a part. One out of order is dropped, with all before.
    pub fn take(&mut self, entry: &Entry<'_>) -> Result<(), GuestError> {
        const FIRST: u8 = 0x40;
        let (number, sum) = (entry.fields.u8(0)?, entry.fields.u8(13)?);
        let number_only = number & 0x3f;
        if number & FIRST != 0 && (1..=20).contains(&number_only) {
            self.units.clear();
            self.sum = sum;
        } else if number != self.expected || sum != self.sum || number == 0 {
            *self = Self::default();
            return Ok(());
        }
        self.expected = number_only.saturating_sub(1);
        let mut part = Vec::with_capacity(13);
        for (at, len) in [(1, 10), (14, 12), (28, 4)] {
            for pair in entry.fields.get(at, len)?.chunks_exact(2) {
                if let [low, high] = pair {
                    part.push(u16::from_le_bytes([*low, *high]));
                }
            }
        }
        part.append(&mut self.units);
        self.units = part;
        Ok(())
    }

    /// Returns the name of a file: the long one, if all of it came, else the short one.
    pub fn name_of(&mut self, entry: &Entry<'_>) -> Result<Vec<u8>, GuestError> {
        let long = std::mem::take(self);
        if long.units.is_empty() || long.expected != 0 || long.sum != entry.short_sum()? {
            return entry.short_name();
        }
        let units = long.units.iter().copied().take_while(|unit| *unit != 0);
        let units: Vec<u16> = units.collect();
        if units.len() > LONG_MAX {
            return Err(damaged(WHAT, "a name is too long"));
        }
        Ok(String::from_utf16_lossy(&units).into_bytes())
    }
}

/// Local time without a zone, taken as UTC.
fn dos_time(date: u16, clock: u16) -> FileTime {
    let (year, month, day) = (date >> 9, date >> 5 & 0xf, date & 0x1f);
    let year = i64::from(year).saturating_add(1980);
    let days = days_since_1970(year, i64::from(month.clamp(1, 12)), i64::from(day.max(1)));
    let (hour, minute, second) = (
        clock >> 11,
        clock >> 5 & 0x3f,
        (clock & 0x1f).saturating_mul(2),
    );
    let hours = days.saturating_mul(24).saturating_add(i64::from(hour));
    let minutes = hours.saturating_mul(60).saturating_add(i64::from(minute));
    time(
        minutes.saturating_mul(60).saturating_add(i64::from(second)),
        0,
    )
}

/// Days of the Gregorian calendar, for years from 1970 on.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // The year starts in March, so that the leap day is its last.
    let from_march = (month.saturating_add(9)) % 12;
    let year = if month <= 2 {
        year.saturating_sub(1)
    } else {
        year
    };
    let leaps = (year / 4)
        .saturating_sub(year / 100)
        .saturating_add(year / 400);
    let of_months = from_march.saturating_mul(153).saturating_add(2) / 5;
    year.saturating_mul(365)
        .saturating_add(leaps)
        .saturating_add(of_months)
        .saturating_add(day)
        .saturating_sub(719_469)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_the_calendar_has_them() {
        // By `date -u -d ... +%s`.
        let stamp = |y: u16, m: u16, d: u16| dos_time((y - 1980) << 9 | m << 5 | d, 0).seconds;
        assert_eq!(stamp(1980, 1, 1), 315_532_800);
        assert_eq!(stamp(2000, 2, 29), 951_782_400);
        assert_eq!(stamp(2024, 12, 31), 1_735_603_200);
        assert_eq!(stamp(2100, 3, 1), 4_107_542_400);
        assert_eq!(dos_time(0x21, 23 << 11 | 59 << 5 | 29).seconds, 315_619_198);
    }

    #[test]
    fn the_upper_half_of_a_cluster_counts_where_numbers_are_long() {
        let mut bytes = [0; ENTRY_SIZE];
        (bytes[20], bytes[26]) = (7, 5);
        let cluster = |width| Entry::new(&bytes).cluster(width).expect("it is whole");
        assert_eq!(cluster(Width::Bits12), 5);
        assert_eq!(cluster(Width::Bits16), 5);
        assert_eq!(cluster(Width::Bits32), 0x7_0005);
    }

    #[test]
    fn the_code_page_is_whole() {
        assert_eq!(CODE_PAGE_437.chars().count(), 128);
    }
}
