//! The lab itself: what the other tests of live domains rely on.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::lab::{Domain, Lab};
use crate::world::{KIB, MIB, Ran, World, text};

fn byte_at(path: &Path, offset: u64) -> u8 {
    let mut byte = [0];
    let file = File::open(path).expect("the copy can be read");
    file.read_exact_at(&mut byte, offset)
        .expect("the copy is long enough");
    byte[0]
}

/// Begins a pull backup of these disks, whose server listens on `nbd` in the domain's folder.
fn begin_backup(domain: &Domain<'_>, disks: &[&str]) {
    let folder = domain.folder();
    let folder = text(&folder);
    let disks: String = disks
        .iter()
        .map(|disk| {
            format!(
                "<disk name='{disk}' backup='yes' type='file'>\
                 <scratch file='{folder}/{disk}.scratch'/></disk>"
            )
        })
        .collect();
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{folder}/nbd'/>\
         <disks>{disks}</disks></domainbackup>"
    );
    let path = domain.folder().join("backup.xml");
    fs::write(&path, xml).expect("the folder is there");
    domain.virsh(&["backup-begin", domain.name(), text(&path)]);
}

#[test]
fn what_is_written_is_read_back() {
    let domain = Lab::shared().light("pattern", &[("vda", 64 * MIB), ("vdb", 32 * MIB)]);
    domain.write("vda", MIB, 64 * KIB, 0xaa);
    domain.write("vdb", 0, 4 * KIB, 0x55);
    domain.check("vda", MIB, 64 * KIB, 0xaa);
    domain.check("vda", MIB - 4 * KIB, 4 * KIB, 0);
    domain.check("vdb", 0, 4 * KIB, 0x55);
    let differs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        domain.check("vda", MIB, 64 * KIB, 0xab);
    }));
    assert!(differs.is_err(), "any pattern is found");
}

#[test]
fn a_guest_runs_commands_and_writes() {
    let domain = Lab::shared().guest("guest");
    let ran = domain.exec("echo out; echo err >&2; exit 7");
    assert_eq!(
        (ran.code, &*ran.out, &*ran.err),
        (7, "out\n", "err\n"),
        "{ran:?}"
    );
    let mounted = domain.exec("grep -c ' /mnt/vd[ab] ext4 ' /proc/mounts");
    assert_eq!(mounted.out, "2\n", "{mounted:?}");
    domain.begin_writing(&["/mnt/vda/log", "/mnt/vdb/log"]);
    let lines = domain.exec("head -n 1 /mnt/vda/log /mnt/vdb/log | grep -c 000000000000001");
    assert_eq!(lines.out, "2\n", "{lines:?}");
}

#[test]
fn a_kill_is_noticed_and_survived() {
    let domain = Lab::shared().light("killed", &[("vda", 16 * MIB)]);
    domain.write("vda", 0, 64 * KIB, 0x11);
    let pid = domain.pid().expect("it runs");
    domain.kill();
    assert_eq!(domain.pid(), None);
    assert_eq!(domain.state(), "shut off (crashed)");
    domain.start();
    assert_ne!(domain.pid(), Some(pid));
    assert_eq!(domain.state(), "running (booted)");
    domain.destroy();
    assert_eq!(domain.state(), "shut off (destroyed)");
}

#[test]
fn domains_stand_side_by_side() {
    let lab = Lab::shared();
    let one = lab.light("one", &[("vda", 16 * MIB)]);
    let two = lab.light("two", &[("vda", 16 * MIB)]);
    one.write("vda", 0, 4 * KIB, 1);
    two.write("vda", 0, 4 * KIB, 2);
    one.kill();
    two.check("vda", 0, 4 * KIB, 2);
    one.start();
    // What a killed QEMU had not flushed may be gone, but it is not the other's.
    let uuid = |domain: &Domain<'_>| domain.virsh(&["domuuid", domain.name()]);
    assert_ne!(uuid(&one), uuid(&two));
    let (path, image) = (one.image("vda"), two.image("vda"));
    assert!(path.exists() && image.exists() && path != image);
    assert_eq!(one.uri(), two.uri());
    drop(two);
    assert!(!image.exists());
    let gone = lab.try_virsh(&["domstate", "two"]);
    assert!(gone.err.contains("failed to get domain"), "{gone:?}");
}

#[test]
fn a_pull_backup_is_of_one_point_in_time() {
    let domain = Lab::shared().light("pull", &[("vda", 64 * MIB), ("vdb", 32 * MIB)]);
    domain.write("vda", MIB, 64 * KIB, 0x11);
    domain.write("vdb", 5 * MIB, 128 * KIB, 0x33);
    begin_backup(&domain, &["vda", "vdb"]);
    domain.write("vda", MIB, 64 * KIB, 0xaa);
    domain.write("vda", 30 * MIB, 64 * KIB, 0xab);
    domain.write("vdb", 5 * MIB, 64 * KIB, 0xac);
    for disk in ["vda", "vdb"] {
        let socket = domain.folder().join("nbd");
        let uri = format!("nbd+unix:///{disk}?socket={}", text(&socket));
        let copy = domain.folder().join(disk);
        let ran = Ran::of(Command::new("nbdcopy").args([&uri, text(&copy)]));
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    domain.virsh(&["domjobabort", domain.name()]);
    let (vda, vdb) = (domain.folder().join("vda"), domain.folder().join("vdb"));
    assert_eq!(byte_at(&vda, MIB), 0x11);
    assert_eq!(byte_at(&vda, 30 * MIB), 0);
    assert_eq!(byte_at(&vdb, 5 * MIB), 0x33);
    domain.check("vda", MIB, 64 * KIB, 0xaa);
}

#[test]
fn a_lab_of_its_own_runs_qemu_as_another_user_and_goes_away() {
    let lab = Lab::start_as("nobody");
    let folder = lab.path(".");
    let domain = lab.light("web1", &[("vda", 16 * MIB)]);
    domain.write("vda", 0, 4 * KIB, 9);
    let pid = domain.pid().expect("it runs");
    let process = fs::metadata(format!("/proc/{pid}")).expect("it runs");
    let image = fs::metadata(domain.image("vda")).expect("it is there");
    assert_ne!(process.uid(), 0);
    assert_eq!(image.uid(), process.uid());
    let world = World::new();
    let ran = lab.cairn(&world, ["snapshots"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(lab.pki().join("client-cert.pem").exists());
    drop(domain);
    drop(lab);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
