//! The process that serves a snapshot's disks. It outlives whoever started it.
//!
//!     RUN/instant/<uuid>/       the group of QEMU may enter it, nobody else
//!         nbd.sock              where it listens
//!         export.lock           its standard input, locked as long as it lives
//!
//! A lock goes with the process, however that ends, and no other process can get it by chance, as
//! it can a process id.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cairn_engine::child;
use cairn_engine::domain::instant::{Exporter, Record};
use cairn_engine::own;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::watcher::pause;

const LOCK: &str = "export.lock";
/// How long an export that was asked to end is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The export of one restore, whoever started it.
#[derive(Debug)]
pub struct ExportProcess<'r> {
    record: &'r Record,
    program: PathBuf,
    /// Where what it says goes.
    log: PathBuf,
    child: Option<Child>,
}

impl<'r> ExportProcess<'r> {
    /// Names the export of a record.
    pub fn new(record: &'r Record, program: PathBuf, log: PathBuf) -> Self {
        Self {
            record,
            program,
            log,
            child: None,
        }
    }

    fn folder(&self) -> &Path {
        self.record.socket.parent().unwrap_or(Path::new("/"))
    }

    fn lock_path(&self) -> PathBuf {
        self.folder().join(LOCK)
    }

    /// Returns whether a process serves, or is about to.
    pub fn serves(record: &Record) -> bool {
        let folder = record.socket.parent().unwrap_or(Path::new("/"));
        // Taken for a moment, and given back by closing.
        File::open(folder.join(LOCK))
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Makes the folder that QEMU reaches the socket in: a reboot takes it away.
    fn make_folder(&self) -> io::Result<()> {
        let folder = self.folder();
        for above in folder
            .ancestors()
            .skip(1)
            .take(2)
            .collect::<Vec<_>>()
            .iter()
            .rev()
        {
            own::make_passage(above)?;
        }
        own::make_private(folder)?;
        if let Some(group) = self.record.group {
            lchown(folder, None, Some(group))?;
        }
        // What is made in it gets its group.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o2750))
    }

    /// Ends the export, if there is one, and removes its folder.
    pub fn stop(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while Self::serves(self.record) {
            for pid in self.pids() {
                // One that has ended meanwhile is what is wanted.
                let _ = kill_process(pid, Signal::TERM);
            }
            if begun.elapsed() > STOP_LIMIT {
                return Err(io::Error::other("the export does not end"));
            }
            pause(Duration::from_millis(50));
        }
        self.reap();
        for file in [self.record.socket.clone(), self.lock_path()] {
            gone(fs::remove_file(file))?;
        }
        gone(fs::remove_dir(self.folder()))
    }

    /// Returns the processes whose standard input is the lock.
    fn pids(&self) -> Vec<Pid> {
        let lock = self.lock_path();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let holders = processes.filter(|process| {
            fs::read_link(process.path().join("fd/0")).is_ok_and(|input| input == lock)
        });
        let number = |name: std::ffi::OsString| name.to_str()?.parse().ok();
        let pids = holders.filter_map(|process| number(process.file_name()));
        pids.filter_map(Pid::from_raw).collect()
    }

    /// Takes a child of ours that has ended out of the system's table.
    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(Some(_)) | Err(_))
        {
            self.child = None;
        }
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Exporter for ExportProcess<'_> {
    fn is_alive(&mut self) -> bool {
        self.reap();
        Self::serves(self.record)
    }

    fn start(&mut self) -> io::Result<()> {
        self.make_folder()?;
        let lock = own::open_lock(&self.lock_path())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let record = self.record;
        let mut command = child::fellow(&self.program);
        command.arg("-r").arg(&record.repository);
        if let Some(file) = &record.password_file {
            command.arg("--password-file").arg(file);
        }
        command.arg("export").arg(record.snapshot.to_string());
        command.arg("--socket").arg(&record.socket);
        command.args(["--socket-mode", "660"]);
        command.current_dir("/").process_group(0);
        command
            .stdin(Stdio::from(lock))
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }
}
