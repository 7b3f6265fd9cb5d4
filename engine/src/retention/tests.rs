//! Tables of decisions, and random histories against a model that is slow and plain.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::*;
use crate::id::SnapshotId;

/// A snapshot of the tests, which candidates borrow from.
#[derive(Debug, Clone)]
struct Made {
    id: SnapshotId,
    vm: String,
    domain: Option<String>,
    time: Timestamp,
    parent: Option<SnapshotId>,
    tags: BTreeMap<String, String>,
    is_forgotten: bool,
    is_protected: bool,
    has_damaged_note: bool,
    pin: Option<String>,
    flaw: Option<Flaw>,
}

fn id(number: usize) -> SnapshotId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    SnapshotId::from_bytes(bytes)
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("times of the tests are well-formed")
}

fn made(number: usize, time: &str) -> Made {
    Made {
        id: id(number),
        vm: "web1".to_owned(),
        domain: None,
        time: at(time),
        parent: None,
        tags: BTreeMap::new(),
        is_forgotten: false,
        is_protected: false,
        has_damaged_note: false,
        pin: None,
        flaw: None,
    }
}

fn history(times: &[&str]) -> Vec<Made> {
    let numbered = times.iter().enumerate();
    numbered.map(|(number, time)| made(number, time)).collect()
}

fn candidates(made: &[Made]) -> Vec<Candidate<'_>> {
    made.iter()
        .map(|made| Candidate {
            id: made.id,
            vm: &made.vm,
            domain: made.domain.as_deref(),
            time: made.time,
            parent: made.parent,
            tags: &made.tags,
            is_forgotten: made.is_forgotten,
            is_protected: made.is_protected,
            has_damaged_note: made.has_damaged_note,
            pin: made.pin.as_deref(),
            flaw: made.flaw,
        })
        .collect()
}

fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the rule parses")
}

fn clock(now: &str, zone: TimeZone) -> Clock {
    Clock { now: at(now), zone }
}

fn far() -> Clock {
    clock("2100-01-01T00:00:00Z", TimeZone::UTC)
}

/// Returns the numbers of the snapshots that are kept, with why.
fn kept(made: &[Made], policy: &Policy, clock: &Clock) -> Vec<(usize, String)> {
    let groups = decide(&candidates(made), policy, None, clock, |_| true);
    let decisions = groups.expect("the policy keeps something").into_iter();
    let mut kept: Vec<_> = decisions
        .flat_map(|group| group.decisions)
        .filter(Decision::is_kept)
        .map(|decision| {
            let number = made.iter().position(|made| made.id == decision.id);
            let reasons: Vec<_> = decision.reasons.iter().map(Reason::to_string).collect();
            (number.expect("it is one of them"), reasons.join(", "))
        })
        .collect();
    kept.sort();
    kept
}

fn kept_numbers(made: &[Made], policy: &Policy, clock: &Clock) -> Vec<usize> {
    let kept = kept(made, policy, clock).into_iter();
    kept.map(|(number, _)| number).collect()
}

fn policy(set: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    set(&mut policy);
    policy
}

const TWO: Count = Count::new(2);

#[test]
fn the_newest_of_each_bucket_is_kept() {
    let made = history(&[
        "2026-10-31T23:00:00Z",
        "2026-11-23T08:00:00Z",
        "2026-11-25T08:00:00Z",
        "2026-11-25T08:30:00Z",
        "2026-11-26T08:00:00Z",
    ]);
    for (set, wanted) in [
        (
            policy(|policy| policy.last = TWO),
            vec![(3, "last 2 of 2"), (4, "last 1 of 2")],
        ),
        (
            policy(|policy| policy.hourly = TWO),
            vec![
                (3, "hourly 2 of 2 (2026-11-25T08+00:00)"),
                (4, "hourly 1 of 2 (2026-11-26T08+00:00)"),
            ],
        ),
        (
            policy(|policy| policy.daily = Count::new(3)),
            vec![
                (1, "daily 3 of 3 (2026-11-23)"),
                (3, "daily 2 of 3 (2026-11-25)"),
                (4, "daily 1 of 3 (2026-11-26)"),
            ],
        ),
        (
            policy(|policy| policy.weekly = TWO),
            vec![
                (0, "weekly 2 of 2 (2026-W44)"),
                (4, "weekly 1 of 2 (2026-W48)"),
            ],
        ),
        (
            policy(|policy| policy.monthly = Count::UNLIMITED),
            vec![
                (0, "monthly 2 of unlimited (2026-10)"),
                (4, "monthly 1 of unlimited (2026-11)"),
            ],
        ),
        (
            policy(|policy| policy.yearly = TWO),
            vec![(4, "yearly 1 of 2 (2026)")],
        ),
    ] {
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|(number, reason)| (number, reason.to_owned()))
            .collect();
        assert_eq!(kept(&made, &set, &far()), wanted);
    }
}

