//! Programs that Cairn runs are not told the passphrase.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::world::{MIB, PASSPHRASE, Ran, World, text};

/// A folder of programs that tell a file what they were told, and then do what they are for.
struct Tellers {
    world: World,
}

impl Tellers {
    fn of(programs: &[&str]) -> Self {
        let world = World::encrypted();
        fs::create_dir(world.path("bin")).expect("a folder can be made");
        for program in programs {
            let (bin, told) = (world.path("bin"), world.path("told"));
            let (bin, told) = (text(&bin), text(&told));
            let script = format!(
                "#!/bin/sh\n{{ echo \"{program} runs\"; env; }} >> {told}\n\
                 PATH=${{PATH#{bin}:}}\nexec {program} \"$@\"\n"
            );
            let path = world.path("bin").join(program);
            fs::write(&path, script).expect("a script can be written");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).expect("it can be run");
        }
        Self { world }
    }

    /// The command, which finds these programs before the system's own.
    fn command(&self, args: &[&str]) -> Command {
        let mut path = self.world.path("bin").into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").expect("there is a PATH"));
        let mut command = self.world.command(args);
        command.env("PATH", path).env("SEEN", "by children");
        command.env("CAIRN_PASSWORD_COMMAND", "echo nobody asks");
        command
    }

    /// Fails unless all these were run since, and knew the environment but for the passphrase.
    #[track_caller]
    fn assert_untold(&self, programs: &[&str]) {
        let path: PathBuf = self.world.path("told");
        let told = fs::read_to_string(&path).unwrap_or_default();
        for program in programs {
            assert!(
                told.contains(&format!("{program} runs")),
                "{program}: {told}"
            );
        }
        assert!(told.contains("SEEN=by children"), "{told}");
        assert!(!told.contains("CAIRN_PASSWORD"), "{told}");
        assert!(!told.contains(PASSPHRASE), "{told}");
        drop(fs::remove_file(path));
    }
}

#[test]
fn tools_for_images_and_mounts_are_not_told_the_passphrase() {
    let tellers = Tellers::of(&["qemu-img", "blkid", "umount"]);
    let world = &tellers.world;
    let file = File::create(world.path("a.raw")).expect("an image can be made");
    file.set_len(8 * MIB).expect("an image can grow");
    world.tool("mkfs.ext4", &["-qF", "a.raw"]);
    let convert = "convert -f raw -O qcow2 a.raw a.qcow2";
    world.tool("qemu-img", &convert.split(' ').collect::<Vec<_>>());
    let backup = ["backup", "web1", "--disk", "vda=a.qcow2,bitmap=auto"];
    let ran = Ran::of(&mut tellers.command(&backup));
    assert_eq!(ran.code, 0, "{ran:?}");
    tellers.assert_untold(&["qemu-img"]);

    // The process that stays is Cairn itself, and opens the repository.
    fs::create_dir(world.path("at")).expect("a folder can be made");
    let ran = Ran::of(&mut tellers.command(&["mount", "web1", "at", "--background"]));
    assert!([0, 3].contains(&ran.code), "{ran:?}");
    let ran = Ran::of(&mut tellers.command(&["umount", "at"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    tellers.assert_untold(&["blkid"]);
}

#[test]
fn the_way_to_another_host_is_not_told_the_passphrase() {
    let tellers = Tellers::of(&["ssh"]);
    let far = [
        "backup",
        "test",
        "--connect",
        "qemu+ssh://localhost:1/system",
    ];
    let ran = Ran::of(&mut tellers.command(&far));
    assert_eq!(ran.code, 1, "{ran:?}");
    let told = fs::read_to_string(tellers.world.path("told")).unwrap_or_default();
    assert!(told.contains("ssh runs"), "{ran:?}: {told}");
    assert!(!told.contains(PASSPHRASE), "{told}");
}
