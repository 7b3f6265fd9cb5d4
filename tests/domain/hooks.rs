//! Hooks, and how a guest is held still: what runs when, what a failure leaves, and that no guest
//! is left frozen.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::lab::{Domain, Lab, kill};
use crate::live_backup::backup;
use crate::live_interrupt::{count, has_job};
use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, text};

const PHASES: [&str; 6] = [
    "before-backup",
    "before-freeze",
    "before-job",
    "after-freeze",
    "after-job",
    "after-backup",
];
/// A hook that tells that it was reached, and goes on for as long as the test.
fn endless(reached: &Path) -> String {
    let reached = text(reached);
    format!("before-job=touch {reached}; while [ -e {reached} ]; do sleep 0.2; done")
}

/// A hook for every phase that tells a file what it was told and what it saw.
fn tellers(file: &Path) -> Vec<String> {
    let command = format!(
        "echo \"$CAIRN_PHASE $CAIRN_DOMAIN $CAIRN_DOMAIN_UUID $CAIRN_REPOSITORY_ID \
         ${{CAIRN_STATUS:--}} ${{CAIRN_SNAPSHOT:--}} \
         $(virsh -q backup-dumpxml $CAIRN_DOMAIN >/dev/null 2>&1 && echo job || echo none) \
         $(virsh -q qemu-agent-command $CAIRN_DOMAIN '{{\"execute\":\"guest-fsfreeze-status\"}}' \
         2>/dev/null | grep -o 'frozen\\|thawed') ${{CAIRN_PASSWORD-untold}}\" >> {}",
        text(file)
    );
    let hooks = PHASES
        .iter()
        .map(|phase| format!("--hook={phase}={command}"));
    hooks.collect()
}

/// Returns the lines of a teller's file, as words, and empties it.
fn told(file: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    drop(fs::remove_file(file));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(words).collect()
}

fn column(told: &[Vec<String>], column: usize) -> Vec<&str> {
    let words = told.iter().map(|line| line.get(column));
    words.map(|word| word.map_or("", |word| word)).collect()
}

fn frozen(domain: &Domain<'_>) -> bool {
    let question = "{\"execute\":\"guest-fsfreeze-status\"}";
    let status = domain.virsh(&["qemu-agent-command", domain.name(), question]);
    status.contains("frozen")
}

fn checkpoints(domain: &Domain<'_>) -> usize {
    let names = domain.virsh(&["checkpoint-list", domain.name(), "--name"]);
    names.lines().filter(|name| !name.trim().is_empty()).count()
}

/// What a backup that failed may not leave.
#[track_caller]
fn nothing_left(lab: &Lab, domain: &Domain<'_>) {
    assert!(!has_job(lab, domain));
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    let beside = fs::read_dir(domain.folder()).expect("it can be listed");
    let beside = beside.flatten().map(|entry| entry.file_name());
    let ours = beside.filter(|name| name.to_string_lossy().starts_with(".cairn-"));
    assert_eq!(ours.count(), 0);
}

#[test]
fn a_guest_is_frozen_while_it_must_be_and_never_longer() {
    let (lab, world) = (Lab::shared(), World::encrypted());
    let domain = lab.guest_with("hooked", &[("vda", 64 * MIB)]);
    hooks_run_in_their_order(lab, &world, &domain);
    a_hook_that_fails_ends_the_backup(lab, &world, &domain);
    suspended_by_us_alone(lab, &world, &domain);
    a_kill_while_frozen_thaws(lab, &world, &domain);
    an_agent_that_hangs(lab, &world, &domain);
}

