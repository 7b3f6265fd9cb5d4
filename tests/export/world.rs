//! A server in this process, and the tools that try it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cairn_engine::nbd::tls::ServerTls;
use cairn_nbd_export::disk::{Changes, Disk};
use cairn_nbd_export::exports::{Export, Exports};
use cairn_nbd_export::listen::Listener;
use cairn_nbd_export::server::{ServeError, Server, ServerOptions};
use cairn_nbd_export::stop::Stop;

use crate::support::waiting::PATIENCE;

/// A server that serves until it is dropped.
pub struct World {
    pub folder: tempfile::TempDir,
    pub address: Option<String>,
    pub events: Arc<Mutex<Vec<String>>>,
    stop: Stop,
    running: Option<JoinHandle<Result<(), ServeError>>>,
}

/// How a server is to be.
pub struct Options {
    pub exports: Vec<Export>,
    pub tls: Option<ServerTls>,
    pub is_tcp: bool,
    pub connections_max: usize,
    pub handshake_timeout: Duration,
}

impl Options {
    pub fn of(exports: Vec<Export>) -> Self {
        Self {
            exports,
            tls: None,
            is_tcp: false,
            connections_max: 128,
            handshake_timeout: PATIENCE,
        }
    }
}

/// An export called `vda`, which is the default one too.
pub fn export(disk: Arc<dyn Disk>, changes: Option<Arc<dyn Changes>>) -> Export {
    Export {
        name: "vda".to_owned(),
        aliases: vec![String::new()],
        description: "a disk of a test".to_owned(),
        disk,
        changes,
    }
}

impl World {
    /// Serves one disk.
    pub fn of(disk: Arc<dyn Disk>) -> Self {
        Self::with(Options::of(vec![export(disk, None)]))
    }

    pub fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let listener = match options.is_tcp {
            true => Listener::tcp("127.0.0.1:0"),
            false => Listener::unix(&folder.path().join("socket"), 0o600),
        };
        let listener = listener.expect("there is a place to listen");
        let address = listener.address().map(|address| address.to_string());
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let server = Server::new(
            Exports::new(options.exports).expect("the names differ"),
            ServerOptions {
                workers: 4.try_into().expect("four is not zero"),
                connections_max: options.connections_max,
                handshake_timeout: options.handshake_timeout,
                tls: options.tls,
            },
            Arc::new(move |event| {
                let text = format!("{event:?}");
                told.lock().expect("no test panicked with it").push(text);
            }),
        )
        .expect("a server can be made");
        let stop = Stop::new().expect("there are files left");
        let stopped = stop.clone();
        let running = thread::spawn(move || server.run(vec![listener], &stopped));
        Self {
            folder,
            address,
            events,
            stop,
            running: Some(running),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("the server listens");
        let timeout = Some(PATIENCE);
        stream.set_read_timeout(timeout).expect("it is not zero");
        stream
    }

    pub fn uri(&self, name: &str) -> String {
        match &self.address {
            Some(address) => format!("nbd://{address}/{name}"),
            None => format!("nbd+unix:///{name}?socket={}", self.socket().display()),
        }
    }

    pub fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// Asks the server to end.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits until the server has ended.
    pub fn ended(mut self) -> Result<(), ServeError> {
        let running = self.running.take().expect("it ends once");
        running.join().expect("the server does not panic")
    }

    /// Runs a tool, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn tool(&self, tool: &str, args: &[&str]) -> String {
        run(tool, args, self.folder.path())
    }

    /// Runs lines of Python with a handle `h` that is connected to `vda` and knows all contexts.
    #[track_caller]
    pub fn nbdsh(&self, contexts: &[&str], script: &str) -> String {
        let mut lines = vec!["import errno".to_owned()];
        lines.extend(
            contexts
                .iter()
                .map(|name| format!("h.add_meta_context('{name}')")),
        );
        lines.push(format!("h.connect_uri('{}')", self.uri("vda")));
        lines.push(script.to_owned());
        self.tool("/usr/bin/python3", &["-m", "nbd", "-c", &lines.join("\n")])
    }
}

#[track_caller]
pub fn run(tool: &str, args: &[&str], folder: &Path) -> String {
    let output = Command::new(tool).args(args).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {tool} (packages qemu-utils, libnbd-bin, python3-libnbd): {error}")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{tool} {args:?}: {out}{err}");
    out
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            if !thread::panicking() {
                ended
                    .expect("the server does not panic")
                    .expect("it ends well");
            }
        }
    }
}
