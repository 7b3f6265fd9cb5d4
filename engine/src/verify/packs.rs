//! What packs really hold: footers, and every frame's every byte where data is verified.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::parity::parity;
use super::report::{FaultKind, Findings, VerifyReport, describe};
use super::stream::Stream;
use super::turn::Turn;
use super::{VerifyError, VerifyOptions};
use crate::compress::Decompressor;
use crate::format::pack::PackHeader;
use crate::id::{ContentId, PackId};
use crate::index::PackPrefix;
use crate::pack::{PackError, PackReader, ParityState, read_footer};
use crate::pool;
use crate::progress::Progress;
use crate::repository::{Condition, Contents, RepositoryError};
use crate::storage::Name;

/// Faults of one pack that are told; of the others the number is.
const FAULTS_TOLD_MAX: usize = 3;

/// What was found in one pack.
#[derive(Default)]
pub(crate) struct PackFindings {
    /// It is not there.
    pub(crate) is_gone: bool,
    /// Nothing in it can be read, for this reason.
    pub(crate) unreadable: Option<PackError>,
    /// The first few of its faults, and the number of all.
    pub(crate) told: Vec<String>,
    pub(crate) faults: usize,
    /// Contents that cannot be decoded or do not match their ids.
    pub(crate) bad_contents: Vec<ContentId>,
    is_read: bool,
    /// Entries that the index knows nowhere.
    unindexed: usize,
    /// Entries that the index knows elsewhere in this pack.
    misplaced: usize,
    pub(crate) checked_bytes: u64,
    checked_contents: u64,
    /// What is known of its parity, where it should have any.
    parity: Option<ParityState>,
}

impl PackFindings {
    /// Returns whether nothing is wrong with the pack and its parity, as far as they were looked
    /// at.
    fn is_whole(&self) -> bool {
        self.condition() == Condition::Whole
    }

    /// Returns what looking at it showed. Where its parity alone is damaged, nothing that lies in
    /// it is in doubt.
    fn condition(&self) -> Condition {
        let has_bad = self.faults > 0 || !self.bad_contents.is_empty();
        match self.parity {
            _ if self.is_gone || self.unreadable.is_some() || has_bad => Condition::Damaged,
            Some(ParityState::Damaged(_)) => Condition::BadParity,
            _ => Condition::Whole,
        }
    }

    /// Returns whether it should have parity, and has none that is whole.
    pub(crate) fn lacks_parity(&self) -> bool {
        let parity = self.parity.as_ref();
        !self.is_gone && parity.is_some_and(|parity| *parity != ParityState::Whole)
    }

    fn fault(&mut self, message: impl FnOnce() -> String) {
        self.faults += 1;
        if self.told.len() < FAULTS_TOLD_MAX {
            self.told.push(message());
        }
    }
}

/// What was found in some packs.
#[derive(Default)]
pub(super) struct Found(BTreeMap<PackId, PackFindings>);

impl Found {
    /// Returns whether anything is wrong with any of them.
    pub(super) fn has_faults(&self) -> bool {
        self.0.values().any(|found| !found.is_whole())
    }

    /// Returns how many packs were looked at.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds what was found later, which replaces what was found before.
    pub(super) fn extend(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// Returns whether nothing of a pack can be read.
    pub(super) fn is_lost(&self, pack: PackId) -> bool {
        let found = self.0.get(&pack);
        found.is_some_and(|found| found.is_gone || found.unreadable.is_some())
    }

    /// Makes faults of what is wrong.
    pub(super) fn add(&self, contents: &Contents, findings: &mut Findings) {
        self.add_index(contents, findings);
        for (pack, result) in &self.0 {
            add(findings, *pack, result);
        }
    }

    /// Adds one fault for all that is wrong with the index.
    pub(super) fn add_index(&self, contents: &Contents, findings: &mut Findings) {
        let lacks: usize = self.0.values().map(|pack| pack.unindexed).sum();
        let misplaced: usize = self.0.values().map(|pack| pack.misplaced).sum();
        if lacks + misplaced == 0 {
            return;
        }
        let folder = contents.repository().index_folder().display();
        let message = format!(
            "it lacks {lacks} entries of packs, and {misplaced} are wrong; no data is hurt, \
             and deleting {folder} heals it"
        );
        findings.add("index".to_owned(), FaultKind::Index, message);
    }

    /// Counts what was looked at, all of it anew.
    pub(super) fn count(&self, report: &mut VerifyReport) {
        (report.packs, report.checked_bytes, report.checked_contents) = (0, 0, 0);
        report.without_parity = 0;
        for found in self.0.values().filter(|found| !found.is_gone) {
            report.packs += 1;
            report.checked_bytes += found.checked_bytes;
            report.checked_contents += found.checked_contents;
            report.without_parity += u64::from(found.parity == Some(ParityState::Missing));
        }
    }
}

/// How much of packs is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Footers, whether the index knows what they list, and data for as many as are asked for.
    Everything,
    /// All but data, as far as half of the time allows.
    Footers,
    /// Packs whose data is read, in their order, until the time is over.
    Data,
}