fn hooks_run_in_their_order(lab: &Lab, world: &World, domain: &Domain<'_>) {
    let file = world.path("told");
    let tellers = tellers(&file);
    let mut args = vec!["hooked", "--freeze", "agent"];
    args.extend(tellers.iter().map(String::as_str));
    let document = backup(lab, world, &args);
    assert_eq!(document["domain"]["consistency"], "agent");
    let told = told(&file);
    assert_eq!(column(&told, 0), PHASES);
    let uuid = domain.virsh(&["domuuid", "hooked"]);
    let snapshot = document["snapshot"].as_str().expect("it has an id");
    for line in &told {
        assert_eq!((&*line[1], &*line[2]), ("hooked", uuid.trim()));
        assert!(line[3].len() >= 32, "{line:?}");
    }
    let status = ["-", "-", "-", "-", "-", "done"];
    assert_eq!(column(&told, 4), status);
    assert_eq!(column(&told, 5)[5], snapshot);
    let jobs = ["none", "none", "none", "job", "none", "none"];
    assert_eq!(column(&told, 6), jobs);
    let held = ["thawed", "thawed", "frozen", "thawed", "thawed", "thawed"];
    assert_eq!(column(&told, 7), held);
    assert_eq!(
        column(&told, 8),
        ["untold"; 6],
        "no hook has the passphrase"
    );
}

fn a_hook_that_fails_ends_the_backup(lab: &Lab, world: &World, domain: &Domain<'_>) {
    let (snapshots, marks) = (count(world), checkpoints(domain));
    let file = world.path("told");
    let after = tellers(&file).pop().expect("there are hooks");
    for phase in [
        "before-backup",
        "before-freeze",
        "before-job",
        "after-freeze",
    ] {
        let hook = format!("{phase}=exit 3");
        let args = [
            "backup", "hooked", "--freeze", "agent", "--hook", &hook, &after,
        ];
        let failed = lab.cairn(world, args);
        failed.refused(1, &format!("hook {phase} failed"));
        assert!(!frozen(domain), "after {phase}");
        nothing_left(lab, domain);
        assert_eq!((count(world), checkpoints(domain)), (snapshots, marks));
        let told = told(&file);
        // Before anything began there is nothing to be after.
        let status: &[&str] = if phase == "before-backup" {
            &[]
        } else {
            &["failed"]
        };
        assert_eq!(column(&told, 4), status, "{phase}");
    }
    // After the snapshot is there, it stays.
    for phase in ["after-job", "after-backup"] {
        let document = backup(
            lab,
            world,
            &["hooked", "--hook", &format!("{phase}=exit 3")],
        );
        let warnings = document["warnings"].to_string();
        assert!(
            warnings.contains(&format!("hook {phase} failed")),
            "{document}"
        );
    }
    assert_eq!(count(world), snapshots + 2);
}

fn suspended_by_us_alone(lab: &Lab, world: &World, domain: &Domain<'_>) {
    let seen = world.path("seen");
    let hook = format!(
        "before-job=virsh -q domstate $CAIRN_DOMAIN > {}",
        text(&seen)
    );
    let suspend = ["hooked", "--freeze", "suspend", "--hook", &hook];
    let document = backup(lab, world, &suspend);
    assert_eq!(document["domain"]["consistency"], "suspend");
    assert!(document["domain"]["frozen_ms"].is_u64(), "{document}");
    let state = fs::read_to_string(&seen).expect("the hook wrote it");
    assert_eq!(state.trim(), "paused");
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    domain.virsh(&["suspend", "hooked"]);
    for freeze in ["suspend", "auto"] {
        let document = backup(lab, world, &["hooked", "--freeze", freeze]);
        assert_eq!(document["domain"]["consistency"], "crash");
        assert_eq!(domain.state(), "paused (user)");
    }
    domain.virsh(&["resume", "hooked"]);
}