#[test]
fn rules_add_up_and_say_so() {
    let made = history(&["2026-11-24T08:00:00Z", "2026-11-25T08:00:00Z"]);
    let both = policy(|policy| {
        policy.last = Count::new(1);
        policy.daily = TWO;
    });
    assert_eq!(
        kept(&made, &both, &far()),
        [
            (0, "daily 2 of 2 (2026-11-24)".to_owned()),
            (1, "last 1 of 1, daily 1 of 2 (2026-11-25)".to_owned()),
        ]
    );
}

#[test]
fn weeks_are_those_of_iso() {
    // 2027-01-03 is a Sunday of 2026's week 53, 2027-01-04 the Monday of 2027's first.
    let made = history(&[
        "2026-12-28T00:00:00Z",
        "2027-01-03T23:00:00Z",
        "2027-01-04T00:00:00Z",
    ]);
    let weekly = policy(|policy| policy.weekly = TWO);
    assert_eq!(kept_numbers(&made, &weekly, &far()), [1, 2]);
}

#[test]
fn days_begin_where_the_zone_says() {
    let made = history(&["2026-06-01T21:59:59Z", "2026-06-01T22:00:00Z"]);
    let daily = policy(|policy| policy.daily = TWO);
    let now = "2026-07-01T00:00:00Z";
    assert_eq!(kept_numbers(&made, &daily, &clock(now, TimeZone::UTC)), [1]);
    assert_eq!(kept_numbers(&made, &daily, &clock(now, berlin())), [0, 1]);
}

#[test]
fn an_hour_that_comes_twice_is_two_hours() {
    // In Berlin 02:00 to 03:00 comes twice on 25 October 2026.
    let made = history(&[
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
        "2026-10-25T01:40:00Z",
    ]);
    let hourly = policy(|policy| policy.hourly = Count::new(5));
    let clock = clock("2026-12-01T00:00:00Z", berlin());
    assert_eq!(
        kept(&made, &hourly, &clock),
        [
            (0, "hourly 2 of 5 (2026-10-25T02+02:00)".to_owned()),
            (2, "hourly 1 of 5 (2026-10-25T02+01:00)".to_owned()),
        ]
    );
    // All of a day of 25 hours is one day, and so is all of one of 23.
    let daily = policy(|policy| policy.daily = Count::new(5));
    let long = history(&[
        "2026-10-24T22:00:00Z",
        "2026-10-25T22:59:59Z",
        "2026-10-25T23:00:00Z",
    ]);
    assert_eq!(kept_numbers(&long, &daily, &clock), [1, 2]);
    let short = history(&[
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
    ]);
    assert_eq!(kept_numbers(&short, &daily, &clock), [1, 2]);
}

#[test]
fn within_counts_from_the_newest_and_not_from_now() {
    let made = history(&[
        "2026-11-01T08:00:00Z",
        "2026-11-10T08:00:00Z",
        "2026-11-17T08:00:00Z",
    ]);
    let within = policy(|policy| policy.within = "7d".parse().expect("a span"));
    for now in ["2026-11-17T09:00:00Z", "2036-11-17T09:00:00Z"] {
        assert_eq!(
            kept_numbers(&made, &within, &clock(now, TimeZone::UTC)),
            [1, 2]
        );
    }
    let ages = policy(|policy| policy.within = "30000y".parse().expect("a span"));
    assert_eq!(kept_numbers(&made, &ages, &far()), [0, 1, 2]);
}

