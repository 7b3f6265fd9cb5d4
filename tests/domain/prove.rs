//! Snapshots that are booted as throw-away domains.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::waiting::wait_for;
use crate::world::{KIB, MIB, Ran, World, damage, text};

/// What a test of proofs has of its own: others sweep what is dead in theirs.
struct Prover<'l> {
    lab: &'l Lab,
    world: World,
    name: &'static str,
}

impl<'l> Prover<'l> {
    fn new(lab: &'l Lab, name: &'static str) -> Self {
        let prover = Self {
            lab,
            world: World::new(),
            name,
        };
        fs::create_dir(prover.dir()).expect("the lab's folder can be written");
        prover
    }

    /// A domain without an operating system, and its snapshot.
    fn light(lab: &'l Lab, name: &'static str) -> (Self, Domain<'l>) {
        let prover = Self::new(lab, name);
        let domain = lab.light(name, &[("vda", 16 * MIB)]);
        domain.write("vda", 0, MIB, 0xa1);
        prover.ok(&["backup", name]);
        (prover, domain)
    }

    /// A small Linux, and its snapshot.
    fn guest(lab: &'l Lab, name: &'static str, is_running: bool) -> (Self, Domain<'l>) {
        let prover = Self::new(lab, name);
        let domain = lab.guest(name);
        let ran = domain.exec("echo original > /mnt/vda/who && sync");
        assert_eq!(ran.code, 0, "{ran:?}");
        if !is_running {
            domain.destroy();
        }
        prover.ok(&["backup", name]);
        (prover, domain)
    }

    fn run_folder(&self) -> PathBuf {
        self.lab.path(&format!("{}-run", self.name))
    }

    fn dir(&self) -> PathBuf {
        self.lab.path(&format!("{}-dir", self.name))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.command(&self.world, args);
        command.env("CAIRN_RUN_DIR", self.run_folder());
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Ran {
        let ran = Ran::of(&mut self.command(args));
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran
    }

    fn proving(&self, args: &[&str]) -> Command {
        let dir = self.dir();
        let mut all = vec!["prove", self.name, "--json", "--dir", text(&dir)];
        all.extend(args);
        self.command(&all)
    }

    fn prove(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.proving(args))
    }

