//! How a mount ends: when it is asked to, when someone is in the way, and when it is killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::guest_disks::{HostMount, format, populate};
use crate::mount::Mounted;
use crate::waiting::wait_for;
use crate::world::{MIB, World, text};

/// What the kernel has mounted.
pub fn kernel_mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table can be read");
    // Other tests mount as well.
    let ours = |line: &&str| !line.contains("/run/cairn/") && !line.contains("/.tmp");
    table.lines().filter(ours).map(Into::into).collect()
}

/// Fails if anything of a mount whose process had this id is there still.
#[track_caller]
pub fn assert_nothing_left(world: &World, pid: u32) {
    let run = format!("/run/cairn/mounts/{pid}-");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table can be read");
    let at = world.path("at");
    for trace in [&*run, text(&at)] {
        let line = table.lines().find(|line| line.contains(trace));
        assert_eq!(line, None, "still mounted");
    }
    for device in fs::read_dir("/sys/block")
        .expect("devices can be listed")
        .flatten()
    {
        let file = device.path().join("loop/backing_file");
        let file = fs::read_to_string(file).unwrap_or_default();
        assert!(!file.contains(&run), "{file} is still attached");
    }
    let folders = fs::read_dir("/run/cairn/mounts")
        .into_iter()
        .flatten()
        .flatten();
    for folder in folders {
        assert!(
            !text(&folder.path()).starts_with(&run),
            "{folder:?} is left"
        );
    }
}

/// A world with a snapshot of a small ext4.
fn small() -> World {
    let world = World::new();
    format(&world, "ext4", "disk.raw", 48 * MIB);
    populate(&HostMount::new(&world, "disk.raw", "rw").path, 7);
    world.backup("disk.raw");
    world
}

fn some_file(folder: &Path) -> PathBuf {
    folder.join("vda/folder 1/file 1")
}

fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that nobody waited for yet is not running.
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn is_mounted(folder: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table can be read");
    table.contains(&format!(" {} ", text(folder)))
}

/// Starts a mount in the foreground, and waits until it is ready.
fn foreground(world: &World) -> Child {
    fs::create_dir_all(world.path("at")).expect("a folder can be made");
    let mut command = world.command(["mount", "web1", "at"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command can be run");
    let mut line = String::new();
    let stderr = child.stderr.as_mut().expect("it is piped");
    BufReader::new(stderr)
        .read_line(&mut line)
        .expect("it can be read");
    assert!(line.contains("ready"), "{line}");
    child
}

fn signal(world: &World, pid: u32, name: &str) {
    world.tool("kill", &["-s", name, &pid.to_string()]);
}

#[test]
fn a_signal_ends_a_mount() {
    let world = small();
    for name in ["INT", "TERM"] {
        let mut child = foreground(&world);
        assert!(some_file(&world.path("at")).exists());
        signal(&world, child.id(), name);
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        assert_nothing_left(&world, child.id());
    }
}

#[test]
fn unmounting_by_other_means_ends_a_mount() {
    let world = small();
    let mut child = foreground(&world);
    world.tool("umount", &["--recursive", "at"]);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_nothing_left(&world, child.id());
}

#[test]
fn users_are_named_and_kept() {
    let world = small();
    let mounted = Mounted::new(&world, "web1", &[]);
    let mut sleeper = Command::new("sleep")
        .arg("1000")
        .current_dir(mounted.path().join("vda/folder 1"))
        .spawn()
        .expect("sleep can be run");
    let who = format!("sleep (pid {})", sleeper.id());
    world.run(["umount", "at"]).refused(11, &who);
    assert!(some_file(&mounted.path()).exists(), "it is mounted still");
    sleeper.kill().expect("it can be killed");
    sleeper.wait().expect("it ends");

    let inner = mounted.path().join("vda/folder 1");
    world.tool("mount", &["-t", "tmpfs", "inner", text(&inner)]);
    world.run(["umount", "at"]).refused(11, "folder 1");
    world.tool("umount", &[text(&inner)]);
    mounted.end();
}

#[test]
fn a_lazy_umount_serves_its_users_to_the_end() {
    let world = small();
    let mounted = Mounted::new(&world, "web1", &[]);
    let pid = mounted.pid();
    let original = HostMount::new(&world, "disk.raw", "ro");
    let expected = fs::read(original.path.join("folder 1/file 1")).expect("it can be read");
    let file = File::open(some_file(&mounted.path())).expect("it can be opened");
    // The test itself is the user.
    let ran = world.run(["umount", "at"]);
    ran.refused(11, &format!("(pid {})", std::process::id()));
    world.ok(["umount", "at", "--lazy"]);
    assert!(!is_mounted(&world.path("at")));
    // sleeps: it is to last for as long as the file is open, and nothing tells of an end to come.
    thread::sleep(Duration::from_millis(1500));
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0)
        .expect("it can be read still");
    assert!(found == expected);
    assert!(is_running(pid));
    drop(file);
    wait_for("ended", || !is_running(pid));
    std::mem::forget(mounted);
    assert_nothing_left(&world, pid);
    world
        .run(["umount", "at"])
        .refused(1, "no snapshot is mounted");
}

#[test]
fn a_signal_waits_for_users_and_a_second_cuts_them_off() {
    let world = small();
    let mut child = foreground(&world);
    let file = File::open(some_file(&world.path("at"))).expect("it can be opened");
    signal(&world, child.id(), "INT");
    wait_for("out of sight", || !is_mounted(&world.path("at")));
    assert_eq!(child.try_wait().expect("known"), None);
    drop(file);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_nothing_left(&world, child.id());

    let mut child = foreground(&world);
    let file = File::open(some_file(&world.path("at"))).expect("it can be opened");
    signal(&world, child.id(), "INT");
    wait_for("out of sight", || !is_mounted(&world.path("at")));
    signal(&world, child.id(), "INT");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    drop(file);
    let devices = || fs::read_dir("/sys/block").expect("listed").flatten();
    let run = format!("/run/cairn/mounts/{}-", child.id());
    wait_for("detached", || {
        devices().all(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file"));
            !file.unwrap_or_default().contains(&run)
        })
    });
    assert_nothing_left(&world, child.id());
}

