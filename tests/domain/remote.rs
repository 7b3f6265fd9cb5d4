//! Domains of other hosts: by ssh, with a real sshd on the loopback, and by TLS.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::lab::{Domain, Lab};
use crate::waiting::wait_for;
use crate::world::{KIB, MIB, Ran, World, text};

/// Where the sockets of domains are on a host that root is asked on.
const ROOTS_FOLDER: &str = "/run/cairn";

/// An sshd that sees what the lab's libvirtd sees. Ends when dropped.
struct Sshd {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Sshd {
    fn start(lab: &Lab) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for name in ["host", "key"] {
            let path = folder.path().join(name);
            let args = ["-q", "-t", "ed25519", "-N", "", "-f", text(&path)];
            let made = Command::new("ssh-keygen").args(args).status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        let port = free_port();
        let place = text(folder.path());
        let configuration = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile none\n\
             AuthorizedKeysFile {place}/key.pub\nUsePAM no\nMaxStartups 100\nStrictModes no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nAllowStreamLocalForwarding yes\n"
        );
        fs::write(folder.path().join("conf"), configuration).expect("the folder is new");
        // The tests' own ssh: neither root's settings nor the hosts that root knows are touched.
        let wrapper = "#!/bin/sh\nexec ssh -F none -o UserKnownHostsFile=/dev/null \"$@\"\n";
        let ssh = folder.path().join("ssh");
        fs::write(&ssh, wrapper).expect("the folder is new");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&ssh, mode).expect("it is ours");
        fs::create_dir_all("/run/sshd").expect("the tests run as root");
        let pid = fs::read_to_string(lab.path("libvirt/libvirtd.pid")).expect("libvirtd runs");
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", pid.trim(), "/usr/sbin/sshd", "-D", "-e", "-f"]);
        command.arg(folder.path().join("conf")).stdin(Stdio::null());
        let log = fs::File::create(folder.path().join("log")).expect("the folder is new");
        let child = command.stderr(log).spawn().expect("nsenter runs");
        let sshd = Self {
            folder,
            port,
            child,
        };
        wait_for("sshd listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        sshd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn uri(&self) -> String {
        format!(
            "qemu+ssh://root@localhost:{}/system?keyfile={}&no_verify=1&sshauth=privkey&command={}",
            self.port,
            text(&self.path("key")),
            text(&self.path("ssh")),
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("the loopback is there");
    socket.local_addr().expect("it is bound").port()
}

/// A backup's command line.
fn backup(lab: &Lab, world: &World, domain: &Domain<'_>, more: &[&str]) -> Command {
    let mut args = vec!["backup", domain.name(), "--scratch-min", "1M", "--json"];
    args.extend(more);
    lab.command(world, args)
}

#[track_caller]
fn done(command: &mut Command) -> Value {
    let ran = Ran::of(command);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.document()
}

fn recipes(document: &Value) -> Vec<Value> {
    let disks = document["disks"].as_array().expect("there are disks");
    disks.iter().map(|disk| disk["recipe"].clone()).collect()
}

/// Begins a backup over ssh that takes long, and waits until disks are read.
fn begin_slow(lab: &Lab, world: &World, domain: &Domain<'_>, uri: &str) -> (Child, String) {
    let args = ["--connect", uri, "--limit", "1MiB"];
    let mut command = backup(lab, world, domain, &args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("cairn runs");
    let mut run = String::new();
    wait_for("a job is at work", || {
        let entries = fs::read_dir(lab.path("run")).expect("the folder is there");
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names = names.filter_map(|name| name.into_string().ok());
        let job = lab.try_virsh(&["backup-dumpxml", domain.name()]);
        // Other tests have runs there too.
        let is_run = |name: &String| name != "domains" && job.out.contains(name.as_str());
        run = names.find(is_run).unwrap_or_default();
        job.code == 0 && !run.is_empty()
    });
    (child, run)
}

/// The process that forwards QEMU's socket.
fn bridge(lab: &Lab, run: &str) -> u32 {
    let socket = lab.path("run").join(run).join("nbd.sock");
    let forwarded = format!("{}:{ROOTS_FOLDER}/{run}/nbd.sock", text(&socket));
    let entries = fs::read_dir("/proc").expect("it is mounted").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|arg| arg == forwarded.as_bytes())
    });
    found.expect("something forwards the socket")
}

fn kill(pid: u32) {
    let killed = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}

