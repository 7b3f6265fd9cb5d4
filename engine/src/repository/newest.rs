//! Which of a VM's snapshots is the newest.
//!
//! Clocks are wrong now and then, so dates do not decide it: each snapshot has an ordinal, one more
//! than all that its writer saw. And a snapshot that cannot be read may be the newest: whoever asks
//! for the newest must not get an older one without a word.

use jiff::Timestamp;

use super::memory::Known;
use crate::id::SnapshotId;

/// What a reference needs to know of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Its id.
    pub id: SnapshotId,
    /// The VM that it is of.
    pub vm: String,
    /// When it was taken.
    pub time: Timestamp,
    /// Its place among the snapshots of the VM.
    pub ordinal: u64,
    /// The snapshot that it was computed against.
    pub parent: Option<SnapshotId>,
    /// The UUID of its domain, which may have had another name before.
    pub domain: Option<String>,
}

/// Why a snapshot is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its manifest cannot be read.
    Unreadable,
    /// A newer version wrote its manifest.
    Unsupported,
    /// It was there when this client last looked, and nobody forgot it.
    Gone,
}

/// A snapshot that there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Why it is lost.
    pub loss: Loss,
    /// What this client remembers of it.
    pub known: Option<Known>,
}

/// What references are resolved among, each in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Those that may be meant.
    pub snapshots: Vec<SnapshotSummary>,
    /// Those that are not, and still tell which snapshot came before which.
    pub others: Vec<SnapshotSummary>,
    /// Those of which nobody knows what they were.
    pub lost: Vec<LostSnapshot>,
}

impl SnapshotSummary {
    /// Returns what orders the snapshots of a VM. Two of one place are told apart by their dates
    /// and ids, so that the answer does not depend on the order of a listing.
    pub fn rank(&self) -> (u64, Timestamp, SnapshotId) {
        (self.ordinal, self.time, self.id)
    }
}

impl LostSnapshot {
    fn rank(&self) -> Option<(u64, Timestamp, SnapshotId)> {
        let known = self.known.as_ref()?;
        Some((known.ordinal, known.time, self.id))
    }
}

impl Candidates {
    fn of_vm(&self, vm: &str) -> impl Iterator<Item = &SnapshotSummary> {
        self.snapshots
            .iter()
            .filter(move |snapshot| snapshot.vm == vm)
    }

    /// Returns the newest snapshot of a VM, or the newest of those dated before a moment.
    pub(super) fn newest(&self, vm: &str, before: Option<Timestamp>) -> Option<&SnapshotSummary> {
        let is_before = |snapshot: &&SnapshotSummary| before.is_none_or(|end| snapshot.time < end);
        self.of_vm(vm)
            .filter(is_before)
            .max_by_key(|snapshot| snapshot.rank())
    }

    /// Returns the lost snapshots that may be what was asked for, rather than `chosen`.
    pub fn in_doubt(
        &self,
        vm: &str,
        before: Option<Timestamp>,
        chosen: Option<&SnapshotSummary>,
    ) -> Vec<LostSnapshot> {
        let is_known = self.of_vm(vm).next().is_some();
        let may_be = |lost: &&LostSnapshot| match &lost.known {
            Some(Known { vm: of, time, .. }) => {
                let is_newer = chosen.is_none_or(|chosen| lost.rank() > Some(chosen.rank()));
                of == vm && before.is_none_or(|end| *time < end) && is_newer
            }
            // A name that nothing has is a slip, rather than that of a lost snapshot.
            None => is_known && self.may_be_newer(lost.id, vm, chosen),
        };
        self.lost.iter().filter(may_be).cloned().collect()
    }

    /// Returns whether a snapshot of which nothing is known may be of a VM and newer than `chosen`.
    /// What was computed from it tells.
    fn may_be_newer(&self, id: SnapshotId, vm: &str, chosen: Option<&SnapshotSummary>) -> bool {
        let all = || self.snapshots.iter().chain(&self.others);
        let children: Vec<_> = all().filter(|child| child.parent == Some(id)).collect();
        let is_older = |child: &SnapshotSummary| {
            chosen.is_some_and(|chosen| child.vm == vm && child.rank() <= chosen.rank())
        };
        if children.iter().any(|child| is_older(child)) {
            return false;
        }
        let was_renamed = |child: &SnapshotSummary| {
            let domain = child.domain.as_ref();
            domain.is_some() && all().any(|s| s.vm == vm && s.domain.as_ref() == domain)
        };
        children.is_empty()
            || children
                .iter()
                .any(|child| child.vm == vm || was_renamed(child))
    }

