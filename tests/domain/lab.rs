//! A lab of libvirt and QEMU, as tests see it. `tests/lab/lab.sh` does the work.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use crate::waiting::wait_for;
use crate::world::{MIB, Ran, World, text};

/// A libvirtd of the tests' own. It ends, with its domains, when this is dropped, or with the
/// process of the tests, however that ends.
pub struct Lab {
    folder: PathBuf,
    /// Its stdin is what it waits for the end of.
    holder: Child,
    /// The names of the domains that are there.
    names: Mutex<BTreeSet<String>>,
}

impl Lab {
    /// The lab that the tests of this process share. Their domains need names of their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Lab> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A lab of its own, for a test that restarts or changes the libvirtd.
    pub fn start() -> Self {
        Self::start_as("root")
    }

    /// A lab of its own whose libvirtd listens on the loopback too: by TLS, and by plain TCP.
    pub fn start_listening(tls: u16, tcp: u16) -> Self {
        Self::start_with(&[("LAB_PORTS", &format!("{tls} {tcp}"))])
    }

    /// A lab of its own whose QEMU runs as this user.
    pub fn start_as(user: &str) -> Self {
        Self::start_with(&[("LAB_QEMU_USER", user)])
    }

    /// The same, set up as libvirt is unless told otherwise: domains are confined.
    pub fn start_confined_as(user: &str) -> Self {
        Self::start_with(&[("LAB_QEMU_USER", user), ("LAB_CONFINED", "1")])
    }

    fn start_with(settings: &[(&str, &str)]) -> Self {
        // Not where TMPDIR says: paths of UNIX sockets must be short.
        let folder = tempfile::Builder::new().prefix("cl-").tempdir_in("/tmp");
        let folder = folder.expect("a temporary folder can be made").keep();
        let log = fs::File::create(folder.join("lab.log")).expect("the folder is new");
        let mut command = script(&folder);
        command
            .arg("hold")
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        // A ^C is for the tests; the lab notices when they are gone.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut holder = command.spawn().expect("bash can be run");
        let stdout = holder.stdout.take().expect("it was asked for");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let said = || fs::read_to_string(folder.join("lab.log")).unwrap_or_default();
        assert!(
            read.is_ok() && line == "ready\n",
            "the lab does not start: {}",
            said()
        );
        fs::create_dir(folder.join("run")).expect("the folder is new");
        Self {
            folder,
            holder,
            names: Mutex::default(),
        }
    }

    /// Starts a domain without an operating system, with these empty disks.
    pub fn light(&self, name: &str, disks: &[(&str, u64)]) -> Domain<'_> {
        self.domain(name, "light", disks)
    }

    /// Starts a small Linux with the guest agent, and ext4 on `vda` and `vdb`.
    pub fn guest(&self, name: &str) -> Domain<'_> {
        self.guest_with(name, &[("vda", 128 * MIB), ("vdb", 64 * MIB)])
    }

    /// Starts a small Linux with the guest agent, and ext4 on these disks, at `/mnt/<disk>`.
    pub fn guest_with(&self, name: &str, disks: &[(&str, u64)]) -> Domain<'_> {
        self.domain(name, "guest", disks)
    }

    fn domain(&self, name: &str, variant: &str, disks: &[(&str, u64)]) -> Domain<'_> {
        let mut names = self.names.lock().expect("nobody panics with it");
        let is_new = names.insert(name.to_owned());
        drop(names);
        assert!(is_new, "there is a domain {name} in this lab already");
        let domain = Domain {
            lab: self,
            name: name.to_owned(),
        };
        let disks: Vec<String> = disks
            .iter()
            .map(|(disk, size)| format!("{disk}={size}"))
            .collect();
        let mut args = vec!["define", name, variant];
        args.extend(disks.iter().map(String::as_str));
        self.script(&args);
        domain.start();
        domain
    }

    /// The libvirt URI.
    pub fn uri(&self) -> String {
        let socket = self.folder.join("libvirt/run/libvirt-sock");
        format!("qemu:///system?socket={}", text(&socket))
    }

    /// A file of the lab's folder, where paths are short and QEMU can look.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder with a CA's, a server's and a client's certificates.
    pub fn pki(&self) -> PathBuf {
        self.path("pki")
    }

    /// Kills the libvirtd, so that its sockets answer nothing. The domains go on.
    pub fn kill_libvirtd(&self) {
        let pid = self.libvirtd();
        assert!(kill("-KILL", pid));
        let exe = format!("/proc/{pid}/exe");
        wait_for("the libvirtd's end", || !Path::new(&exe).exists());
    }

    /// Starts a libvirtd where there is none.
    pub fn start_libvirtd(&self) {
        self.script(&["up"]);
    }

    /// Returns the libvirtd's process.
    pub fn libvirtd(&self) -> u32 {
        let path = self.path("libvirt/libvirtd.pid");
        let text = fs::read_to_string(path).expect("the libvirtd runs");
        text.trim().parse().expect("it is a number")
    }

    /// Runs virsh, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn virsh(&self, args: &[&str]) -> String {
        let ran = self.try_virsh(args);
        assert_eq!(ran.code, 0, "virsh {args:?}: {ran:?}");
        ran.out
    }

    pub fn try_virsh(&self, args: &[&str]) -> Ran {
        let mut command = Command::new("virsh");
        Ran::of(command.args(["-q", "-c", &self.uri()]).args(args))
    }

    /// The command, ready to be run on a world's repository and this lab's domains.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        world: &World,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = world.command(args);
        command
            .env("LIBVIRT_DEFAULT_URI", self.uri())
            .env("CAIRN_RUN_DIR", self.path("run"));
        command
    }

    pub fn cairn<S: AsRef<OsStr>>(&self, world: &World, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(&mut self.command(world, args))
    }

    #[track_caller]
    fn script(&self, args: &[&str]) -> Ran {
        let ran = Ran::of(script(&self.folder).args(args));
        assert_eq!(ran.code, 0, "lab.sh {args:?}: {ran:?}");
        ran
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}