#[test]
fn tags_keep_what_has_them() {
    let mut made = history(&[
        "2026-11-01T08:00:00Z",
        "2026-11-02T08:00:00Z",
        "2026-11-03T08:00:00Z",
    ]);
    made[0].tags.insert("release".to_owned(), "1.0".to_owned());
    made[1].tags.insert("release".to_owned(), "1.1".to_owned());
    let tagged = |tag: &str| policy(|policy| policy.tags = vec![tag.parse().expect("a tag")]);
    assert_eq!(kept_numbers(&made, &tagged("release"), &far()), [0, 1]);
    assert_eq!(kept_numbers(&made, &tagged("release=1.0"), &far()), [0]);
    // Nothing is left without a single one.
    let newest = [(2, Reason::Newest.to_string())];
    assert_eq!(kept(&made, &tagged("other"), &far()), newest);
}

#[test]
fn an_empty_policy_is_refused() {
    let made = history(&["2026-11-01T08:00:00Z"]);
    for empty in [
        Policy::default(),
        policy(|policy| policy.within = "0d".parse().expect("a span")),
    ] {
        let decided = decide(&candidates(&made), &empty, None, &far(), |_| true);
        assert_eq!(decided, Err(EmptyPolicyError));
    }
}

#[test]
fn each_vm_and_each_value_of_a_tag_is_counted_for_itself() {
    let mut made = history(&["2026-11-01T08:00:00Z"; 6]);
    for (number, (vm, domain, job)) in [
        ("a", None, Some("x")),
        ("a", None, Some("y")),
        ("b", Some("1"), None),
        ("b", Some("2"), None),
        ("b", None, None),
        ("a", None, Some("x")),
    ]
    .into_iter()
    .enumerate()
    {
        made[number].vm = vm.to_owned();
        made[number].domain = domain.map(str::to_owned);
        made[number].tags = job
            .map(|job: &str| ("job".to_owned(), job.to_owned()))
            .into_iter()
            .collect();
    }
    let last = policy(|policy| policy.last = Count::new(1));
    // Of two of one moment the one with the greater id is the newer, as for `VM@latest`.
    assert_eq!(kept_numbers(&made, &last, &far()), [2, 3, 4, 5]);
    let all = candidates(&made);
    let groups = decide(&all, &last, Some("job"), &far(), |snapshot| {
        snapshot.vm == "a"
    });
    let groups = groups.expect("the policy keeps something");
    let found: Vec<_> = groups
        .iter()
        .map(|group| (group.vm, group.tag, group.decisions.len()))
        .collect();
    assert_eq!(found, [("a", Some("x"), 2), ("a", Some("y"), 1)]);
}

#[test]
fn what_must_stay_stays_and_takes_no_place() {
    let mut made = history(&[
        "2026-11-01T08:00:00Z",
        "2026-11-02T08:00:00Z",
        "2026-11-03T08:00:00Z",
        "2026-11-04T08:00:00Z",
        "2026-11-05T08:00:00Z",
        "2027-11-05T08:00:00Z",
    ]);
    made[2].pin = Some("domain x".to_owned());
    made[3].is_protected = true;
    made[4].has_damaged_note = true;
    let last = policy(|policy| policy.last = Count::new(1));
    let clock = clock("2026-11-06T00:00:00Z", TimeZone::UTC);
    assert_eq!(
        kept(&made, &last, &clock),
        [
            (1, "last 1 of 1".to_owned()),
            (2, "pinned by domain x".to_owned()),
            (3, "protected".to_owned()),
            (4, "one of its notes is damaged".to_owned()),
            (5, "dated after now".to_owned()),
        ]
    );
}

/// A clock that went back for two backups, of which each was computed against the one before.
#[test]
fn a_clock_that_went_back_forgets_nothing() {
    let mut made = history(&[
        "2026-11-01T08:00:00Z",
        "2026-11-02T08:00:00Z",
        "1970-01-01T00:01:00Z",
        "1970-01-02T00:01:00Z",
        "2026-11-05T08:00:00Z",
    ]);
    for (number, made) in made.iter_mut().enumerate().skip(1) {
        made.parent = Some(id(number - 1));
    }
    let last = policy(|policy| policy.last = Count::new(1));
    let doubt = format!("dated before {}, from which it was computed", id(1).short());
    let wanted = [
        (2, doubt.clone()),
        (3, doubt.clone()),
        (4, "last 1 of 1".to_owned()),
    ];
    assert_eq!(kept(&made, &last, &far()), wanted);
    // The same while the clock is still wrong: what it calls the future is kept.
    let wrong = clock("1970-01-03T00:00:00Z", TimeZone::UTC);
    assert_eq!(kept_numbers(&made, &last, &wrong), [0, 1, 2, 3, 4]);
    // Past one that is forgotten, the order is known all the same.
    made[2].is_forgotten = true;
    assert_eq!(kept(&made, &last, &far())[0], (3, doubt));
}