    /// Returns two snapshots of one VM, one of them this one, of which the first was made before
    /// the second and is dated after it, where there are such.
    pub fn contradiction(&self, id: SnapshotId) -> Option<[&SnapshotSummary; 2]> {
        let this = self.snapshots.iter().find(|snapshot| snapshot.id == id)?;
        let is_false = |[first, second]: &[&SnapshotSummary; 2]| {
            first.ordinal < second.ordinal && first.time > second.time
        };
        self.of_vm(&this.vm)
            .flat_map(|other| [[other, this], [this, other]])
            .find(is_false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> SnapshotId {
        SnapshotId::from_bytes([number; 32])
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).expect("in range")
    }

    /// A snapshot of `vm`, whose id tells its place, dated on a day.
    fn snapshot(number: u8, vm: &str, on: i64, parent: Option<u8>) -> SnapshotSummary {
        SnapshotSummary {
            id: id(number),
            vm: vm.to_owned(),
            time: day(on),
            ordinal: number.into(),
            parent: parent.map(id),
            domain: None,
        }
    }

    fn lost(number: u8) -> LostSnapshot {
        LostSnapshot {
            id: id(number),
            loss: Loss::Unreadable,
            known: None,
        }
    }

    fn doubts(among: &Candidates, vm: &str, before: Option<Timestamp>) -> Vec<SnapshotId> {
        let chosen = among.newest(vm, before);
        let doubts = among.in_doubt(vm, before, chosen);
        doubts.into_iter().map(|lost| lost.id).collect()
    }

    #[test]
    fn the_place_decides_and_a_date_that_contradicts_it_is_found() {
        let among = Candidates {
            snapshots: vec![
                snapshot(1, "a", 5, None),
                snapshot(2, "a", 90, None),
                snapshot(3, "a", 7, None),
                snapshot(9, "b", 8, None),
            ],
            ..Candidates::default()
        };
        let newest = |before| among.newest("a", before).map(|found| found.id);
        assert_eq!(newest(None), Some(id(3)));
        assert_eq!(newest(Some(day(6))), Some(id(1)));
        let pair = among.contradiction(id(3)).expect("3 came after 2");
        assert_eq!(pair.map(|snapshot| snapshot.id), [id(2), id(3)]);
        assert!(among.contradiction(id(2)).is_some());
        assert_eq!(among.contradiction(id(1)), None);
        assert_eq!(among.contradiction(id(9)), None);
    }

    #[test]
    fn what_cannot_be_read_may_be_the_newest_of_any_vm_unless_its_children_tell() {
        let mut among = Candidates {
            snapshots: vec![
                snapshot(3, "a", 3, None),
                snapshot(5, "a", 5, Some(4)),
                snapshot(9, "b", 8, None),
            ],
            lost: vec![lost(4)],
            ..Candidates::default()
        };
        let none: [SnapshotId; 0] = [];
        assert_eq!(doubts(&among, "a", None), none, "5 was made of it");
        assert_eq!(doubts(&among, "b", None), none, "it is of a");
        assert_eq!(
            doubts(&among, "a", Some(day(5))),
            [id(4)],
            "it may be of day 4"
        );
        among.lost = vec![lost(6)];
        for vm in ["a", "b"] {
            assert_eq!(doubts(&among, vm, None), [id(6)]);
        }
        assert_eq!(doubts(&among, "c", None), none, "nobody knows a c");
        // A child that is forgotten tells as much.
        among.others = vec![snapshot(4, "a", 4, Some(6))];
        assert_eq!(doubts(&among, "a", None), none);
        assert_eq!(doubts(&among, "b", None), none);
    }

    #[test]
    fn the_domain_of_a_child_may_have_had_another_name() {
        let of = |domain: &str, snapshot: SnapshotSummary| SnapshotSummary {
            domain: Some(domain.to_owned()),
            ..snapshot
        };
        let among = Candidates {
            snapshots: vec![
                of("u", snapshot(1, "old", 1, None)),
                of("u", snapshot(3, "new", 3, Some(2))),
                of("v", snapshot(4, "b", 4, None)),
            ],
            lost: vec![lost(2)],
            ..Candidates::default()
        };
        assert_eq!(doubts(&among, "old", None), [id(2)]);
        assert!(doubts(&among, "new", None).is_empty());
        assert!(doubts(&among, "b", None).is_empty());
    }

    #[test]
    fn what_this_client_remembers_of_a_lost_one_is_used() {
        let known = |number: u8, vm: &str, on: i64| LostSnapshot {
            loss: Loss::Gone,
            known: Some(Known {
                vm: vm.to_owned(),
                time: day(on),
                ordinal: number.into(),
            }),
            ..lost(number)
        };
        let among = Candidates {
            snapshots: vec![snapshot(3, "a", 3, None), snapshot(4, "b", 4, None)],
            lost: vec![known(6, "a", 6)],
            ..Candidates::default()
        };
        assert_eq!(doubts(&among, "a", None), [id(6)]);
        assert!(doubts(&among, "a", Some(day(5))).is_empty());
        assert!(doubts(&among, "b", None).is_empty());
    }
}
