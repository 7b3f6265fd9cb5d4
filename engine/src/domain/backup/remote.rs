//! A host that is reached by ssh: its shell, QEMU's socket there, and the bridge to it.
//!
//! One ssh process is the bridge. It forwards the socket, tells every few seconds what is free for
//! scratch files, and serves the other commands as their master, so that they need no handshake.
//! When it ends, the backup is worthless. It ends when this process does: the shell on the host
//! waits for the end of its stdin.

use std::fs::File;
use std::io::{PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::far_folder::{self, ROOTS_FOLDER, server_socket};
use super::scratch::Room;
use crate::child;
use crate::domain::DomainError;
use crate::domain::pipe::Reading;
use crate::limits::MIB;
use crate::nbd::uri::decode;
use crate::source::libvirt::Transport;
use crate::source::libvirt::xml::SecurityLabel;
use crate::threads::Joined;

/// How long a command on the host may take, its handshake included.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Longest output of one.
const OUTPUT_LEN_MAX: usize = 65 * MIB as usize;
/// Longest line of what is free, and longest complaint.
const TEXT_LEN_MAX: usize = 4096;
/// How long a complaint may take after the command that complains has ended.
const COMPLAINT_MAX: Duration = Duration::from_secs(1);
/// Seconds between two looks at what is free.
const LOOK_SECONDS: u32 = 2;
/// What ends a round of looks.
const ROUND: &str = ".";
/// What all connections have: no questions, and an end when the host does not answer.
const OPTIONS: [&str; 7] = [
    "BatchMode=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=4",
    "LogLevel=ERROR",
    "RemoteCommand=none",
    "ControlPersist=no",
];

/// Why a command on a host gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It took too long.
    #[error("it takes too long")]
    Slow,
    /// It failed, in its own words.
    #[error("{0}")]
    Said(String),
}

/// A host's shell.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Host {
    name: String,
    program: String,
    args: Vec<String>,
    control: PathBuf,
}

impl Host {
    /// Returns how the host of a libvirt URI is reached, if that is by ssh. `control` is the socket
    /// of the bridge; while there is none, each command connects for itself.
    pub(in crate::domain) fn of(uri: &str, control: &Path) -> Option<Self> {
        let Transport::Ssh { host, user, port } = Transport::of(uri) else {
            return None;
        };
        let mut found = Self {
            name: host,
            program: "ssh".to_owned(),
            args: ["-T", "-e", "none"].map(str::to_owned).to_vec(),
            control: control.to_owned(),
        };
        for option in OPTIONS {
            found.option(option);
        }
        let port = port.map(|port| port.to_string());
        for (flag, value) in [("-p", port), ("-l", user)] {
            if let Some(value) = value {
                found.args.extend([flag.to_owned(), value]);
            }
        }
        for (name, value) in parameters(uri) {
            match (&*name, &*value) {
                ("command", _) => found.program = value,
                ("keyfile", _) => found.args.extend(["-i".to_owned(), value]),
                ("known_hosts", _) => found.option(&format!("UserKnownHostsFile=\"{value}\"")),
                ("no_verify", "0") => {}
                ("no_verify", _) | ("known_hosts_verify", "ignore") => {
                    found.option("StrictHostKeyChecking=no");
                }
                ("known_hosts_verify", "auto") => found.option("StrictHostKeyChecking=accept-new"),
                _ => {}
            }
        }
        Some(found)
    }

    fn option(&mut self, option: &str) {
        self.args.extend(["-o".to_owned(), option.to_owned()]);
    }

    /// Returns ssh, which will run a script.
    fn command(&self, more: &[&str], script: &str) -> Command {
        let mut command = child::program(&self.program);
        command.args(&self.args);
        // A percent sign begins a token there.
        let control = self.control.to_string_lossy().replace('%', "%%");
        command.arg("-S").arg(control).args(more);
        command.arg("--").arg(&self.name);
        // Whatever shell the user has there.
        command.arg(format!("exec sh -c {}", quoted(script)));
        // A ^C is for us: what is on the host must still be cleared.
        command.process_group(0);
        command
    }