#[test]
fn backups_over_ssh_are_those_of_the_host_itself() {
    let (lab, world) = (Lab::shared(), World::new());
    let domain = lab.light("far", &[("vda", 32 * MIB), ("vdb", 16 * MIB)]);
    let sshd = Sshd::start(lab);
    let uri = sshd.uri();
    let far = ["--connect", &uri];
    domain.write("vda", MIB, 2 * MIB, 0x11);
    let first = done(&mut backup(lab, &world, &domain, &far));
    assert_eq!(first["domain"]["method"], "pull");
    let full = done(&mut backup(lab, &world, &domain, &["--full"]));
    assert_eq!(recipes(&first), recipes(&full));
    domain.write("vda", 8 * MIB, 64 * KIB, 0x22);
    let second = done(&mut backup(lab, &world, &domain, &far));
    assert_eq!(second["disks"][0]["mode"], "incremental");
    assert_eq!(second["disks"][0]["dirty_bytes"], 64 * KIB);
    let full = done(&mut backup(lab, &world, &domain, &["--full"]));
    assert_eq!(recipes(&second), recipes(&full));
    // Room is looked at over there.
    let mut none = lab.command(&world, ["backup", domain.name(), "--scratch-min", "1000T"]);
    let refused = Ran::of(none.args(far));
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.err.contains("bytes free for scratch files"),
        "{refused:?}"
    );
}

#[test]
fn a_bridge_that_breaks_fails_the_backup_and_leaves_nothing() {
    let (lab, world) = (Lab::start(), World::new());
    let domain = lab.light("bridge", &[("vda", 32 * MIB)]);
    let sshd = Sshd::start(&lab);
    let uri = sshd.uri();
    domain.write("vda", 0, 24 * MIB, 0x11);
    let (child, run) = begin_slow(&lab, &world, &domain, &uri);
    kill(bridge(&lab, &run));
    let output = child.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(domain.state().starts_with("running"));
    assert_ne!(lab.try_virsh(&["backup-dumpxml", "bridge"]).code, 0);
    assert!(!Path::new(ROOTS_FOLDER).join(&run).exists(), "{err}");
    let next = done(&mut backup(&lab, &world, &domain, &["--connect", &uri]));
    let full = done(&mut backup(&lab, &world, &domain, &["--full"]));
    assert_eq!(recipes(&next), recipes(&full));
}

#[test]
fn what_a_killed_run_left_on_the_host_is_cleared_by_the_next() {
    let (lab, world) = (Lab::start(), World::new());
    let domain = lab.light("killed", &[("vda", 32 * MIB)]);
    let sshd = Sshd::start(&lab);
    let uri = sshd.uri();
    domain.write("vda", 0, 24 * MIB, 0x11);
    let (mut child, run) = begin_slow(&lab, &world, &domain, &uri);
    let bridge = bridge(&lab, &run);
    kill(child.id());
    drop(child.wait());
    // Nobody is left who needs it.
    wait_for("the bridge ends", || {
        !Path::new(&format!("/proc/{bridge}")).exists()
    });
    let folder = Path::new(ROOTS_FOLDER).join(&run);
    assert!(folder.exists());
    let next = done(&mut backup(&lab, &world, &domain, &["--connect", &uri]));
    assert!(!folder.exists() && !lab.path("run").join(&run).exists());
    let full = done(&mut backup(&lab, &world, &domain, &["--full"]));
    assert_eq!(recipes(&next), recipes(&full));
}

#[test]
fn tls_hosts_are_read_by_tls_and_plain_ones_not_at_all() {
    let (tls, tcp) = (free_port(), free_port());
    let (lab, world) = (Lab::start_listening(tls, tcp), World::new());
    let domain = lab.light("tls", &[("vda", 16 * MIB)]);
    domain.write("vda", MIB, MIB, 0x11);
    let pki = lab.pki();
    let pki = text(&pki);
    let uri = format!("qemu+tls://localhost:{tls}/system?pkipath={pki}/libvirt");
    let unsaid = Ran::of(&mut backup(&lab, &world, &domain, &["--connect", &uri]));
    assert_eq!(unsaid.code, 2, "{unsaid:?}");
    assert!(unsaid.err.contains("--nbd-port") && unsaid.err.contains("--tls-certificates"));
    let port = free_port().to_string();
    let far = [
        "--connect",
        &uri,
        "--nbd-port",
        &port,
        "--tls-certificates",
        pki,
    ];
    let first = done(&mut backup(&lab, &world, &domain, &far));
    let warnings = first["warnings"].to_string();
    assert!(
        warnings.contains("cannot be looked at over TLS"),
        "{warnings}"
    );
    domain.write("vda", 4 * MIB, 64 * KIB, 0x22);
    let second = done(&mut backup(&lab, &world, &domain, &far));
    assert_eq!(second["disks"][0]["mode"], "incremental");
    let full = done(&mut backup(&lab, &world, &domain, &["--full"]));
    assert_eq!(recipes(&second), recipes(&full));
    let plain = format!("qemu+tcp://localhost:{tcp}/system");
    let refused = Ran::of(&mut backup(&lab, &world, &domain, &["--connect", &plain]));
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("protect nothing"), "{refused:?}");
}
