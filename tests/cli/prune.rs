//! `cairn prune`.

use serde_json::Value;

use crate::world::{MIB, World, disk, edit};

/// Returns the ids that have an action, with their reasons.
fn actions(report: &Value, action: &str) -> Vec<(String, String)> {
    let decisions = report["decisions"].as_array().expect("a list").iter();
    let wanted = decisions.filter(|decision| decision["action"] == action);
    let texts = wanted.map(|decision| {
        let reasons = decision["reasons"].as_array().expect("a list").iter();
        let reasons: Vec<_> = reasons
            .map(|reason| reason.as_str().expect("text"))
            .collect();
        let id = decision["id"].as_str().expect("an id");
        (id.to_owned(), reasons.join(", "))
    });
    texts.collect()
}

fn ids(listing: &Value) -> Vec<String> {
    let listed = listing.as_array().expect("a list").iter();
    let ids = listed.map(|snapshot| snapshot["id"].as_str().expect("an id").to_owned());
    ids.collect()
}

/// A repository with five snapshots of two VMs.
fn history() -> (World, Vec<String>) {
    let world = World::new();
    world.raw("a.raw", &disk(200, MIB));
    let made = [
        ("web1", "2026-10-24T08:00:00Z"),
        ("web1", "2026-10-25T08:00:00Z"),
        ("web1", "2026-10-25T23:30:00Z"),
        ("db", "2026-10-20T08:00:00Z"),
        ("db", "2026-10-21T08:00:00Z"),
    ];
    let made = made.map(|(vm, time)| world.dated(vm, "a.raw", time, None));
    (world, made.into())
}

#[test]
fn each_decision_has_its_reason() {
    let (world, made) = history();
    let days = ["prune", "--keep-daily", "2", "--dry-run"];
    let plan = world.json(
        days.iter()
            .copied()
            .chain(["--vm", "web*", "--time-zone", "UTC"]),
    );
    assert_eq!(plan["dry_run"], true);
    assert_eq!(plan["kept"], 2);
    assert_eq!(plan["forgotten"], 1);
    let kept = [
        (made[0].clone(), "daily 2 of 2 (2026-10-24)".to_owned()),
        (made[2].clone(), "daily 1 of 2 (2026-10-25)".to_owned()),
    ];
    assert_eq!(actions(&plan, "keep"), kept);
    let forgotten = [(made[1].clone(), "no rule keeps it".to_owned())];
    assert_eq!(actions(&plan, "forget"), forgotten);

    // In Berlin the last one falls on the next day.
    let plan = world.json(days.iter().copied().chain(["--time-zone", "Europe/Berlin"]));
    let forgotten = [(made[0].clone(), "no rule keeps it".to_owned())];
    assert_eq!(actions(&plan, "forget"), forgotten);
    assert_eq!(plan["kept"], 4);

    let table = world.ok(days);
    assert!(table.contains("daily 1 of 2 (2026-10-25)"), "{table}");
    assert!(table.contains("would forget 1 of 5 snapshots"), "{table}");
    assert_eq!(
        ids(&world.json(["snapshots"])).len(),
        5,
        "a plan forgets none"
    );
}

#[test]
fn what_no_rule_keeps_is_forgotten_and_comes_back() {
    let (world, made) = history();
    let done = world.json(["prune", "--keep-last", "1"]);
    assert_eq!(
        (&done["dry_run"], &done["forgotten"]),
        (&false.into(), &3.into())
    );
    assert_eq!(done["grace_seconds"], 7 * 24 * 3600);
    assert_eq!(ids(&world.json(["snapshots"])), [&*made[4], &made[2]]);
    // A second time there is nothing to do.
    assert_eq!(world.json(["prune", "--keep-last", "1"])["forgotten"], 0);
    let forgotten = ids(&world.json(["snapshots", "--forgotten"]));
    assert_eq!(forgotten, [&*made[3], &made[0], &made[1]]);
    world.ok(["undelete", &made[0], &made[3]]);
    assert_eq!(
        ids(&world.json(["snapshots"])),
        [&*made[3], &made[4], &made[0], &made[2]]
    );
    world.ok(["verify", "--metadata-only"]);
}

#[test]
fn an_empty_policy_is_refused() {
    let (world, _) = history();
    for args in [
        &["prune"][..],
        &["prune", "--dry-run"],
        &["prune", "--keep-last", "0", "--keep-within", "0d"],
        &["prune", "--vm", "web1"],
    ] {
        world.run(args).refused(2, "the policy is empty");
    }
    for args in [
        ["prune", "--keep-last", "-1"],
        ["prune", "--keep-last", "x"],
        ["prune", "--keep-within", "7"],
        ["prune", "--time-zone", "Atlantis"],
        ["prune", "--keep-tag", "=x"],
        ["prune", "--vm", "["],
    ] {
        assert_eq!(world.run(args).code, 2, "{args:?}");
    }
    assert_eq!(ids(&world.json(["snapshots"])).len(), 5);
}

