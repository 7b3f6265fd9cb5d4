//! How people name a snapshot, and which snapshot they mean by it.
//!
//! A bare name of hexadecimal digits may be an id or a VM. Both are looked for, and a name that
//! fits both is ambiguous rather than silently the one or the other.

use std::fmt;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::newest::{Candidates, Loss, LostSnapshot, SnapshotSummary};
use crate::id::SnapshotId;

/// Fewest digits of an id that are taken for one. Three would collide by chance in a hundred
/// snapshots.
pub const ID_PREFIX_LEN_MIN: usize = 4;

/// The moment that means the newest snapshot.
pub const LATEST: &str = "latest";

/// A snapshot as someone named it: `ID`, `VM`, `VM@latest`, `VM@ID` or `VM@DATE[THH[:MM]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRef {
    text: String,
    selector: Selector,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Selector {
    /// Hexadecimal digits without a VM: the beginning of an id, or a VM of that name.
    IdOrVm(String),
    /// The latest of a VM.
    Latest { vm: String },
    /// The beginning of an id, among those of a VM.
    IdOfVm { vm: String, prefix: String },
    /// The latest of a VM taken before a moment.
    Before { vm: String, end: Timestamp },
}

/// Why a text does not name a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRefError {
    /// There is no VM in it.
    #[error("`{text}` names no VM and no snapshot")]
    NoVm {
        /// The text.
        text: String,
    },
    /// The part after the `@` begins an id, but is too short to be trusted.
    #[error(
        "`{prefix}` is too short for the beginning of an id (at least {ID_PREFIX_LEN_MIN} digits)"
    )]
    ShortPrefix {
        /// The digits.
        prefix: String,
    },
    /// The part after the `@` is none of the forms.
    #[error("`{moment}` is not `latest`, the beginning of an id, or a date like 2026-11-20T08:30")]
    BadMoment {
        /// The part after the `@`.
        moment: String,
    },
}

/// Why a reference leads to no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No snapshot fits.
    #[error("there is no snapshot `{reference}`")]
    NoSuch {
        /// The reference as it was written.
        reference: String,
    },
    /// More than one snapshot fits.
    #[error("`{reference}` fits {count} snapshots", count = candidates.len())]
    Ambiguous {
        /// The reference as it was written.
        reference: String,
        /// Those that fit, in the order of their ids.
        candidates: Vec<SnapshotId>,
    },
    /// The latest is asked for, and may be one that is lost.
    #[error("`{reference}` may mean snapshot {}, which is damaged or gone", lost[0].id.short())]
    InDoubt {
        /// The reference as it was written.
        reference: String,
        /// Those that may be meant; at least one.
        lost: Vec<LostSnapshot>,
        /// What would be meant without them.
        older: Option<SnapshotId>,
    },
}