fn a_kill_while_frozen_thaws(lab: &Lab, world: &World, domain: &Domain<'_>) {
    let reached = world.path("reached");
    let hook = endless(&reached);
    let args = ["backup", "hooked", "--freeze", "agent", "--hook", &hook];
    let mut command = lab.command(world, args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("cairn can be run");
    wait_for("the hook", || reached.exists());
    assert!(frozen(domain));
    assert!(kill("-KILL", child.id()));
    child.wait().expect("it can be waited for");
    // Although the hook goes on.
    wait_for("the thaw", || !frozen(domain));
    fs::remove_file(&reached).expect("the hook made it");
    assert_eq!(domain.exec("echo goes on > /mnt/vda/on && sync").code, 0);
    let recovered = lab.cairn(world, ["recover", "hooked", "--json"]);
    assert_eq!(recovered.code, 0, "{recovered:?}");
    assert_eq!(recovered.document()["runs"], 1, "{recovered:?}");
    nothing_left(lab, domain);
}

/// Last: the guest's agent does not come back.
fn an_agent_that_hangs(lab: &Lab, world: &World, domain: &Domain<'_>) {
    // Later, so that the agent can say that it was begun.
    let stop = "(sleep 4; kill -STOP $(pidof qemu-ga)) >/dev/null 2>&1 &";
    assert_eq!(domain.exec(stop).code, 0);
    let answers = || {
        let ping = ["qemu-agent-command", "hooked", "--timeout", "1"];
        let ping = [&ping[..], &["{\"execute\":\"guest-ping\"}"]].concat();
        lab.try_virsh(&ping).code == 0
    };
    wait_for("the agent's end", || !answers());
    let refused = lab.cairn(world, ["backup", "hooked", "--freeze", "agent"]);
    refused.refused(1, "its agent does not answer");
    assert!(refused.err.contains("--freeze auto"), "{refused:?}");
    nothing_left(lab, domain);
    let document = backup(lab, world, &["hooked"]);
    assert_eq!(document["domain"]["consistency"], "crash");
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("agent does not answer"), "{document}");
    let shown = world.json(["show", "hooked"]);
    assert_eq!(shown["domain"]["consistency"], "crash");
}

#[test]
fn a_guest_that_is_suspended_goes_on_whatever_becomes_of_its_backup() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("held", &[("vda", 32 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    let reached = world.path("reached");
    let hook = format!("before-job=touch {}; sleep 20", text(&reached));
    let args = [
        "backup", "held", "--json", "--freeze", "suspend", "--hook", &hook,
    ];
    let mut command = lab.command(&world, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("cairn can be run");
    wait_for("the hook", || reached.exists());
    assert_eq!(domain.state(), "paused (user)");
    assert!(kill("-KILL", child.id()));
    child.wait().expect("it can be waited for");
    wait_for("that it goes on", || domain.state().starts_with("running"));
    // A hook that takes longer than any guest is held still.
    let ran = Ran::of(&mut lab.command(&world, args));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("clearing up after it"), "{ran:?}");
    let document = ran.document();
    assert_eq!(document["domain"]["consistency"], "crash", "{document}");
    let warnings = document["warnings"].to_string();
    assert!(
        warnings.contains("let go before the job began"),
        "{document}"
    );
    let held = document["domain"]["frozen_ms"].as_u64();
    assert!(held.is_some_and(|held| held >= 10_000), "{document}");
    assert!(domain.state().starts_with("running"), "{}", domain.state());
}

#[test]
fn hooks_of_a_domain_that_is_off_run_around_its_reading() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("hooked-off", &[("vda", 32 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    domain.destroy();
    let file = world.path("told");
    let tellers = tellers(&file);
    let mut args = vec!["hooked-off"];
    args.extend(tellers.iter().map(String::as_str));
    backup(lab, &world, &args);
    let order = ["before-backup", "before-job", "after-job", "after-backup"];
    assert_eq!(column(&told(&file), 0), order);
    let failed: Ran = lab.cairn(
        &world,
        ["backup", "hooked-off", "--hook", "before-job=false"],
    );
    failed.refused(1, "hook before-job failed");
    assert_eq!(count(&world), 1);
    let info = world.tool("qemu-img", &["info", text(&domain.image("vda"))]);
    assert_eq!(info.matches("name: cairn-").count(), 1, "{info}");
}