#[test]
fn a_mount_that_was_killed_can_be_unmounted() {
    let world = small();
    let mounted = Mounted::new(&world, "web1", &[]);
    let pid = mounted.pid();
    signal(&world, pid, "KILL");
    wait_for("dead", || !is_running(pid));
    let mut all = Vec::new();
    let read =
        File::open(some_file(&mounted.path())).and_then(|mut file| file.read_to_end(&mut all));
    assert!(read.is_err(), "nobody serves it");
    mounted.end();
    Mounted::new(&world, "web1", &[]).end();
}

#[test]
fn a_mount_that_was_killed_is_in_nobodys_way() {
    let world = small();
    let first = Mounted::new(&world, "web1", &[]);
    let pid = first.pid();
    world.run(["mount", "web1", "at"]).refused(11, "already");
    signal(&world, pid, "KILL");
    wait_for("dead", || !is_running(pid));
    let second = Mounted::new(&world, "web1", &[]);
    std::mem::forget(first);
    assert_nothing_left_of(pid);
    assert!(fs::read(some_file(&second.path())).is_ok());

    let file = File::open(some_file(&second.path())).expect("it can be opened");
    signal(&world, second.pid(), "KILL");
    let pid = second.pid();
    wait_for("dead", || !is_running(pid));
    world.run(["umount", "at"]).refused(11, "pid");
    world.ok(["umount", "at", "--lazy"]);
    std::mem::forget(second);
    drop(file);
    wait_for("gone", || {
        !Path::new(&format!("/run/cairn/mounts/{pid}-0")).exists()
    });
    Mounted::new(&world, "web1", &[]).end();
}

#[test]
fn of_two_mounts_at_once_one_is_refused() {
    let world = small();
    fs::create_dir_all(world.path("at")).expect("a folder can be made");
    for _ in 0..3 {
        let both = [(); 2].map(|()| {
            let mut command = world.command(["mount", "web1", "at", "--background"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("the command can be run")
        });
        let mut codes = both.map(|mut child| child.wait().expect("it ends").code());
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(11)]);
        assert!(some_file(&world.path("at")).exists());
        world.ok(["umount", "at"]);
        assert!(!is_mounted(&world.path("at")));
    }
}

#[test]
fn what_others_mounted_on_top_is_not_taken_for_ours() {
    let world = small();
    let mounted = Mounted::new(&world, "web1", &[]);
    world.tool("mount", &["-t", "tmpfs", "other", "at"]);
    for more in [&[][..], &["--lazy"]] {
        let ran = world.run([&["umount", "at"], more].concat());
        ran.refused(11, "what is mounted at");
    }
    world.tool("umount", &["at"]);
    assert!(some_file(&mounted.path()).exists(), "it is mounted still");
    mounted.end();
}

#[test]
fn a_mount_that_was_killed_before_it_was_ready_is_cleaned_up() {
    let world = small();
    fs::create_dir_all(world.path("at")).expect("a folder can be made");
    let table = || fs::read_to_string("/proc/self/mountinfo").expect("the table can be read");
    let attached = |run: &str| {
        let devices = fs::read_dir("/sys/block").expect("listed").flatten();
        let mut files = devices.map(|device| {
            fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default()
        });
        files.any(|file| file.contains(run))
    };
    let at = format!(" {} ", text(&world.path("at")));
    for stage in 0..5 {
        let mut command = world.command(["mount", "web1", "at"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the command can be run");
        let run = format!("/run/cairn/mounts/{}-0", child.id());
        let is_there = || match stage {
            0 => Path::new(&run).exists(),
            1 => table().contains(&format!("{run}/volumes")),
            2 => table().contains(&at),
            3 => attached(&run),
            _ => table().contains(&format!("{}/vda ", at.trim_end())),
        };
        wait_for(&format!("stage {stage}"), is_there);
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let ran = world.run(["umount", "at"]);
        // Killed at the very first, it had not yet said where.
        assert!(matches!(ran.code, 0 | 1), "stage {stage}: {ran:?}");
        Mounted::new(&world, "web1", &[]).end();
        assert_nothing_left(&world, child.id());
    }
}

#[test]
fn a_mount_in_the_background_leaves_the_folder_it_was_started_in() {
    let world = small();
    let mounted = Mounted::new(&world, "web1", &[]);
    let folder = fs::read_link(format!("/proc/{}/cwd", mounted.pid()));
    assert_eq!(folder.expect("it runs"), Path::new("/"));
    // Whatever it opens later is found all the same.
    assert!(fs::read(some_file(&mounted.path())).is_ok());
    mounted.end();
}

fn assert_nothing_left_of(pid: u32) {
    let run = format!("/run/cairn/mounts/{pid}-");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table can be read");
    assert!(!table.contains(&run), "{table}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let world = small();
    let original = HostMount::new(&world, "disk.raw", "ro");
    world
        .run(["umount", text(&original.path)])
        .refused(1, "no snapshot is mounted");
    assert!(original.path.join("folder 1/file 1").exists());
}
