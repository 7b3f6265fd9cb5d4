//! Applies a policy to snapshots.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::lineage::out_of_order;
use super::policy::{Count, EmptyPolicyError, Policy, Rule};
use super::reason::Reason;
use crate::id::SnapshotId;
use crate::repository::Snapshot;

/// What is known of a snapshot that is decided upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<'s> {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its VM's name.
    pub vm: &'s str,
    /// UUID of the domain, where it was one: another domain of the same name is another VM.
    pub domain: Option<&'s str>,
    /// Its date.
    pub time: Timestamp,
    /// The snapshot that it was computed against.
    pub parent: Option<SnapshotId>,
    /// What the user says about it.
    pub tags: &'s BTreeMap<String, String>,
    /// Whether it is forgotten already: then it only tells in which order others were made.
    pub is_forgotten: bool,
    /// Whether it must not be forgotten.
    pub is_protected: bool,
    /// Whether a note of it is damaged, which may have said that.
    pub has_damaged_note: bool,
    /// What counts on it.
    pub pin: Option<&'s str>,
    /// Why it may be of less use than others, where that is known.
    pub flaw: Option<Flaw>,
}

/// Why a snapshot may be of less use than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It was tried, and the last time it was of no use.
    Disproved,
    /// It lacks a disk that the domain had, and that other snapshots of it have.
    Partial,
}

impl<'s> Candidate<'s> {
    /// Takes what there is to know from all snapshots of a repository.
    pub fn all(snapshots: &'s [Snapshot]) -> Vec<Self> {
        let vm = |snapshot: &'s Snapshot| {
            let uuid = snapshot
                .manifest
                .domain
                .as_ref()
                .map(|domain| &*domain.uuid);
            (&*snapshot.manifest.vm, uuid)
        };
        let mut disks: HashSet<((&str, Option<&str>), &str)> = HashSet::new();
        for snapshot in snapshots {
            let targets = snapshot.manifest.disks.iter();
            disks.extend(targets.map(|disk| (vm(snapshot), &*disk.target)));
        }
        let candidates = snapshots.iter().map(|snapshot| {
            let domain = snapshot.manifest.domain.as_ref();
            let mut left_out = domain.into_iter().flat_map(|domain| &domain.left_out);
            // Others have what it lacks, as against a drive that nobody ever reads.
            let is_partial = left_out.any(|out| disks.contains(&(vm(snapshot), &*out.target)));
            let mut candidate = Self::of(snapshot);
            candidate.flaw = candidate.flaw.or(is_partial.then_some(Flaw::Partial));
            candidate
        });
        candidates.collect()
    }

    fn of(snapshot: &'s Snapshot) -> Self {
        let (manifest, state) = (&snapshot.manifest, &snapshot.state);
        let is_disproved = state.proofs.last().is_some_and(|proof| !proof.passed);
        Self {
            id: snapshot.id,
            vm: &manifest.vm,
            domain: manifest.domain.as_ref().map(|domain| &*domain.uuid),
            time: manifest.time,
            parent: manifest.parent,
            tags: &manifest.tags,
            is_forgotten: state.forgotten.is_some(),
            is_protected: state.is_protected,
            has_damaged_note: state.has_damaged_note,
            pin: state.pins.first().map(String::as_str),
            flaw: is_disproved.then_some(Flaw::Disproved),
        }
    }
}

/// The moment, and where days begin.
#[derive(Debug, Clone)]
pub struct Clock {
    /// What the clock says.
    pub now: Timestamp,
    /// The time zone of hours, days, weeks, months and years.
    pub zone: TimeZone,
}

/// What is to become of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its date.
    pub time: Timestamp,
    /// Why: all that speaks for keeping it, or that nothing does.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// Returns whether the snapshot is kept.
    pub fn is_kept(&self) -> bool {
        self.reasons.iter().any(Reason::is_keeping)
    }
}

/// The snapshots among which a policy counts: those of one VM, or of one VM and one value of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<'s> {
    /// The VM's name.
    pub vm: &'s str,
    /// UUID of the domain, where it was one.
    pub domain: Option<&'s str>,
    /// The value of the tag that divides, where one does and they have it.
    pub tag: Option<&'s str>,
    /// The snapshots, oldest first.
    pub decisions: Vec<Decision>,
}

type GroupKey<'s> = (&'s str, Option<&'s str>, Option<&'s str>);

/// Decides which of `all` snapshots of a repository are kept; those that are not `wanted` are left
/// as they are, and count for nothing but the order in which others were made.
///
/// `divided_by` is the key of a tag whose values divide a VM's snapshots into groups of their own.
///
/// # Errors
///
/// A policy that would keep nothing.
pub fn decide<'s>(
    all: &[Candidate<'s>],
    policy: &Policy,
    divided_by: Option<&str>,
    clock: &Clock,
    wanted: impl Fn(&Candidate<'s>) -> bool,
) -> Result<Vec<Group<'s>>, EmptyPolicyError> {
    policy.check()?;
    let doubts = out_of_order(all);
    let mut groups: BTreeMap<GroupKey<'s>, Vec<&Candidate<'s>>> = BTreeMap::new();
    for snapshot in all.iter().filter(|snapshot| !snapshot.is_forgotten) {
        if wanted(snapshot) {
            let tag = divided_by.and_then(|key| snapshot.tags.get(key));
            let key = (snapshot.vm, snapshot.domain, tag.map(String::as_str));
            groups.entry(key).or_default().push(snapshot);
        }
    }
    let decided = groups.into_iter().map(|((vm, domain, tag), snapshots)| {
        let mut decisions = decide_group(snapshots, policy, &doubts, clock);
        decisions.reverse();
        Group {
            vm,
            domain,
            tag,
            decisions,
        }
    });
    Ok(decided.collect())
}