    /// Begins a proof that does not end by itself, and waits until its domain runs.
    fn begin(&self) -> Begun {
        let mut command = self.proving(&["--timeout", "1h"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut begun = Begun {
            child: command.spawn().expect("the command can be run"),
            domain: String::new(),
        };
        wait_for("a domain that runs", || {
            begun.domain = self.domains().pop().unwrap_or_default();
            !begun.domain.is_empty()
        });
        begun
    }

    /// The throw-away domains of this test that run: their disks are in its folder.
    fn domains(&self) -> Vec<String> {
        let folders = fs::read_dir(self.dir()).expect("it is there").flatten();
        let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
        let running = self.lab.virsh(&["list", "--state-running", "--name"]);
        let runs = |name: &String| running.lines().any(|line| line.trim() == *name);
        names.filter(runs).collect()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        let left = |folder: PathBuf| fs::read_dir(folder).map_or(0, Iterator::count);
        assert_eq!(left(self.dir()), 0);
        assert_eq!(left(self.run_folder().join("prove")), 0);
        let nvram = self.lab.path("libvirt/lib/qemu/nvram");
        assert_eq!(left(nvram), 0);
    }

    /// What is known of proofs, as `show` tells it.
    fn proofs(&self) -> Vec<Value> {
        let shown = self.ok(&["show", self.name, "--json"]).document();
        let proofs = shown["proofs"].as_array().expect("it is a list");
        proofs.clone()
    }

    /// The files of the repository whose change would matter, with their bytes.
    fn stored(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let folders = ["packs", "snapshots", "keys"];
        let files = folders.iter().flat_map(|folder| self.world.stored(folder));
        let read = |path: &PathBuf| fs::read(path).expect("stored files can be read");
        files.map(|path| (path.clone(), read(&path))).collect()
    }
}

/// A proof at work.
struct Begun {
    child: Child,
    domain: String,
}

impl Begun {
    /// Sends a signal, and returns the exit code; a killed process has none.
    fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("it can be waited for").code()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        drop(Command::new("kill").args([signal, &pid]).status());
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // A test that failed leaves one.
        if let Ok(None) = self.child.try_wait() {
            self.signal("-TERM");
            drop(self.child.wait());
        }
    }
}

#[test]
fn a_guest_that_answers_is_proved_beside_its_original() {
    let lab = Lab::shared();
    let (prover, original) = Prover::guest(lab, "prove-guest", true);
    let (stored, pid) = (prover.stored(), original.pid());
    let picture = lab.path("prove-guest.picture");
    let command = "cat /mnt/vda/who && echo copy > /mnt/vda/who && sync && cat /mnt/vda/who";
    let args = ["--run", command, "--screenshot", text(&picture)];
    for _ in 0..2 {
        // What the first one wrote is gone.
        let ran = prover.prove(&args);
        assert_eq!(ran.code, 0, "{ran:?}");
        let report = ran.document();
        assert_eq!(report["passed"], true);
        assert_eq!(report["agent_answered"], true);
        assert_eq!(report["command"]["stdout"], "original\ncopy\n");
        let picture = fs::read(&picture).expect("it is there");
        assert!(picture.starts_with(b"P6") || picture.starts_with(b"\x89PNG"));
        prover.assert_nothing_is_left();
    }
    assert_eq!(original.exec("cat /mnt/vda/who").out, "original\n");
    assert_eq!(original.pid(), pid);
    assert_eq!(prover.stored(), stored);
    // Both verdicts are notes, and seen.
    assert_eq!(prover.world.stored("notes").len(), 2);
    let proofs = prover.proofs();
    assert_eq!(
        (proofs.len(), &proofs[0]["passed"]),
        (2, &Value::from(true))
    );
    let what = proofs[0]["what"].as_str().expect("it is a text");
    assert!(
        what.starts_with("booted under TCG; the agent answered; ran cat"),
        "{what}"
    );
    let table = prover.ok(&["snapshots"]).out;
    assert!(
        table.contains("PROVED") && table.contains(" yes"),
        "{table}"
    );
}

#[test]
fn a_command_that_fails_and_a_console_decide_the_verdict() {
    let lab = Lab::shared();
    let (prover, _original) = Prover::guest(lab, "prove-console", false);
    // Over the original's file, as a guest's own would be.
    let pattern = "^ready, the agent listens on /dev/\\w+$";
    let seen = prover.prove(&["--console", pattern]);
    assert_eq!(seen.code, 0, "{seen:?}");
    let report = seen.document();
    assert_eq!(report["pattern_found"], true);
    assert_eq!(report["agent_answered"], false, "it is not asked");
    let console = report["console"].to_string();
    assert!(console.contains("ready, the agent"), "{console}");

    let failed = prover.prove(&["--run", "echo no >&2; exit 7"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.err.contains("the command ended with 7"),
        "{failed:?}"
    );
    let report = failed.document();
    assert_eq!(report["passed"], false);
    assert_eq!(report["command"]["code"], 7);
    assert_eq!(report["command"]["stderr"], "no\n");
    assert_eq!(prover.proofs()[1]["passed"], false);
    let table = prover.ok(&["snapshots"]).out;
    assert!(table.contains(" FAILED"), "{table}");

    // A usual end of the whole timeout, with the guest alive.
    let never = prover.prove(&["--console", "^never$", "--timeout", "1s"]);
    assert_eq!(never.code, 1, "{never:?}");
    assert!(never.err.contains("did not write the pattern"), "{never:?}");
    prover.assert_nothing_is_left();
}

#[test]
fn a_blank_disk_fails_its_proof() {
    let lab = Lab::shared();
    let (prover, original) = Prover::light(lab, "prove-blank");
    let failed = prover.prove(&["--timeout", "2s"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.err.contains("agent did not answer within 2 s"),
        "{failed:?}"
    );
    let proofs = prover.proofs();
    assert_eq!(
        (proofs.len(), &proofs[0]["passed"]),
        (1, &Value::from(false))
    );
    let text = prover.ok(&["show", "prove-blank"]).out;
    assert!(text.contains("FAILED"), "{text}");
    prover.assert_nothing_is_left();
    original.check("vda", 0, MIB, 0xa1);
}

#[test]
fn a_machine_that_goes_off_fails_its_proof_at_once() {
    let lab = Lab::shared();
    let (prover, _original) = Prover::light(lab, "prove-off");
    let mut begun = prover.begin();
    // libvirt may say that it is gone already: it was ended by this.
    drop(lab.try_virsh(&["destroy", &begun.domain]));
    let status = begun.child.wait().expect("it can be waited for");
    assert_eq!(status.code(), Some(1));
    let proofs = prover.proofs();
    let what = proofs[0]["what"].as_str().expect("it is a text");
    assert!(what.contains("shut down or crashed"), "{what}");
    prover.assert_nothing_is_left();
}

#[test]
fn a_damaged_disk_is_named_in_the_verdict() {
    let lab = Lab::shared();
    let (prover, _original) = Prover::guest(lab, "prove-damaged", false);
    for pack in prover.world.stored("packs") {
        damage(&pack);
    }
    // The command itself ends well.
    let read = "cat /dev/vda >/dev/null; cat /dev/vdb >/dev/null; true";
    let failed = prover.prove(&["--run", read]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.err.contains("a disk could not be read: vd"),
        "{failed:?}"
    );
    assert_eq!(prover.proofs()[0]["passed"], false);
    prover.assert_nothing_is_left();
}

#[test]
fn a_signal_ends_a_proof_without_a_verdict() {
    let lab = Lab::shared();
    let (prover, _original) = Prover::light(lab, "prove-signal");
    for signal in ["-INT", "-TERM"] {
        let begun = prover.begin();
        let name = begun.domain.clone();
        assert_eq!(begun.end(signal), Some(130));
        assert_ne!(lab.try_virsh(&["domstate", &name]).code, 0);
        prover.assert_nothing_is_left();
    }
    assert!(prover.proofs().is_empty());
}

#[test]
fn what_kill_leaves_is_removed_by_the_next_proof_and_by_recover() {
    let lab = Lab::shared();
    let (prover, original) = Prover::light(lab, "prove-slain");
    for clears in ["prove", "recover"] {
        let begun = prover.begin();
        let name = begun.domain.clone();
        assert_eq!(begun.end("-KILL"), None);
        assert_eq!(prover.domains(), [&*name]);
        match clears {
            "prove" => assert_eq!(prover.prove(&["--timeout", "1s"]).code, 1),
            _ => {
                let ran = prover.ok(&["recover", "prove-slain", "--json"]);
                assert_eq!(ran.document()["proofs"], 1);
            }
        }
        assert_ne!(lab.try_virsh(&["domstate", &name]).code, 0);
        prover.assert_nothing_is_left();
    }
    // One that lives is left alone.
    let living = prover.begin();
    let ran = prover.ok(&["recover", "prove-slain", "--json"]);
    assert_eq!(ran.document()["proofs"], 0);
    assert_eq!(prover.domains(), [&*living.domain]);
    assert_eq!(living.end("-TERM"), Some(130));
    assert!(original.state().starts_with("running"));
}

/// What reaches the host, and is there only to be left out: the domain does not even start with it.
const REACHING_OUT: &str = "
    <interface type='bridge'><mac address='52:54:00:12:34:56'/><source bridge='no-such-bridge'/>
      <model type='virtio'/></interface>
    <filesystem type='mount'><source dir='/no/such/folder'/><target dir='share'/></filesystem>
    <disk type='file' device='cdrom'><source file='/no/such/iso'/>
      <target dev='sda' bus='sata'/></disk>
    <hostdev mode='subsystem' type='pci' managed='yes'><source>
      <address domain='0x0000' bus='0x7f' slot='0x1f' function='0x7'/></source></hostdev>
    <graphics type='vnc' port='5999' listen='0.0.0.0'/>
    <sound model='ich9'/>
    <video><model type='cirrus'/></video>
    <serial type='unix'><source mode='bind' path='/no/such/line'/><target port='1'/></serial>
  </devices>
  <qemu:commandline><qemu:arg value='-no-such-option'/></qemu:commandline>
</domain>";

#[test]
fn what_reaches_the_host_is_not_in_the_machine_that_runs() {
    let lab = Lab::shared();
    let prover = Prover::new(lab, "prove-rich");
    let original = lab.light("prove-rich", &[("vda", 16 * MIB)]);
    original.destroy();
    let nvram = original.folder().join("vars.fd");
    let variables: Vec<u8> = (0..256 * KIB).map(|at| (at % 251) as u8).collect();
    fs::write(&nvram, &variables).expect("the lab's folder can be written");
    let firmware = format!(
        "<loader readonly='yes' type='pflash'>/usr/share/seabios/bios-256k.bin</loader>\
         <nvram>{}</nvram></os>",
        text(&nvram)
    );
    let described = original.virsh(&["dumpxml", "--inactive", "prove-rich"]);
    let described = described
        .replacen(
            "<domain ",
            "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ",
            1,
        )
        .replacen("</os>", &firmware, 1)
        .replacen("</devices>\n</domain>", REACHING_OUT, 1);
    let xml = lab.path("prove-rich.xml");
    fs::write(&xml, described).expect("the lab's folder can be written");
    original.virsh(&["define", text(&xml)]);
    assert_ne!(
        lab.try_virsh(&["start", "prove-rich"]).code,
        0,
        "it starts with all that"
    );
    prover.ok(&["backup", "prove-rich"]);

    let begun = prover.begin();
    let running = lab.virsh(&["dumpxml", &begun.domain]);
    for word in [
        "no-such",
        "no/such",
        "hostdev",
        "graphics",
        "sound",
        "filesystem",
        "commandline",
    ] {
        assert!(!running.contains(word), "{word}: {running}");
    }
    assert!(running.contains("<interface type='user'>"), "{running}");
    assert!(running.contains("<link state='down'/>"), "{running}");
    let copy = prover.dir().join(&begun.domain).join("nvram.fd");
    assert!(running.contains(text(&copy)), "{running}");
    assert_eq!(fs::read(&copy).expect("it is there"), variables);
    assert_eq!(begun.end("-TERM"), Some(130));
    prover.assert_nothing_is_left();
    assert_eq!(fs::read(&nvram).expect("it is there"), variables);

    let report = prover.prove(&["--timeout", "1s"]).document();
    let dropped = report["dropped"].to_string();
    for words in [
        "hostdev",
        "filesystem",
        "graphics",
        "qemu:commandline",
        "(bridge)",
        "cdrom sda",
    ] {
        assert!(dropped.contains(words), "{words}: {dropped}");
    }
}

#[test]
fn a_snapshot_without_a_domain_needs_its_xml() {
    let lab = Lab::shared();
    let (prover, original) = Prover::light(lab, "prove-xml");
    let described = original.virsh(&["dumpxml", "--inactive", "prove-xml"]);
    let xml = lab.path("prove-xml.xml");
    fs::write(&xml, described).expect("the lab's folder can be written");
    original.destroy();
    let disk = format!("vda={}", text(&original.image("vda")));
    prover.ok(&["backup", "prove-xml", "--disk", &disk]);
    let refused = prover.prove(&["--timeout", "1s"]);
    refused.refused(1, "--domain-xml");
    let tried = prover.prove(&["--timeout", "1s", "--domain-xml", text(&xml)]);
    assert_eq!(tried.document()["passed"], false);
    let remote = prover.prove(&[
        "--connect",
        "test:///default",
        "--run-dir",
        "/nonexistent/x",
    ]);
    assert_eq!(remote.code, 1, "{remote:?}");
    let bad = prover.prove(&["--console", "("]);
    assert_eq!(bad.code, 2, "{bad:?}");
    assert_eq!(
        prover.proofs().len(),
        1,
        "what cannot be tried has no verdict"
    );
}

#[test]
fn a_qemu_of_another_user_reaches_all_it_needs() {
    let lab = Lab::start_as("nobody");
    let (prover, _original) = Prover::guest(&lab, "prove-nobody", false);
    let picture = lab.path("picture");
    let args = ["--run", "cat /mnt/vda/who", "--screenshot", text(&picture)];
    let ran = prover.prove(&args);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.document()["command"]["stdout"], "original\n");
    assert!(fs::metadata(&picture).is_ok_and(|file| file.len() > 0));
    prover.assert_nothing_is_left();
}