    /// Runs a script there and returns what it prints.
    pub(super) fn run(&self, script: &str, time: Duration) -> Result<Vec<u8>, Failure> {
        let said = |text: String| Failure::Said(text);
        let mut command = self.command(&["-o", "ControlMaster=no"], script);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| said(format!("{}: {error}", self.program)))?;
        let mut out = Reading::new(child.stdout.take(), OUTPUT_LEN_MAX);
        let mut err = Reading::new(child.stderr.take(), TEXT_LEN_MAX);
        if !out.read_to_end_beside(&mut err, time) {
            drop(child.kill());
            drop(child.wait());
            return Err(Failure::Slow);
        }
        let status = child.wait().map_err(|error| said(error.to_string()))?;
        if status.success() {
            return Ok(out.bytes().to_vec());
        }
        err.read_to_end_beside(&mut Reading::<ChildStderr>::new(None, 0), COMPLAINT_MAX);
        let err = one_line(err.bytes());
        Err(said(match err.is_empty() {
            true => format!("{} ended with {status}", self.program),
            false => err,
        }))
    }

    pub(super) fn ask(&self, script: &str) -> Result<String, DomainError> {
        let out = self.run(script, COMMAND_MAX);
        let out = out.map_err(|failure| self.error(&failure.to_string()))?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    fn error(&self, reason: &str) -> DomainError {
        DomainError::Remote {
            host: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Returns the device and inode of each file; `None` for those that cannot be looked at.
    pub(super) fn inodes(&self, paths: &[&Path]) -> Result<Vec<Option<(u64, u64)>>, DomainError> {
        let look = |path: &&Path| {
            let path = quoted(&path.to_string_lossy());
            format!("stat -L -c '%d %i' -- {path} 2>/dev/null || echo\n")
        };
        let script: String = paths.iter().map(look).collect();
        let text = self.ask(&script)?;
        let mut lines = text.lines();
        Ok(paths.iter().map(|_| pair(lines.next()?)).collect())
    }

    /// Returns what each folder's file system has.
    pub(super) fn rooms(&self, folders: &[&Path]) -> Result<Vec<Room>, DomainError> {
        let look = |folder: &&Path| {
            let folder = quoted(&folder.to_string_lossy());
            format!("stat -f -c '%a %S %t' -- {folder} || exit 1\n")
        };
        let script: String = folders.iter().map(look).collect();
        let text = self.ask(&script)?;
        let rooms: Option<Vec<Room>> = text.lines().map(room).collect();
        let rooms = rooms.filter(|rooms| rooms.len() == folders.len());
        rooms.ok_or_else(|| self.error("what is free there cannot be told"))
    }

    /// Chooses the folder for QEMU's socket. Whether QEMU's user may be let into it is looked at
    /// first.
    pub(super) fn choose_folder(
        &self,
        drawn: &str,
        label: Option<SecurityLabel>,
    ) -> Result<PathBuf, DomainError> {
        let text = self.ask("id -u")?;
        let user: u32 = text
            .trim()
            .parse()
            .map_err(|_| self.error(&format!("`id -u` prints `{}`", one_line(text.as_bytes()))))?;
        match (user, label) {
            (0, _) => Ok(far_folder::folder(drawn, true)),
            (_, Some(label)) if label.uid != user => Err(self.error(&format!(
                "QEMU runs as user {} there, and user {user} cannot make it a folder for its \
                 socket: connect as root",
                label.uid
            ))),
            _ => Ok(far_folder::folder(drawn, false)),
        }
    }

    fn make_folder(&self, folder: &Path, label: Option<SecurityLabel>) -> Result<(), DomainError> {
        let text = quoted(&folder.to_string_lossy());
        let mut script = "set -e\numask 077\n".to_owned();
        let is_roots = folder.starts_with(ROOTS_FOLDER);
        if is_roots {
            // QEMU's user has to get through, and nobody has to list what is here.
            script += &format!("mkdir -p {ROOTS_FOLDER}\nchmod 711 {ROOTS_FOLDER}\n");
        }
        script += &format!("mkdir -m 750 -- {text}\n");
        if let Some(label) = label.filter(|_| is_roots) {
            script += &format!("chown {} -- {text}\n", label.uid);
        }
        self.ask(&script).map(drop)
    }

    /// Removes a folder that [`Self::choose_folder`] chose; another one is left alone.
    pub(in crate::domain) fn remove_folder(&self, folder: &Path) -> Result<(), DomainError> {
        if !far_folder::is_ours(folder) {
            return Ok(());
        }
        let text = quoted(&folder.to_string_lossy());
        self.ask(&format!("rm -rf -- {text}")).map(drop)
    }

    /// Waits a while for QEMU to let go of its files, and removes those that are left then.
    pub(in crate::domain) fn remove_files(&self, files: &[PathBuf]) -> Result<(), DomainError> {
        let names: Vec<String> = files.iter().map(|f| quoted(&f.to_string_lossy())).collect();
        let names = names.join(" ");
        let script = format!(
            "i=0; while [ $i -lt 50 ]; do there=\n\
             for f in {names}; do [ ! -e \"$f\" ] || there=1; done\n\
             [ -n \"$there\" ] || exit 0; i=$((i+1)); sleep 0.2; done\n\
             rm -f -- {names}"
        );
        self.ask(&script).map(drop)
    }
}

/// What the bridge tells.
#[derive(Debug)]
pub(super) struct Far {
    host: String,
    folders: Vec<PathBuf>,
    free: Mutex<Vec<Option<u64>>>,
    ended: Mutex<Option<String>>,
}

impl Far {
    /// Returns what is free in a folder, if that is known.
    pub(super) fn free(&self, folder: &Path) -> Option<u64> {
        let place = self.folders.iter().position(|known| known == folder)?;
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.get(place).copied().flatten()
    }

    /// Returns how the bridge ended, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let said = ended.as_ref()?;
        let host = &self.host;
        Some(format!(
            "the ssh connection to {host} ended while the disks were read{said}"
        ))
    }

    /// Follows what the bridge prints, until it ends or the other end of `end` is closed.
    fn follow(&self, out: impl AsFd, end: impl AsFd, log: &Path, ready: &Sender<()>) {
        let mut out = Reading::new(Some(out), TEXT_LEN_MAX);
        let mut round = Vec::new();
        while let Some(line) = out.line_unless(end.as_fd()) {
            if line.trim() != ROUND {
                let found = pair(&line).map(|(blocks, size)| blocks.saturating_mul(size));
                round.push(found);
                // Nobody prints so many.
                round.truncate(self.folders.len());
                continue;
            }
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = std::mem::take(&mut round);
            let _told = ready.try_send(());
        }
        let mut said = Vec::new();
        if let Ok(file) = File::open(log) {
            drop(file.take(TEXT_LEN_MAX as u64).read_to_end(&mut said));
        }
        let said = one_line(&said);
        let said = match said.is_empty() {
            true => said,
            false => format!(": {said}"),
        };
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }
}

/// QEMU's socket on the host, and the process that forwards it. Dropped, both are gone.
#[derive(Debug)]
pub(super) struct Bridge {
    host: Host,
    folder: PathBuf,
    child: Option<Child>,
    /// Who follows the child, and what ends that: dropped in this order.
    following: Option<(PipeWriter, Joined)>,
    far: Arc<Far>,
    is_cleared: bool,
}

impl Bridge {
    /// Makes the folder on the host and forwards the socket in it to `socket` on this one.
    /// `scratch` are folders there whose room is watched.
    pub(super) fn open(
        host: &Host,
        folder: &Path,
        label: Option<SecurityLabel>,
        socket: &Path,
        scratch: Vec<PathBuf>,
    ) -> Result<Self, DomainError> {
        if socket.to_string_lossy().contains(':') {
            let reason = format!("ssh cannot forward to {}: it has a colon", socket.display());
            return Err(host.error(&reason));
        }
        let far = Far {
            host: host.name.clone(),
            folders: scratch,
            free: Mutex::default(),
            ended: Mutex::default(),
        };
        let mut bridge = Self {
            host: host.clone(),
            folder: folder.to_owned(),
            child: None,
            following: None,
            far: Arc::new(far),
            is_cleared: false,
        };
        if let Err(error) = host.make_folder(folder, label) {
            // What is there by that name is not ours.
            bridge.is_cleared = true;
            return Err(error);
        }
        bridge.start(socket)?;
        Ok(bridge)
    }

    fn start(&mut self, socket: &Path) -> Result<(), DomainError> {
        let host = &self.host;
        let log = socket.with_file_name("ssh.log");
        let forward = format!(
            "{}:{}",
            socket.display(),
            server_socket(&self.folder).display()
        );
        let more = [
            "-o",
            "ControlMaster=yes",
            "-o",
            "ExitOnForwardFailure=yes",
            "-o",
            "StreamLocalBindUnlink=yes",
            "-L",
            &forward,
        ];
        let mut command = host.command(&more, &looking(&self.far.folders));
        let stderr = File::create(&log).map_err(DomainError::file("make", &log))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let child = command.spawn();
        let mut child = child.map_err(|error| host.error(&format!("{}: {error}", host.program)))?;
        let out = child.stdout.take();
        self.child = Some(child);
        let (ready, is_ready) = bounded(1);
        let far = Arc::clone(&self.far);
        let no_thread = |error| host.error(&format!("no thread can be started: {error}"));
        let (ended, end) = std::io::pipe().map_err(no_thread)?;
        let following = move || {
            if let Some(out) = out {
                far.follow(out, ended, &log, &ready);
            }
        };
        let thread = Joined::start("ssh", following).map_err(no_thread)?;
        self.following = Some((end, thread));
        match is_ready.recv_timeout(COMMAND_MAX) {
            Ok(()) => Ok(()),
            Err(_) => {
                let ended = self.far.ended();
                let text = "QEMU's socket cannot be forwarded, for ssh does not get through";
                Err(host.error(&ended.unwrap_or_else(|| text.to_owned())))
            }
        }
    }

    /// Returns what the bridge tells.
    pub(super) fn far(&self) -> Arc<Far> {
        Arc::clone(&self.far)
    }

    /// Removes the folder on the host, and ends the process.
    pub(super) fn clear(&mut self, files: &[PathBuf]) -> Result<(), DomainError> {
        if std::mem::replace(&mut self.is_cleared, true) {
            return Ok(());
        }
        let removed = match files.is_empty() {
            true => Ok(()),
            false => self.host.remove_files(files),
        };
        let removed = removed.and(self.host.remove_folder(&self.folder));
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        // What holds the other end of its output, such as a helper of ssh, is not waited for.
        drop(self.following.take());
        removed
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Nobody is left to be told.
        drop(self.clear(&[]));
    }
}

/// Writes the script that looks at folders until its stdin ends.
fn looking(folders: &[PathBuf]) -> String {
    let look = |folder: &PathBuf| {
        let folder = quoted(&folder.to_string_lossy());
        format!("stat -f -c '%a %S' -- {folder} 2>/dev/null || echo\n")
    };
    let looks: String = folders.iter().map(look).collect();
    format!(
        "(while :; do {looks}echo {ROUND}\nsleep {LOOK_SECONDS}; done) & looks=$!\n\
         cat >/dev/null\nkill $looks"
    )
}

/// Returns the parameters of a URI.
fn parameters(uri: &str) -> Vec<(String, String)> {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    let query = query.split('#').next().unwrap_or_default();
    let pairs = query
        .split(['&', ';'])
        .filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

/// Reads what is written with percent signs; as it stands where they make no sense.
fn plain(text: &str) -> String {
    let decoded = decode(text).and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.unwrap_or_else(|| text.to_owned())
}

/// Writes a word that a shell reads as it is.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn pair(line: &str) -> Option<(u64, u64)> {
    let (first, second) = line.trim().split_once(' ')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

fn room(line: &str) -> Option<Room> {
    let (numbers, kind) = line.trim().rsplit_once(' ')?;
    let (blocks, size) = pair(numbers)?;
    Some(Room {
        free: blocks.saturating_mul(size),
        kind: i64::from_str_radix(kind, 16).ok()?,
    })
}

fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_called_as_the_uri_wants_it() {
        let host = |uri: &str| Host::of(uri, Path::new("/r/ctl"));
        let uri = "qemu+ssh://u@h:22/system?keyfile=%2Fk%20k&no_verify=1&command=/bin/my-ssh";
        let host_of = host(uri).expect("it is ssh");
        assert_eq!(host_of.program, "/bin/my-ssh");
        let args = host_of.args.join(" ");
        for part in [
            "-p 22 -l u",
            "-i /k k",
            "-o StrictHostKeyChecking=no",
            "-o BatchMode=yes",
        ] {
            assert!(args.contains(part), "{part} in {args}");
        }
        let plain = host("qemu+ssh://h/system").expect("it is ssh");
        assert!(
            !plain
                .args
                .iter()
                .any(|arg| arg.contains("StrictHostKeyChecking"))
        );
        assert!(host("qemu:///system").is_none() && host("qemu+tls://h/system").is_none());
    }

    #[test]
    fn shells_read_words_as_they_are() {
        for text in ["", "a b", "it's", "$(x) `y` \"z\" \\", "'"] {
            let script = format!("printf %s {}", quoted(text));
            let out = Command::new("sh").arg("-c").arg(script).output();
            assert_eq!(out.expect("sh runs").stdout, text.as_bytes());
        }
    }

    #[test]
    fn the_host_tells_what_is_free_until_nobody_listens() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let folders = [folder.path().to_owned(), folder.path().join("gone")];
        let mut command = Command::new("sh");
        command.arg("-c").arg(looking(&folders));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("sh runs");
        let out = child.stdout.take().expect("it was asked for");
        let far = Far {
            host: "h".to_owned(),
            folders: folders.to_vec(),
            free: Mutex::default(),
            ended: Mutex::default(),
        };
        let far = Arc::new(far);
        let (ready, is_ready) = bounded(1);
        let following = Arc::clone(&far);
        let log = folder.path().join("log");
        let (ended, _end) = std::io::pipe().expect("there are pipes");
        let follow = move || following.follow(out, ended, &log, &ready);
        let thread = Joined::start("follow", follow).expect("a thread starts");
        is_ready.recv().expect("a round is told");
        assert!(far.free(&folders[0]).is_some_and(|free| free > 0));
        assert_eq!((far.free(&folders[1]), far.ended()), (None, None));
        drop(child.stdin.take());
        assert!(child.wait().is_ok());
        thread.join().expect("it ends with the shell");
        assert!(far.ended().is_some_and(|text| text.contains("to h ended")));
    }

    #[test]
    fn who_follows_ends_though_another_has_the_output_still() {
        let (out, _held) = std::io::pipe().expect("there are pipes");
        let (ended, end) = std::io::pipe().expect("there are pipes");
        let far = Far {
            host: "h".to_owned(),
            folders: Vec::new(),
            free: Mutex::default(),
            ended: Mutex::default(),
        };
        let (ready, _) = bounded(1);
        let follow = move || far.follow(out, ended, Path::new("/dev/null"), &ready);
        let thread = Joined::start("follow", follow).expect("a thread starts");
        drop(end);
        thread.join().expect("it ends with the pipe");
    }
}