/// Decides over one group. Returns its snapshots newest first.
fn decide_group(
    mut snapshots: Vec<&Candidate<'_>>,
    policy: &Policy,
    doubts: &HashMap<SnapshotId, SnapshotId>,
    clock: &Clock,
) -> Vec<Decision> {
    snapshots.sort_by_key(|snapshot| Reverse((snapshot.time, snapshot.id)));
    // What is flawed is counted apart: it takes no place of a good one, and gets as many.
    let (mut rules, mut flawed) = (Rules::new(policy, clock), Rules::new(policy, clock));
    let mut decisions: Vec<Decision> = Vec::with_capacity(snapshots.len());
    for snapshot in &snapshots {
        // What is kept anyway takes no place of another's.
        let mut reasons = set_aside(snapshot, doubts, clock);
        if reasons.is_empty() {
            reasons = match snapshot.flaw {
                None => rules.reasons(snapshot),
                Some(_) => flawed.reasons(snapshot),
            };
        }
        if let Some(flaw) = snapshot.flaw {
            reasons.push(Reason::Flawed(flaw));
        }
        decisions.push(Decision {
            id: snapshot.id,
            time: snapshot.time,
            reasons,
        });
    }
    let good = snapshots
        .iter()
        .position(|snapshot| snapshot.flaw.is_none());
    if decisions.iter().all(|decision| !decision.is_kept())
        && let Some(newest) = decisions.get_mut(good.unwrap_or_default())
    {
        newest.reasons.insert(0, Reason::Newest);
    }
    for decision in decisions.iter_mut().filter(|decision| !decision.is_kept()) {
        decision.reasons.insert(0, Reason::NoRule);
    }
    decisions
}

/// Returns why a snapshot is kept whatever the rules say.
fn set_aside(
    snapshot: &Candidate<'_>,
    doubts: &HashMap<SnapshotId, SnapshotId>,
    clock: &Clock,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if snapshot.is_protected {
        reasons.push(Reason::Protected);
    }
    if snapshot.has_damaged_note {
        reasons.push(Reason::DamagedNote);
    }
    if let Some(pin) = snapshot.pin {
        reasons.push(Reason::Pinned(pin.to_owned()));
    }
    if snapshot.time > clock.now {
        reasons.push(Reason::Future);
    }
    if let Some(&ancestor) = doubts.get(&snapshot.id) {
        reasons.push(Reason::OutOfOrder { ancestor });
    }
    reasons
}

/// The rules of a policy on their way from the newest snapshot of a group to the oldest.
struct Rules<'p> {
    policy: &'p Policy,
    zone: &'p TimeZone,
    counters: Vec<Counter>,
    newest: Option<Timestamp>,
}

/// A rule that counts.
struct Counter {
    rule: Rule,
    of: Count,
    number: u32,
    /// The buckets that have their snapshot.
    seen: HashSet<String>,
}

impl<'p> Rules<'p> {
    fn new(policy: &'p Policy, clock: &'p Clock) -> Self {
        let counters = Rule::ALL.map(|rule| Counter {
            rule,
            of: policy.count(rule),
            number: 0,
            seen: HashSet::new(),
        });
        Self {
            policy,
            zone: &clock.zone,
            counters: counters.into(),
            newest: None,
        }
    }

    fn reasons(&mut self, snapshot: &Candidate<'_>) -> Vec<Reason> {
        let newest = *self.newest.get_or_insert(snapshot.time);
        let counters = self.counters.iter_mut();
        let mut reasons: Vec<Reason> = counters
            .filter_map(|counter| counter.take(snapshot.time, self.zone))
            .collect();
        let span = self.policy.within;
        // Before all time everything is within.
        let is_within = |since: Option<Timestamp>| since.is_none_or(|since| snapshot.time >= since);
        if !span.is_zero() && is_within(span.before(newest, self.zone)) {
            reasons.push(Reason::Within { span, newest });
        }
        let tags = self.policy.tags.iter();
        let tags = tags.filter(|tag| tag.fits(snapshot.tags)).cloned();
        reasons.extend(tags.map(Reason::Tag));
        reasons
    }
}

impl Counter {
    fn take(&mut self, time: Timestamp, zone: &TimeZone) -> Option<Reason> {
        if self.number >= self.of.get() {
            return None;
        }
        let bucket = bucket(self.rule, time, zone);
        if let Some(bucket) = &bucket
            && !self.seen.insert(bucket.clone())
        {
            return None;
        }
        self.number += 1;
        Some(Reason::Rule {
            rule: self.rule,
            number: self.number,
            of: self.of,
            bucket,
        })
    }
}

/// Returns the bucket that a moment falls into; `last` has none.
fn bucket(rule: Rule, time: Timestamp, zone: &TimeZone) -> Option<String> {
    let zoned = time.to_zoned(zone.clone());
    let format = match rule {
        Rule::Last => return None,
        // With the offset: an hour that comes twice is two hours.
        Rule::Hourly => "%Y-%m-%dT%H%:z",
        Rule::Daily => "%Y-%m-%d",
        Rule::Weekly => {
            let week = zoned.date().iso_week_date();
            return Some(format!("{}-W{:02}", week.year(), week.week()));
        }
        Rule::Monthly => "%Y-%m",
        Rule::Yearly => "%Y",
    };
    Some(zoned.strftime(format).to_string())
}