impl SnapshotRef {
    /// Reads a reference. Dates are days, hours and minutes in `zone`, each to its end:
    /// `2026-11-20` takes in all of that day.
    ///
    /// The last `@` divides, so that a VM whose own name has one can be named as `NAME@latest`.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, ParseRefError> {
        let selector = match text.rsplit_once('@') {
            None if text.is_empty() => return Err(no_vm(text)),
            None if is_id_prefix(text) => Selector::IdOrVm(text.to_owned()),
            None => Selector::Latest {
                vm: text.to_owned(),
            },
            Some(("", _)) => return Err(no_vm(text)),
            Some((vm, moment)) => parse_moment(vm, moment, zone)?,
        };
        Ok(Self {
            text: text.to_owned(),
            selector,
        })
    }

    /// Returns the snapshot that is meant.
    pub fn resolve(&self, among: &Candidates) -> Result<SnapshotId, ResolveError> {
        let mut found = match &self.selector {
            Selector::IdOrVm(name) => {
                let mut found = by_prefix(among, name, None);
                found.extend(self.newest(among, name, None)?);
                found
            }
            Selector::Latest { vm } => self.newest(among, vm, None)?.into_iter().collect(),
            Selector::IdOfVm { vm, prefix } => by_prefix(among, prefix, Some(vm)),
            Selector::Before { vm, end } => {
                self.newest(among, vm, Some(*end))?.into_iter().collect()
            }
        };
        found.sort_unstable();
        found.dedup();
        match *found.as_slice() {
            [] => Err(ResolveError::NoSuch {
                reference: self.text.clone(),
            }),
            [id] => Ok(id),
            _ => Err(ResolveError::Ambiguous {
                reference: self.text.clone(),
                candidates: found,
            }),
        }
    }

    /// Returns the newest snapshot of a VM, of those dated before a moment where one is given.
    fn newest(
        &self,
        among: &Candidates,
        vm: &str,
        before: Option<Timestamp>,
    ) -> Result<Option<SnapshotId>, ResolveError> {
        let newest = among.newest(vm, before);
        let lost = among.in_doubt(vm, before, newest);
        let newest = newest.map(|snapshot| snapshot.id);
        match lost.is_empty() {
            true => Ok(newest),
            false => Err(ResolveError::InDoubt {
                reference: self.text.clone(),
                lost,
                older: newest,
            }),
        }
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn no_vm(text: &str) -> ParseRefError {
    ParseRefError::NoVm {
        text: text.to_owned(),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_id_prefix(text: &str) -> bool {
    (ID_PREFIX_LEN_MIN..=2 * SnapshotId::LEN).contains(&text.len()) && is_hex(text)
}

fn parse_moment(vm: &str, moment: &str, zone: &TimeZone) -> Result<Selector, ParseRefError> {
    let vm = vm.to_owned();
    if moment == LATEST {
        return Ok(Selector::Latest { vm });
    }
    if is_id_prefix(moment) {
        return Ok(Selector::IdOfVm {
            vm,
            prefix: moment.to_owned(),
        });
    }
    if !moment.is_empty() && moment.len() < ID_PREFIX_LEN_MIN && is_hex(moment) {
        return Err(ParseRefError::ShortPrefix {
            prefix: moment.to_owned(),
        });
    }
    let end = end_of(moment, zone).ok_or_else(|| ParseRefError::BadMoment {
        moment: moment.to_owned(),
    })?;
    Ok(Selector::Before { vm, end })
}

/// Returns the first moment after the day, hour, minute or second that `text` names, or after the
/// exact moment, as documents have it.
fn end_of(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if text.ends_with('Z') {
        let exact: Timestamp = text.parse().ok()?;
        return exact.checked_add(1.nanosecond()).ok();
    }
    let (date, time) = match text.split_once(['T', ' ']) {
        None => (text, None),
        Some((date, time)) => (date, Some(time)),
    };
    // Fixed widths keep what jiff would also read (signs, week dates, seconds) out of the grammar.
    let [4, 2, 2] = *date.split('-').map(digits).collect::<Option<Vec<_>>>()? else {
        return None;
    };
    let date: jiff::civil::Date = date.parse().ok()?;
    let end = match time {
        None => date.tomorrow().ok()?.to_datetime(Time::midnight()),
        Some(time) => end_of_time(date, time)?,
    };
    // Where the clock is set back an hour comes twice; what is not after it includes both.
    zone.to_ambiguous_timestamp(end).later().ok()
}

fn end_of_time(date: jiff::civil::Date, time: &str) -> Option<DateTime> {
    let mut fields = time.split(':');
    let (hour, minute, second) = (fields.next()?, fields.next(), fields.next());
    if fields.next().is_some() {
        return None;
    }
    let field = |text: &str| {
        (digits(text) == Some(2))
            .then(|| text.parse::<i8>().ok())
            .flatten()
    };
    let hour = field(hour)?;
    let step = match (minute, second) {
        (_, Some(_)) => 1.second(),
        (Some(_), None) => 1.minute(),
        (None, None) => 1.hour(),
    };
    let minute = minute.map_or(Some(0), field)?;
    let second = second.map_or(Some(0), field)?;
    let start = Time::new(hour, minute, second, 0).ok()?;
    date.to_datetime(start).checked_add(step).ok()
}

/// Returns how many digits a text has if it has nothing else.
fn digits(text: &str) -> Option<usize> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(text.len())
}

/// Returns those whose id begins so, of one VM or of all. Lost ones count where others are found:
/// the digits that were typed may be theirs.
fn by_prefix(among: &Candidates, prefix: &str, vm: Option<&str>) -> Vec<SnapshotId> {
    let fits = |id: SnapshotId, of: Option<&str>| {
        let is_of_vm = vm.zip(of).is_none_or(|(vm, of)| vm == of);
        is_of_vm && id.to_hex().starts_with(prefix)
    };
    let is_meant = |snapshot: &&SnapshotSummary| fits(snapshot.id, Some(&snapshot.vm));
    let snapshots = among.snapshots.iter().filter(is_meant);
    let mut found: Vec<SnapshotId> = snapshots.map(|snapshot| snapshot.id).collect();
    if !found.is_empty() {
        let is_meant = |lost: &&LostSnapshot| {
            let vm = lost.known.as_ref().map(|known| &*known.vm);
            lost.loss != Loss::Gone && fits(lost.id, vm)
        };
        found.extend(among.lost.iter().filter(is_meant).map(|lost| lost.id));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: u8, vm: &str, time: &str) -> SnapshotSummary {
        SnapshotSummary {
            id: SnapshotId::from_bytes([id; 32]),
            vm: vm.to_owned(),
            time: time.parse().expect("times of the tests are well-formed"),
            ordinal: 0,
            parent: None,
            domain: None,
        }
    }

    /// Ids 01.., 02.. and so on; `abab` is a VM whose name is the beginning of another's snapshot.
    fn history() -> Candidates {
        let snapshots = vec![
            snapshot(0x03, "web1", "2026-11-20T08:30:59Z"),
            snapshot(0x01, "web1", "2026-11-19T23:59:59Z"),
            snapshot(0x02, "web1", "2026-11-20T08:29:00Z"),
            snapshot(0x04, "web1", "2026-11-21T00:00:00Z"),
            snapshot(0x05, "db@east", "2026-11-01T00:00:00Z"),
            snapshot(0xab, "db@east", "2026-10-01T00:00:00Z"),
            snapshot(0x06, "abab", "2026-11-01T00:00:00Z"),
            snapshot(0x07, "cafe", "2026-11-01T00:00:00Z"),
        ];
        Candidates {
            snapshots,
            ..Candidates::default()
        }
    }

    fn resolve_in(text: &str, zone: &TimeZone) -> Result<u8, ResolveError> {
        let reference = SnapshotRef::parse(text, zone).expect("the reference parses");
        assert_eq!(reference.to_string(), text);
        Ok(reference.resolve(&history())?.as_bytes()[0])
    }

    fn resolve(text: &str) -> Result<u8, ResolveError> {
        resolve_in(text, &TimeZone::UTC)
    }

    fn no_such(text: &str) -> Result<u8, ResolveError> {
        Err(ResolveError::NoSuch {
            reference: text.to_owned(),
        })
    }

    #[test]
    fn a_vm_means_its_latest() {
        assert_eq!(resolve("web1"), Ok(4));
        assert_eq!(resolve("web1@latest"), Ok(4));
        assert_eq!(resolve("db@east@latest"), Ok(5));
        assert_eq!(resolve("web2"), no_such("web2"));
        assert_eq!(resolve("web"), no_such("web"));
    }

    #[test]
    fn an_id_may_be_cut_to_four_digits() {
        assert_eq!(resolve("0101"), Ok(1));
        assert_eq!(resolve(&"02".repeat(32)), Ok(2));
        assert_eq!(resolve("0102"), no_such("0102"));
        assert_eq!(
            resolve("010"),
            no_such("010"),
            "three digits are the name of a VM"
        );
        assert_eq!(resolve("web1@0202"), Ok(2));
        assert_eq!(
            resolve("web1@0505"),
            no_such("web1@0505"),
            "another VM's snapshot"
        );
    }

    #[test]
    fn a_name_that_fits_an_id_and_a_vm_is_ambiguous() {
        assert_eq!(resolve("cafe"), Ok(7), "no id begins so");
        let candidates = [0x06, 0xab]
            .map(|id| SnapshotId::from_bytes([id; 32]))
            .to_vec();
        let reference = "abab".to_owned();
        assert_eq!(
            resolve("abab"),
            Err(ResolveError::Ambiguous {
                reference,
                candidates
            })
        );
        assert_eq!(resolve("abab@latest"), Ok(6));
        assert_eq!(resolve("ababab"), Ok(0xab));
    }

    #[test]
    fn ids_that_begin_alike_are_ambiguous() {
        let mut alike = history();
        let mut bytes = [1; 32];
        bytes[31] = 2;
        alike.snapshots[0].id = SnapshotId::from_bytes(bytes);
        let reference = SnapshotRef::parse("0101", &TimeZone::UTC).expect("the reference parses");
        let candidates = vec![SnapshotId::from_bytes([1; 32]), alike.snapshots[0].id];
        let text = "0101".to_owned();
        let ambiguous = ResolveError::Ambiguous {
            reference: text,
            candidates,
        };
        assert_eq!(reference.resolve(&alike), Err(ambiguous));
    }

    #[test]
    fn a_lost_snapshot_that_may_be_the_latest_is_no_older_one() {
        let mut among = history();
        let id = SnapshotId::from_bytes([0x99; 32]);
        among.lost.push(LostSnapshot {
            id,
            loss: Loss::Unreadable,
            known: None,
        });
        let resolve = |among: &Candidates, text: &str| {
            let reference = SnapshotRef::parse(text, &TimeZone::UTC).expect("it parses");
            reference.resolve(among).map(|id| id.as_bytes()[0])
        };
        for text in [
            "web1",
            "web1@latest",
            "web1@2026-11-20",
            "cafe",
            "db@east@latest",
        ] {
            let refused = resolve(&among, text);
            assert!(
                matches!(&refused, Err(ResolveError::InDoubt { lost, older: Some(_), .. })
                    if lost[0].id == id),
                "{text}: {refused:?}"
            );
        }
        assert_eq!(resolve(&among, "web1@0404"), Ok(4));
        assert_eq!(resolve(&among, "0202"), Ok(2));
        assert_eq!(resolve(&among, "web9"), no_such("web9"));
        let mut bytes = [4; 32];
        bytes[31] = 9;
        among.lost[0].id = SnapshotId::from_bytes(bytes);
        let both = resolve(&among, "0404");
        assert!(
            matches!(both, Err(ResolveError::Ambiguous { .. })),
            "{both:?}"
        );
    }

    #[test]
    fn a_date_takes_in_all_that_it_names() {
        assert_eq!(resolve("web1@2026-11-19"), Ok(1));
        assert_eq!(resolve("web1@2026-11-20"), Ok(3));
        assert_eq!(resolve("web1@2026-11-20T08"), Ok(3));
        assert_eq!(resolve("web1@2026-11-20T08:29"), Ok(2));
        assert_eq!(resolve("web1@2026-11-20T08:28"), Ok(1));
        assert_eq!(resolve("web1@2026-11-20T08:30"), Ok(3));
        assert_eq!(resolve("web1@2026-11-20T23"), Ok(3));
        // As times are printed, which cuts what is less than a second, and as documents have them.
        assert_eq!(resolve("web1@2026-11-20 08:30:59"), Ok(3));
        assert_eq!(resolve("web1@2026-11-20T08:30:58"), Ok(2));
        assert_eq!(resolve("web1@2026-11-20 08:29"), Ok(2));
        assert_eq!(resolve("web1@2026-11-20T08:30:59Z"), Ok(3));
        assert_eq!(resolve("web1@2026-11-20T08:30:58.999999999Z"), Ok(2));
        assert_eq!(resolve("web1@2030-01-01"), Ok(4));
        assert_eq!(resolve("web1@2026-11-18"), no_such("web1@2026-11-18"));
    }

    #[test]
    fn a_date_is_one_of_the_zone() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the rule parses");
        // There the day ends an hour earlier, and the last snapshot falls on the next day.
        assert_eq!(
            resolve_in("web1@2026-11-19", &berlin),
            no_such("web1@2026-11-19")
        );
        assert_eq!(resolve_in("web1@2026-11-20T00", &berlin), Ok(1));
        assert_eq!(resolve_in("web1@2026-11-20T09:29", &berlin), Ok(2));
    }

    #[test]
    fn an_hour_that_comes_twice_is_taken_to_its_second_end() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the rule parses");
        let end = |text: &str| {
            end_of(text, &berlin)
                .expect("the date is valid")
                .to_string()
        };
        assert_eq!(end("2026-10-25T02:10"), "2026-10-25T01:11:00Z");
        assert_eq!(end("2026-10-25T01"), "2026-10-25T01:00:00Z");
        // 02:10 is left out in spring, and read as ten past the hour that is left out.
        assert_eq!(end("2026-03-29T02:10"), "2026-03-29T01:11:00Z");
    }

    #[test]
    fn other_texts_are_refused() {
        let parse = |text: &str| SnapshotRef::parse(text, &TimeZone::UTC);
        for text in ["", "@latest", "@"] {
            assert_eq!(
                parse(text),
                Err(ParseRefError::NoVm {
                    text: text.to_owned()
                })
            );
        }
        for prefix in ["0", "abc"] {
            let short = ParseRefError::ShortPrefix {
                prefix: prefix.to_owned(),
            };
            assert_eq!(parse(&format!("web1@{prefix}")), Err(short));
        }
        for moment in [
            "",
            "Latest",
            "ABCD",
            "2026-11",
            "2026-13-01",
            "2026-02-30",
            "2026-11-20T",
            "2026-11-20T8",
            "2026-11-20T24",
            "2026-11-20T08:60",
            "2026-11-20T08:30:61",
            "2026-11-20T08:30:00:00",
            "2026-11-20T08:30:0",
            "2026-11-20T08::00",
            "2026-11-20T08:30:00.5",
            "2026-11-20t08",
            "2026-11-20  08",
            "Z",
            "+002026-11-20",
            "-2026-11-20",
            "9999-12-31",
            &"0".repeat(65),
        ] {
            let bad = ParseRefError::BadMoment {
                moment: moment.to_owned(),
            };
            assert_eq!(parse(&format!("web1@{moment}")), Err(bad), "{moment}");
        }
    }
}
