//! Domains that run from a snapshot while their disks become whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::lab::Lab;
use crate::waiting::attempts;
use crate::world::{KIB, MIB, Ran, World, text};

/// A domain that is restored at once, on a lab of its own world.
struct Restored {
    world: World,
    lab: &'static Lab,
    name: &'static str,
}

impl Restored {
    /// Backs a light domain's disk up whose first bytes are known, and restores it as `name`.
    fn begin(name: &'static str, options: &[&str]) -> Self {
        let lab = Lab::shared();
        let original = format!("{name}-original");
        let domain = lab.light(&original, &[("vda", 64 * MIB)]);
        domain.write("vda", 0, 24 * MIB, 0xa1);
        domain.write("vda", 40 * MIB, 64 * KIB, 0xb2);
        let xml = lab.path(&format!("{name}.xml"));
        let described = domain.virsh(&["dumpxml", "--inactive", &original]);
        fs::write(&xml, described).expect("the lab's folder can be written");
        domain.destroy();
        let restored = Self {
            world: World::new(),
            lab,
            name,
        };
        let disk = format!("vda={}", text(&domain.image("vda")));
        restored.cairn(&["backup", "web", "--disk", &disk]);
        let folder = lab.path("domains");
        let mut args = vec!["restore", "web", "--instant", "--define", name, "--new-ids"];
        args.extend(["--dir", text(&folder), "--domain-xml", text(&xml)]);
        args.extend(options);
        restored.cairn(&args);
        restored
    }

    fn try_cairn(&self, args: &[&str]) -> Ran {
        let mut command = self.lab.command(&self.world, args);
        Ran::of(command.env("CAIRN_STATE_DIR", self.states()))
    }

    #[track_caller]
    fn cairn(&self, args: &[&str]) -> Ran {
        let ran = self.try_cairn(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran
    }

    fn states(&self) -> PathBuf {
        self.lab.path(&format!("{}-states", self.name))
    }

    fn image(&self) -> PathBuf {
        self.lab.path(&format!("domains/{}-vda.qcow2", self.name))
    }

    /// What `instant list` says of it; null when it is at its end.
    fn listed(&self) -> Value {
        let document = self.cairn(&["instant", "list", "--json"]).document();
        document["instants"][0].clone()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let looked = attempts(|| {
            let listed = self.listed();
            if is_so(&listed) { Ok(()) } else { Err(listed) }
        });
        looked.unwrap_or_else(|listed| panic!("never {what}: {listed}"));
    }

    /// Kills what serves the export.
    fn kill_export(&self) {
        let socket = self.listed()["socket"]
            .as_str()
            .expect("it is listed")
            .to_owned();
        let lock = Path::new(&socket).with_file_name("export.lock");
        let processes = fs::read_dir("/proc").expect("there is one").flatten();
        let serving = processes
            .map(|process| process.path())
            .find(|path| fs::read_link(path.join("fd/0")).is_ok_and(|input| input == lock));
        let pid = serving.expect("a process serves");
        kill(text(Path::new(pid.file_name().expect("it has one"))));
    }

    fn kill_watcher(&self) {
        let uuid = self.listed()["uuid"]
            .as_str()
            .expect("it is listed")
            .to_owned();
        let pid = fs::read_to_string(self.states().join(format!("instant/{uuid}.lock")));
        kill(pid.expect("it is watched").trim());
    }

    /// Compares the disk, read from its file alone, with the snapshot.
    fn assert_whole(&self) {
        self.lab.virsh(&["destroy", self.name]);
        let raw = self.lab.path(&format!("{}-whole.raw", self.name));
        self.cairn(&["restore", "web", "--disk", "vda", "--to", text(&raw)]);
        let image = self.image();
        self.world.tool("qemu-img", &["check", "-q", text(&image)]);
        self.world
            .assert_equal(("qcow2", text(&image)), ("raw", text(&raw)));
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        drop(self.try_cairn(&["instant", "abort", self.name, "--force"]));
        drop(self.lab.try_virsh(&["destroy", self.name]));
        drop(self.lab.try_virsh(&["undefine", self.name]));
    }
}

fn kill(pid: &str) {
    let killed = Command::new("kill").args(["-9", pid]).status();
    assert!(killed.is_ok_and(|status| status.success()), "{pid}");
}

#[test]
fn at_the_end_nothing_of_cairn_is_left_and_the_disk_is_whole() {
    let restored = Restored::begin("instant-whole", &["--start"]);
    restored.wait_for("the disk becomes whole", Value::is_null);
    for inactive in [&[][..], &["--inactive"]] {
        let mut args = vec!["dumpxml", restored.name];
        args.extend(inactive);
        assert!(!restored.lab.virsh(&args).contains("nbd"), "{args:?}");
    }
    restored.assert_whole();
    // Nothing pins the snapshot any more.
    restored.cairn(&["forget", "web", "--yes"]);
}

#[test]
fn what_is_killed_on_the_way_comes_back_and_the_snapshot_is_pinned() {
    let restored = Restored::begin("instant-killed", &["--start", "--pull-limit", "2MiB"]);
    let refused = restored.try_cairn(&["forget", "web", "--yes"]);
    assert_eq!(refused.code, 11, "{refused:?}");

    restored.kill_export();
    restored.wait_for("the export is back", |now| now["export_alive"] == true);

    restored.kill_watcher();
    restored.kill_export();
    restored.wait_for("both are dead", |now| {
        now["export_alive"] == false && now["supervisor_alive"] == false
    });
    restored.cairn(&["instant", "resume"]);
    restored.wait_for("both are back", |now| {
        now["export_alive"] == true && now["supervisor_alive"] == true
    });

    restored.lab.virsh(&["destroy", restored.name]);
    restored.wait_for("it is off", |now| now["state"] == "off");
    restored.lab.virsh(&["start", restored.name]);
    restored.wait_for("the disk becomes whole", Value::is_null);
    restored.assert_whole();
}

#[test]
fn a_restore_is_given_up_only_by_force() {
    let restored = Restored::begin("instant-abort", &[]);
    assert_eq!(restored.listed()["state"], "off");
    let refused = restored.try_cairn(&["instant", "abort", restored.name]);
    refused.refused(2, "needs the export");
    assert!(restored.image().exists());
    restored.cairn(&["instant", "abort", restored.name, "--force"]);
    assert!(!restored.image().exists());
    assert!(restored.listed().is_null());
    assert_ne!(restored.lab.try_virsh(&["dominfo", restored.name]).code, 0);
    restored.cairn(&["forget", "web", "--yes"]);
}
