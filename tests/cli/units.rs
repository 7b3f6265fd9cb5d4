//! `cairn unit` and `cairn man`: what systemd and man read.

use std::fs;

use crate::world::World;

#[test]
fn systemd_takes_the_units() {
    let mut world = World::new();
    world.passphrase = None;
    fs::write(world.path("secret"), "x").expect("made");
    let secret = world.path("secret").display().to_string();
    for (name, args) in [
        ("cairn-backup", &["backup", "--all", "--jobs", "2"][..]),
        (
            "cairn-backup",
            &[
                "backup",
                "100% \"web\" $x",
                "--disk",
                "vda=/vm/a b.qcow2,bitmap=auto",
            ],
        ),
        (
            "cairn-prune",
            &["prune", "--keep-daily", "7", "+", "gc", "--grace", "0"],
        ),
        ("cairn-verify", &["verify", "--max-duration", "4h"]),
    ] {
        let folder = world.path("units");
        fs::create_dir_all(&folder).expect("made");
        let at = [
            "--password-file",
            &secret,
            "unit",
            "--at",
            "Sun 05:00",
            "--into",
            "units",
        ];
        let said = world.ok(at.iter().chain(args));
        assert!(said.contains(&format!("{name}.timer")), "{said}");
        let (service, timer) = (format!("{name}.service"), format!("{name}.timer"));
        world.tool(
            "systemd-analyze",
            &[
                "verify",
                "--man=no",
                &format!("units/{service}"),
                &format!("units/{timer}"),
            ],
        );
        let text = fs::read_to_string(folder.join(&service)).expect("written");
        let starts = text
            .lines()
            .filter(|line| line.starts_with("ExecStart="))
            .count();
        assert_eq!(starts, args.split(|word| *word == "+").count(), "{text}");
        assert!(
            text.contains(&format!("LoadCredential=cairn.password:{secret}")),
            "{text}"
        );
        // Nothing is overwritten unasked.
        let again = world.run(at.iter().chain(args));
        assert_eq!(again.code, 1, "{again:?}");
        assert!(again.err.contains("--force"), "{again:?}");
        fs::remove_dir_all(&folder).expect("ours");
    }
    let printed = world.ok(["unit", "backup", "--all"]);
    assert!(
        printed.contains("# cairn-backup.service") && printed.contains("[Timer]"),
        "{printed}"
    );
    let documents = world.run(["--json", "unit", "gc"]).document();
    assert_eq!(documents["units"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_unit_that_would_fail_at_night_is_refused_by_day() {
    let world = World::new();
    for args in [
        &["unit", "back-up"][..],
        &["unit", "backup", "--no-such-option"],
        &["unit", "prune", "--keep-daily", "7", "+"],
        &["unit", "--name", "../x", "gc"],
        &["unit", "gc", "-r", "elsewhere"],
    ] {
        let ran = world.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
    }
}

#[test]
fn every_command_has_a_page_that_man_reads() {
    let world = World::empty();
    world.ok(["man", "--into", "man1"]);
    let pages = fs::read_dir(world.path("man1")).expect("made").count();
    assert!(pages > 30, "{pages}");
    for page in ["cairn", "cairn-backup", "cairn-key-add", "cairn-unit"] {
        let file = format!("man1/{page}.1");
        let text = world.tool("man", &["--warnings", "-l", &file]);
        assert!(
            text.contains("NAME") && text.contains(page),
            "{page}: {text}"
        );
    }
    assert!(
        world
            .ok(["man", "key", "add"])
            .contains("cairn\\-key\\-add")
    );
    world
        .run(["man", "nothing"])
        .refused(2, "no command nothing");
}