#[test]
fn whoever_forgets_the_false_date_by_hand_ends_the_doubt() {
    let mut made = history(&[
        "2099-11-01T08:00:00Z",
        "2026-11-02T08:00:00Z",
        "2026-11-03T08:00:00Z",
    ]);
    made[1].parent = Some(id(0));
    made[2].parent = Some(id(1));
    let last = policy(|policy| policy.last = Count::new(1));
    assert_eq!(kept_numbers(&made, &last, &far()), [0, 1, 2]);
    made[0].is_forgotten = true;
    assert_eq!(kept_numbers(&made, &last, &far()), [2]);
}

#[test]
fn parents_in_a_circle_end() {
    let mut made = history(&["2026-11-01T08:00:00Z", "2026-11-02T08:00:00Z"]);
    made[0].parent = Some(id(1));
    made[1].parent = Some(id(0));
    let last = policy(|policy| policy.last = Count::new(1));
    assert!(kept_numbers(&made, &last, &far()).contains(&1));
}

/// What a policy keeps of snapshots whose dates nobody doubts, in the words of restic's manual.
fn model(made: &[Made], policy: &Policy, zone: &TimeZone) -> BTreeSet<SnapshotId> {
    let mut newest_first: Vec<&Made> = made.iter().collect();
    newest_first.sort_by_key(|made| (made.time, made.id));
    newest_first.reverse();
    let mut kept = BTreeSet::new();
    for rule in Rule::ALL {
        let bucket = |made: &Made| {
            let zoned = made.time.to_zoned(zone.clone());
            let (date, week) = (zoned.date(), zoned.date().iso_week_date());
            let date = (date.year(), date.month(), date.day());
            match rule {
                Rule::Last => (0, 0, 0, 0, Some(made.id)),
                Rule::Hourly => {
                    let offset = zoned.offset().seconds();
                    let hour = i32::from(zoned.hour()) * 1_000_000 + offset;
                    (date.0, date.1, date.2, hour, None)
                }
                Rule::Daily => (date.0, date.1, date.2, 0, None),
                Rule::Weekly => (week.year(), week.week(), 0, 0, None),
                Rule::Monthly => (date.0, date.1, 0, 0, None),
                Rule::Yearly => (date.0, 0, 0, 0, None),
            }
        };
        let mut buckets = Vec::new();
        for made in &newest_first {
            if !buckets.contains(&bucket(made)) {
                buckets.push(bucket(made));
                if buckets.len() <= policy.count(rule).get() as usize {
                    kept.insert(made.id);
                }
            }
        }
    }
    kept
}

fn random_policy(random: &mut fastrand::Rng) -> Policy {
    let mut count = || Count::new([0, 0, 1, 2, 3, 7][random.usize(0..6)]);
    let mut policy = Policy {
        last: count(),
        hourly: count(),
        daily: count(),
        weekly: count(),
        monthly: count(),
        yearly: count(),
        ..Policy::default()
    };
    if policy == Policy::default() {
        policy.last = Count::new(1);
    }
    policy
}

/// A line of backups, each computed against the one before, at times that only grow.
fn random_history(random: &mut fastrand::Rng) -> Vec<Made> {
    let step = [600, 20_000, 90_000, 1_500_000][random.usize(0..4)];
    let mut second = 1_700_000_000;
    (0..random.usize(1..40))
        .map(|number| {
            second += random.i64(0..step);
            let mut made = made(number, "2026-01-01T00:00:00Z");
            made.time = Timestamp::from_second(second).expect("in range");
            made.parent = number.checked_sub(1).map(id);
            made
        })
        .collect()
}

fn kept_ids(made: &[Made], policy: &Policy, clock: &Clock) -> BTreeSet<SnapshotId> {
    let kept = kept_numbers(made, policy, clock).into_iter();
    kept.map(|number| made[number].id).collect()
}