/// Sends a signal to a process, and returns whether it was there.
pub fn kill(signal: &str, pid: u32) -> bool {
    let mut command = Command::new("/bin/kill");
    command.args([signal, &pid.to_string()]);
    command.status().expect("kill can be run").success()
}

fn script(folder: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/lab.sh");
    let mut command = Command::new("bash");
    command.arg(script).arg("-d").arg(folder);
    command.stdin(Stdio::null());
    command
}

/// A domain of a lab, deleted when this is dropped.
pub struct Domain<'a> {
    lab: &'a Lab,
    name: String,
}

impl Domain<'_> {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn uri(&self) -> String {
        self.lab.uri()
    }

    pub fn image(&self, disk: &str) -> PathBuf {
        self.folder().join(format!("{disk}.qcow2"))
    }

    /// The folder with its images, which QEMU can look into.
    pub fn folder(&self) -> PathBuf {
        self.lab.path("domains").join(&self.name)
    }

    /// Defines it anew, with its XML as `change` makes it. It must be off.
    #[track_caller]
    pub fn redefine(&self, change: impl FnOnce(String) -> String) {
        let xml = change(self.virsh(&["dumpxml", "--inactive", &self.name]));
        let path = self.folder().join("redefined.xml");
        fs::write(&path, xml).expect("the folder is there");
        self.virsh(&["define", text(&path)]);
    }

    /// Gives it one more device. It must be off.
    #[track_caller]
    pub fn add_device(&self, device: &str) {
        let device = format!("{device}</devices>");
        self.redefine(|xml| xml.replacen("</devices>", &device, 1));
    }

    /// Gives it one more disk, a qcow2 image that is there. It must be off.
    #[track_caller]
    pub fn add_disk(&self, target: &str, image: &Path) {
        self.add_device(&format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
             <source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
            text(image)
        ));
    }

    /// Starts it; a guest's agent is waited for.
    #[track_caller]
    pub fn start(&self) {
        self.lab.script(&["start", &self.name]);
    }

    /// Ends QEMU as by pulling the plug, but lets it close its images.
    #[track_caller]
    pub fn destroy(&self) {
        self.virsh(&["destroy", &self.name]);
    }

    /// Kills QEMU, and waits until libvirtd has noticed.
    #[track_caller]
    pub fn kill(&self) {
        self.lab.script(&["kill", &self.name]);
    }

    /// QEMU's process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        let path = format!("libvirt/run/qemu/{}.pid", self.name);
        let text = fs::read_to_string(self.lab.path(&path)).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// What `virsh domstate --reason` says, such as `running (booted)`.
    pub fn state(&self) -> String {
        let state = self.virsh(&["domstate", "--reason", &self.name]);
        state.trim().to_owned()
    }

    /// Writes through the running QEMU, as a guest would. A guest's own file systems do not
    /// expect it.
    #[track_caller]
    pub fn write(&self, disk: &str, offset: u64, len: u64, pattern: u8) {
        self.io("write", disk, offset, len, pattern);
    }

    /// Fails unless the running QEMU reads this byte there.
    #[track_caller]
    pub fn check(&self, disk: &str, offset: u64, len: u64, pattern: u8) {
        self.io("check", disk, offset, len, pattern);
    }

    #[track_caller]
    fn io(&self, what: &str, disk: &str, offset: u64, len: u64, pattern: u8) {
        let numbers = [offset, len, pattern.into()].map(|number| number.to_string());
        let [offset, len, pattern] = numbers.each_ref().map(String::as_str);
        let args = [what, &self.name, disk, offset, len, pattern];
        self.lab.script(&args);
    }

    /// Runs a shell command in the guest, and returns how it ended.
    #[track_caller]
    pub fn exec(&self, command: &str) -> Ran {
        let mut script = script(&self.lab.folder);
        let ran = Ran::of(script.args(["exec", &self.name, command]));
        assert_ne!(ran.code, 125, "the agent does not answer: {ran:?}");
        ran
    }

    /// Begins `writer 0 FILE...` in the guest, see `tests/lab/guest_writer.sh`, and waits until
    /// it has written.
    #[track_caller]
    pub fn begin_writing(&self, files: &[&str]) {
        let line = format!("writer 0 {} >/dev/null 2>&1 &", files.join(" "));
        assert_eq!(self.exec(&line).code, 0);
        let last = files.last().expect("there is a file to write");
        wait_for("something written", || {
            self.exec(&format!("[ -s {last} ]")).code == 0
        });
    }

    #[track_caller]
    pub fn virsh(&self, args: &[&str]) -> String {
        self.lab.virsh(args)
    }
}

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        // Not by a panic: a test that failed drops it while it unwinds.
        let mut script = script(&self.lab.folder);
        drop(script.args(["remove", &self.name]).output());
        if let Ok(mut names) = self.lab.names.lock() {
            names.remove(&self.name);
        }
    }
}
