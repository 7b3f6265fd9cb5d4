//! Servers of others, started for a test and gone with it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cairn_engine::nbd::client::handshake::Replies;
use cairn_engine::nbd::uri::Uri;
use cairn_engine::source::{NbdSource, Source, SourceError};

use crate::qemu::text;
use crate::support::waiting::wait_for;

/// A server on a unix socket.
pub struct Peer {
    child: Child,
    folder: tempfile::TempDir,
}

impl Peer {
    /// Starts a server; `{socket}` in its arguments is where it shall listen.
    pub fn start(tool: &str, package: &str, args: &[&str]) -> Self {
        let mut peer = Self::spawn(tool, package, args);
        // The socket is there a moment before anybody listens.
        peer.wait_until(tool, |peer| UnixStream::connect(peer.socket()).is_ok());
        peer
    }

    fn spawn(tool: &str, package: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = folder.path().join("socket");
        let args = args
            .iter()
            .map(|arg| arg.replace("{socket}", text(&socket)));
        let child = Command::new(tool)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {tool} (package {package}): {error}"));
        Self { child, folder }
    }

    fn wait_until(&mut self, tool: &str, listens: impl Fn(&Self) -> bool) {
        wait_for(&format!("{tool} listens"), || {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("{tool} ended with {status}");
            }
            listens(self)
        });
    }

    /// Starts qemu-nbd with an export `vda`, read-only.
    pub fn qemu(args: &[&str], image: &Path) -> Self {
        let mut all = vec!["-r", "-t", "-x", "vda", "-k", "{socket}"];
        all.extend(args);
        all.push(text(image));
        Self::start("qemu-nbd", "qemu-utils", &all)
    }

    /// Starts QEMU's own block export, as `block-export-add` does in a running one: `vda`,
    /// read-only, with a bitmap.
    pub fn block_export(image: &Path, bitmap: &str) -> Self {
        let node =
            |driver, name, file| format!("driver={driver},node-name={name},read-only=on,{file}");
        let file = node("file", "file", format!("filename={}", text(image)));
        let disk = node("qcow2", "disk", "file=file".to_owned());
        let export = format!("type=nbd,id=e,node-name=disk,name=vda,bitmaps.0={bitmap}");
        let server = "addr.type=unix,addr.path={socket}";
        let args = [
            "--blockdev",
            &file,
            "--blockdev",
            &disk,
            "--nbd-server",
            server,
        ];
        let args = [&args[..], &["--export", &export]].concat();
        Self::start("qemu-storage-daemon", "qemu-utils", &args)
    }

    /// Starts nbdkit on a port of this machine, which is returned.
    pub fn nbdkit_tcp(args: &[&str]) -> (Self, u16) {
        // nbdkit itself hands a free port to nobody but its own command.
        let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = free.local_addr().expect("it has an address").port();
        drop(free);
        let number = port.to_string();
        let all = [&["-f", "-i", "127.0.0.1", "-p", &number], args].concat();
        let mut peer = Self::spawn("nbdkit", "nbdkit", &all);
        let address = ("127.0.0.1", port);
        peer.wait_until("nbdkit", |_| TcpStream::connect(address).is_ok());
        (peer, port)
    }

    /// Starts nbdkit.
    pub fn nbdkit(args: &[&str]) -> Self {
        let mut all = vec!["-f", "-U", "{socket}"];
        all.extend(args);
        Self::start("nbdkit", "nbdkit", &all)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn uri(&self, export: &str) -> Uri {
        let socket = self.socket();
        uri(&format!("nbd+unix:///{export}?socket={}", text(&socket)))
    }

    pub fn open(&self, export: &str, bitmap: Option<&str>) -> Result<NbdSource, SourceError> {
        NbdSource::open(&self.uri(export), bitmap)
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns how the replies of QEMU's servers look: they know extended headers since 8.2.
pub fn qemu_replies() -> Replies {
    let output = Command::new("qemu-nbd").arg("--version").output();
    let output = output.expect("cannot run qemu-nbd (package qemu-utils)");
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let version: (u32, u32) = numbers.next().zip(numbers.next()).expect("a version");
    match version >= (8, 2) {
        true => Replies::Extended,
        false => Replies::Structured,
    }
}

pub fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Returns an error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Returns the whole disk, read in pieces of many lengths, some of them at once.
pub fn read_all(source: &dyn Source) -> Vec<u8> {
    let size = usize::try_from(source.size()).expect("test disks fit in memory");
    let mut bytes = vec![0xee; size];
    let mut parts = Vec::new();
    let mut rest = bytes.as_mut_slice();
    let (mut at, mut number) = (0_u64, 0);
    while !rest.is_empty() {
        let len = [1, 511, 4096, 70_001, 3 << 20][number % 5].min(rest.len());
        let (part, after) = rest.split_at_mut(len);
        parts.push((at, part));
        rest = after;
        at += len as u64;
        number += 1;
    }
    source.read_many(&mut parts).expect("the disk can be read");
    bytes
}

/// Writes a raw image.
pub fn raw(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the image can be written");
}