#[test]
fn decisions_are_those_of_the_model() {
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..3000 {
        let (made, policy) = (random_history(&mut random), random_policy(&mut random));
        let zone = [TimeZone::UTC, berlin()][random.usize(0..2)].clone();
        let now = "2100-01-01T00:00:00Z";
        let wanted = model(&made, &policy, &zone);
        let found = kept_ids(&made, &policy, &clock(now, zone));
        assert_eq!(found, wanted, "round {round}: {policy:?} {made:#?}");
    }
}

/// The clock of whoever prunes, if it goes back, only makes it keep more; going forward, it changes
/// nothing once it has passed the newest snapshot.
#[test]
fn an_earlier_clock_keeps_no_less() {
    let mut random = fastrand::Rng::with_seed(6);
    for round in 0..2000 {
        let (made, mut policy) = (random_history(&mut random), random_policy(&mut random));
        policy.within = ["0d", "3d", "2m"][random.usize(0..3)]
            .parse()
            .expect("a span");
        let last = made.last().expect("there is one").time;
        let now = |time| Clock {
            now: time,
            zone: berlin(),
        };
        let right = kept_ids(&made, &policy, &now(last));
        let back = last - random.i64(0..20_000_000).seconds();
        let early = kept_ids(&made, &policy, &now(back));
        assert!(
            early.is_superset(&right),
            "round {round}: {policy:?} {made:#?}"
        );
        let forward = last + random.i64(0..2_000_000_000).seconds();
        assert_eq!(
            kept_ids(&made, &policy, &now(forward)),
            right,
            "round {round}"
        );
    }
}

/// Backups whose clock was wrong for a while: they are kept, and so is all that would be kept had
/// they never been made.
#[test]
fn false_dates_cost_no_other_snapshot_its_place() {
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..2000 {
        let (mut made, policy) = (random_history(&mut random), random_policy(&mut random));
        let start = random.usize(0..made.len());
        let end = random.usize(start..=made.len());
        let now = made.last().expect("there is one").time;
        // Far enough back that each is dated before the first of all.
        let shift = 1_000_000_000_i64.seconds();
        for made in &mut made[start..end] {
            made.time -= shift;
        }
        let clock = Clock {
            now,
            zone: TimeZone::UTC,
        };
        let found = kept_ids(&made, &policy, &clock);
        if start == 0 {
            // Nothing proves that the first ones are not as old as they say.
            continue;
        }
        let mut right = made.clone();
        let wrong: Vec<_> = right.drain(start..end).map(|made| made.id).collect();
        assert!(wrong.iter().all(|id| found.contains(id)), "round {round}");
        for made in &mut right {
            made.parent = None;
        }
        let wanted = kept_ids(&right, &policy, &clock);
        let wanted: BTreeSet<_> = wanted.into_iter().chain(wrong).collect();
        assert_eq!(found, wanted, "round {round}: {policy:?} {made:#?}");
    }
}

#[test]
fn what_is_flawed_takes_no_place_of_a_good_one() {
    let mut made = history(&[
        "2026-11-18T03:00:00Z",
        "2026-11-19T03:00:00Z",
        "2026-11-20T03:00:00Z",
        "2026-11-20T09:00:00Z",
        "2026-11-21T03:00:00Z",
    ]);
    made[3].flaw = Some(Flaw::Partial);
    made[4].flaw = Some(Flaw::Disproved);
    let policy = Policy {
        daily: "2".parse().expect("a count"),
        ..Policy::default()
    };
    let all = candidates(&made);
    let groups = decide(&all, &policy, None, &far(), |_| true);
    let groups = groups.expect("the policy keeps something");
    let kept: Vec<bool> = groups[0].decisions.iter().map(Decision::is_kept).collect();
    assert_eq!(kept, [false, true, true, true, true]);
    // Where no rule keeps any, a good one is kept.
    let tagged = Policy {
        tags: vec!["never".parse().expect("a tag")],
        ..Policy::default()
    };
    let groups = decide(&all, &tagged, None, &far(), |_| true);
    let groups = groups.expect("the policy is one");
    let kept: Vec<bool> = groups[0].decisions.iter().map(Decision::is_kept).collect();
    assert_eq!(kept, [false, false, true, false, false]);
    let words: Vec<String> = groups[0].decisions[4]
        .reasons
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        words,
        ["no rule keeps it", "failed its trial, counted apart"]
    );
}