#[test]
fn tags_choose_and_keep() {
    let world = World::new();
    world.raw("a.raw", &disk(201, MIB));
    let mut made = Vec::new();
    for tags in [
        &["job=a"][..],
        &["job=b"],
        &["job=a", "release=1"],
        &["job=a"],
        &["job=b"],
    ] {
        let mut args = vec!["backup", "web1", "--disk", "vda=a.raw"];
        args.extend(tags.iter().flat_map(|tag| ["--tag", *tag]));
        made.push(
            world.json(args)["snapshot"]
                .as_str()
                .expect("an id")
                .to_owned(),
        );
    }
    let plan = |args: &[&str]| {
        let all = ["prune", "--dry-run", "--keep-last", "1"]
            .iter()
            .chain(args);
        let plan = world.json(all);
        actions(&plan, "forget")
            .into_iter()
            .map(|(id, _)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(plan(&[]), made[..4]);
    assert_eq!(plan(&["--tag", "job=a"]), [&*made[0], &made[2]]);
    assert_eq!(
        plan(&["--group-by-tag", "job"]),
        [&*made[0], &made[2], &made[1]]
    );
    assert_eq!(
        plan(&["--keep-tag", "release"]),
        [&*made[0], &made[1], &made[3]]
    );
    assert!(plan(&["--tag", "nothing"]).is_empty());
}

#[test]
fn protected_snapshots_stay() {
    let (world, made) = history();
    let marked = world.json(["protect", &made[0], "db"]);
    assert_eq!(ids(&marked["snapshots"]), [&*made[0], &made[4]]);
    assert_eq!(world.json(["show", &made[0]])["protected"], true);
    world.run(["forget", &made[0]]).refused(2, "is protected");
    world
        .run(["forget", &made[1], "db"])
        .refused(2, "is protected");
    let done = world.json(["prune", "--keep-last", "1"]);
    // The protected one is none of those that are counted.
    assert_eq!(
        actions(&done, "forget"),
        [(made[1].clone(), "no rule keeps it".to_owned())]
    );
    world.ok(["unprotect", &made[0]]);
    assert_eq!(world.json(["show", &made[0]])["protected"], false);
    world.ok(["forget", &made[0]]);
    assert_eq!(
        ids(&world.json(["snapshots"])),
        [&*made[3], &made[4], &made[2]]
    );
}

#[test]
fn dates_that_cannot_be_right_forget_nothing() {
    let world = World::new();
    world.raw("a.raw", &disk(202, MIB));
    let make = |time, parent| world.dated("web1", "a.raw", time, parent);
    let first = make("2026-10-01T08:00:00Z", None);
    let second = make("2026-10-02T08:00:00Z", Some(&*first));
    let back = make("2001-01-01T00:00:00Z", Some(&*second));
    let last = make("2026-10-04T08:00:00Z", Some(&*back));
    let future = make("2999-01-01T00:00:00Z", None);
    let ran = world.run(["prune", "--keep-last", "1", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let doubt = format!("dated before {}, from which it was computed", &second[..8]);
    assert_eq!(
        actions(&ran.document(), "keep"),
        [
            (back.clone(), doubt.clone()),
            (last, "last 1 of 1".to_owned()),
            (future.clone(), "dated after now".to_owned()),
        ]
    );
    for (id, words) in [(&back, "are dated before"), (&future, "is dated after now")] {
        let named = format!("warning: {} of web1 {words}", &id[..8]);
        assert!(ran.err.contains(&named), "{ran:?}");
    }
    // Whoever takes the false date away ends the doubt about the others.
    world.ok(["forget", &back]);
    let ran = world.run(["prune", "--keep-last", "1"]);
    assert!(!ran.err.contains("dated before"), "{ran:?}");
}

#[test]
fn the_bytes_foretold_are_those_that_gc_frees() {
    for world in [World::new(), World::encrypted()] {
        let mut bytes = disk(203, 16 * MIB);
        for round in 0..8 {
            edit(204 + round, &mut bytes);
            let start = usize::try_from(round * MIB).expect("small");
            bytes[start..start + 700_000].fill_with(|| fastrand::u8(b'a'..=b'p'));
            world.raw("a.raw", &bytes);
            world.backup("a.raw");
        }
        // What is on its way already is none of the plan's doing.
        world.ok(["forget", "web1", "--yes"]);
        world.ok(["gc", "--grace", "0", "--max-unused", "0"]);
        let stored = || -> u64 {
            let files = ["packs", "snapshots", "notes"].map(|folder| world.stored(folder));
            let lens = files.iter().flatten().map(|file| {
                let about = std::fs::metadata(file);
                about.expect("stored files can be looked at").len()
            });
            lens.sum()
        };
        let policy = ["prune", "--keep-last", "2"];
        let plan = world.json(policy.iter().chain(&["--dry-run"]));
        let foretold = plan["freed_bytes"].as_f64().expect("a number");
        assert_eq!(plan["forgotten"], 5);
        let before = stored();
        world.ok(policy);
        world.ok(["gc", "--grace", "0", "--max-unused", "0"]);
        let freed = (before - stored()) as f64;
        assert!(freed > 1e6, "there is something to free: {freed}");
        let share = (foretold - freed).abs() / freed;
        assert!(share < 0.03, "{foretold} was foretold, {freed} freed");
        world.ok(["verify"]);
    }
}