/// Checks packs in the order given.
pub(super) fn check(
    contents: &Contents,
    packs: &[PackId],
    part: Part,
    options: &VerifyOptions<'_>,
    turn: &Turn,
) -> Result<Found, VerifyError> {
    let is_sampled = |_: &PackId| part != Part::Footers && is_sampled(options);
    let packs = packs.iter().map(|pack| (*pack, is_sampled(pack)));
    let packs: Vec<(PackId, bool)> = packs.collect();
    for (pack, _) in packs.iter().filter(|(_, with_data)| *with_data) {
        Progress::add(&options.progress.total_bytes, turn.len(*pack));
    }
    let found = Mutex::new(Found::default());
    let until = turn.half().filter(|_| part == Part::Footers);
    pool::for_each(options.threads, "verify", packs.into_iter().map(Ok), || {
        let mut checker = Checker::new(contents, options);
        let found = &found;
        move |(pack, with_data)| {
            let _leave = match part {
                Part::Everything => None,
                Part::Footers if until.is_some_and(|until| Instant::now() >= until) => {
                    return Ok(());
                }
                Part::Footers => None,
                Part::Data if !with_data => return Ok(()),
                Part::Data => match turn.take() {
                    None => return Ok(()),
                    leave => leave,
                },
            };
            let result = checker.pack(pack, with_data)?;
            match result.is_read {
                true => turn.read(pack, result.condition()),
                false if !result.is_whole() => turn.damaged(pack),
                false => {}
            }
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0.insert(pack, result);
            Ok::<(), VerifyError>(())
        }
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn is_sampled(options: &VerifyOptions<'_>) -> bool {
    if options.metadata_only {
        return false;
    }
    let mut random = [0; 4];
    // Without random numbers everything is read, which errs on the side of care.
    options.sample_percent >= 100.0
        || getrandom::fill(&mut random).is_err()
        || f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX) * 100.0
            < options.sample_percent
}

fn add(findings: &mut Findings, pack: PackId, result: &PackFindings) {
    if result.is_gone {
        // A collection may have taken it. Whether someone needed it shows in the recipes.
        findings.gone_packs.insert(pack);
        return;
    }
    findings.report.packs += 1;
    findings.report.checked_bytes += result.checked_bytes;
    findings.report.checked_contents += result.checked_contents;
    if let Some(state) = &result.parity {
        findings.parity(pack, state);
    }
    if let Some(error) = &result.unreadable {
        findings.pack(pack, FaultKind::Pack, &describe(error));
        findings.bad_packs.insert(pack);
        return;
    }
    if result.is_read {
        findings.read_packs.insert(pack);
    }
    if result.faults > 0 {
        let untold = result.faults - result.told.len();
        let mut told = result.told.join("; ");
        if untold > 0 {
            told.push_str(&format!("; and {untold} more"));
        }
        findings.pack(pack, FaultKind::Content, &told);
    }
    let bad = result.bad_contents.iter().map(|id| (*id, pack));
    findings.bad_copies.extend(bad);
}

/// One thread's tools.
pub(crate) struct Checker<'v> {
    contents: &'v Contents,
    options: &'v VerifyOptions<'v>,
    decompressor: Decompressor,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

impl<'v> Checker<'v> {
    pub(crate) fn new(contents: &'v Contents, options: &'v VerifyOptions<'v>) -> Self {
        let (stored, plain) = (Vec::new(), Vec::new());
        Self {
            contents,
            options,
            decompressor: Decompressor::new(),
            stored,
            plain,
        }
    }

    /// Looks at one pack: at its footer and the index, and at all of its bytes if asked.
    pub(crate) fn pack(
        &mut self,
        pack: PackId,
        with_data: bool,
    ) -> Result<PackFindings, VerifyError> {
        if self.options.cancel.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        let repository = self.contents.repository();
        let mut found = PackFindings::default();
        let mut checks = None;
        match read_footer(repository.storage(), repository.keys(), pack) {
            Ok(reader) => {
                self.index(&reader, &mut found)?;
                if with_data {
                    checks = self.data(&reader, &mut found)?;
                }
            }
            Err(error) if error.is_gone() => found.is_gone = true,
            Err(error) if error.is_shortage() => return Err(RepositoryError::from(error).into()),
            // A pack that says of itself that it is newer is believed if its name is right.
            Err(error) if error.is_unsupported() && self.is_named_right(pack) => {
                return Err(RepositoryError::from(error).into());
            }
            Err(error) => found.unreadable = Some(error),
        }
        let percent = repository.config().parity_percent;
        if let Some(percent) = percent.filter(|_| with_data && !found.is_gone) {
            let checks = checks.as_ref().filter(|_| found.is_whole());
            found.parity = Some(parity(repository.storage(), pack, percent, checks)?);
        }
        Ok(found)
    }

    /// Compares what the index says with the footer: past whatever else answers look-ups.
    fn index(&self, reader: &PackReader, found: &mut PackFindings) -> Result<(), VerifyError> {
        let (index, prefix) = (self.contents.index(), PackPrefix::of(reader.id()));
        if index.pack(prefix) != Some(reader.id()) {
            // The index leaves packs out that it cannot tell apart.
            return Ok(());
        }
        let entries = &reader.footer().entries;
        let ids: Vec<ContentId> = entries.iter().map(|entry| entry.id).collect();
        let places = index.find(&ids).map_err(RepositoryError::from)?;
        for (id, place) in ids.iter().zip(places) {
            match place {
                None => found.unindexed += 1,
                Some(place) if place.pack != prefix => {}
                Some(place) => {
                    let at = reader.slot_range(&place, *id);
                    if at.is_none_or(|at| at.len() != place.len as usize) {
                        found.misplaced += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads a pack from end to end: hashes the file, decodes the frames, hashes the contents.
    /// Returns the checks of its blocks, where it should have parity.
    fn data(
        &mut self,
        reader: &PackReader,
        found: &mut PackFindings,
    ) -> Result<Option<(u64, Vec<u64>)>, VerifyError> {
        let repository = self.contents.repository();
        let mut stream = Stream::new(repository.storage(), reader.id(), self.options.progress);
        if repository.config().parity_percent.is_some() {
            stream = stream.with_checks(reader.id());
        }
        let header = stream.read(&mut self.stored, PackHeader::LEN as u64);
        note(found, header)?;
        for (frame, entry) in reader.footer().frames.iter().enumerate() {
            if self.options.cancel.is_cancelled() {
                return Err(VerifyError::Cancelled);
            }
            let frame = u32::try_from(frame).expect("checked against PACK_FRAMES_MAX");
            let end = entry.offset + u64::from(entry.stored_len);
            let (stored, plain) = (&mut self.stored, &mut self.plain);
            let decoded = stream
                .read(stored, end)
                .and_then(|()| reader.decode_frame(frame, stored, &mut self.decompressor, plain))
                .map(|_| ());
            match note(found, decoded)? {
                true => self.contents(reader, frame, found),
                false => {
                    let contents = reader.footer().frame_entries(entry).iter();
                    found
                        .bad_contents
                        .extend(contents.map(|content| content.id));
                }
            }
        }
        // Footer and trailer; their own hash was checked when the footer was read.
        let footer = stream.read(&mut self.stored, reader.stored_len());
        note(found, footer)?;
        found.checked_bytes = stream.read_bytes();
        found.is_read = true;
        if found.faults == 0 && !stream.has_name(reader.id()) {
            found.fault(|| "its bytes do not have the hash that is its name".to_owned());
        }
        Ok(stream.checks())
    }

    /// Compares the contents of the frame that was decoded last with their ids.
    fn contents(&self, reader: &PackReader, frame: u32, found: &mut PackFindings) {
        let keys = self.contents.repository().keys();
        let entry = reader.frame(frame).expect("it was decoded");
        let mut rest = self.plain.as_slice();
        for content in reader.footer().frame_entries(entry) {
            let (bytes, tail) = rest.split_at(content.len as usize);
            if keys.content_id(reader.header().kind, bytes) != content.id {
                let (pack, content) = (reader.id(), content.id);
                let damage = PackError::DamagedContent {
                    pack,
                    frame,
                    content,
                };
                found.fault(|| describe(&damage));
                found.bad_contents.push(content);
            }
            found.checked_contents += 1;
            rest = tail;
        }
    }

    /// Returns whether a pack's bytes can be read and have the hash that is its name.
    fn is_named_right(&mut self, pack: PackId) -> bool {
        let storage = self.contents.repository().storage();
        let mut stream = Stream::new(storage, pack, self.options.progress);
        let len = storage.len(&Name::Pack(pack));
        len.is_ok_and(|len| stream.read_all(&mut self.stored, len).is_ok() && stream.has_name(pack))
    }
}

/// Notes a failure to read or decode a part as a fault of the pack. Returns whether there was none.
fn note(found: &mut PackFindings, result: Result<(), PackError>) -> Result<bool, VerifyError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_shortage() => Err(RepositoryError::from(error).into()),
        Err(error) if error.is_gone() => {
            found.is_gone = true;
            Ok(false)
        }
        Err(error) => {
            found.fault(|| describe(&error));
            Ok(false)
        }
    }
}
