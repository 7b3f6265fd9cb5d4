//! One trial, from the first file that it makes to the last that it removes.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cairn_engine::domain::prove::{
    Accel, Allow, Failure, Machine, Prepared, ProveError, ProveFolder, Seen, Watch, prepare, sweep,
};
use cairn_engine::progress::Cancel;
use cairn_engine::repository::{Access, Repository, Snapshot};
use cairn_engine::source::libvirt::Connection;
use cairn_engine::source::libvirt::xml::Element;
use cairn_nbd_export::server::ServerOptions;

use super::ProveArgs;
use super::serve::Served;
use crate::context::Context;
use crate::instant::group_of_qemu;
use crate::session::{self, Snapshots};

/// Longest picture that is kept, in bytes.
const PICTURE_LEN_MAX: usize = 64 << 20;
/// How many lines of the console are shown.
const CONSOLE_LINES: usize = 10;
/// How long QEMU may take to choose an export.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is tried, and with what.
pub struct Trial<'t> {
    pub args: &'t ProveArgs,
    pub context: &'t Context,
    pub connection: &'t Connection,
    pub repository: &'t Arc<Repository>,
    pub snapshots: &'t Snapshots,
    pub snapshot: &'t Snapshot,
    pub domain: &'t Element,
    pub cancel: Cancel,
}

/// What came of it.
pub struct Tried {
    /// What was seen of the guest.
    pub seen: Seen,
    /// What ran it.
    pub accel: Accel,
    /// The name that its domain had.
    pub domain: String,
    /// What its domain had not.
    pub dropped: Vec<String>,
    /// Where the picture is, if there is one.
    pub screenshot: Option<PathBuf>,
    /// The last lines of the console.
    pub console: Vec<String>,
}

impl Trial<'_> {
    /// Boots the snapshot, and looks at it. All that this makes is removed by its end.
    pub fn run(&self) -> Result<Tried> {
        let run = self.args.connect.run_folder()?;
        let dir = std::path::absolute(&self.args.dir);
        let dir = dir.context("cannot tell the current folder")?;
        let say = |text: &str| self.context.remark(text);
        sweep(&run, &dir, self.connection, &say);
        let access = Access::Read(vec![self.snapshot.id]);
        let contents = session::contents(self.context, self.repository, access, "prove")?;
        let contents = Arc::new(contents);
        // They are dropped from the last to the first: the domain, its disks, its files.
        let group = group_of_qemu(self.connection)?;
        let folder = ProveFolder::make(&run, &dir, self.connection.uri(), group)?;
        let list = &self.snapshots.list;
        let socket = folder.socket();
        let served = Served::start(&contents, list, self.snapshot, &socket, self.options())?;
        let prepared = prepare(&contents, self.snapshot, self.domain, &folder)?;
        let (machine, accel, dropped) = self.start(&folder, &prepared)?;
        let name = machine.domain().name().to_owned();
        self.context
            .detail(&format!("{name} runs by {}", accel.name()));
        let pattern = |text: &[u8]| {
            self.args
                .console
                .as_ref()
                .is_some_and(|of| of.is_match(text))
        };
        let mut seen = machine.watch(&Watch {
            pattern: self.args.console.is_some().then_some(&pattern),
            command: self.args.run.as_deref(),
            timeout: self.args.timeout,
            cancel: &self.cancel,
        })?;
        if let Some(reason) = served.failure() {
            seen.failure = Some(Failure::Disk { reason });
        }
        Ok(Tried {
            seen,
            accel,
            domain: name,
            dropped,
            screenshot: self.screenshot(&machine),
            console: machine.last_lines(CONSOLE_LINES),
        })
    }

    fn options(&self) -> ServerOptions {
        let threads = self.context.threads();
        // As in an export: one is always left while the others wait for storage.
        let workers = threads.saturating_mul(NonZeroUsize::MIN.saturating_add(1));
        ServerOptions {
            workers: workers.max(NonZeroUsize::MIN.saturating_add(3)),
            connections_max: 128,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            tls: None,
        }
    }

    /// Starts the domain by what can run it.
    fn start<'f>(
        &self,
        folder: &'f ProveFolder,
        prepared: &Prepared,
    ) -> Result<(Machine<'f>, Accel, Vec<String>)> {
        let mut candidates = self.args.accel.candidates(self.connection, self.domain)?;
        candidates.reverse();
        loop {
            let Some(accel) = candidates.pop() else {
                anyhow::bail!("nothing can run the domain");
            };
            if self.cancel.is_cancelled() {
                return Err(ProveError::Cancelled.into());
            }
            let made = Allow {
                name: folder.record().domain.clone(),
                uuid: folder.record().uuid.clone(),
                accel,
                memory: self.args.memory,
                disks: prepared.disks.clone(),
                nvram: folder.nvram(),
                has_nvram_state: prepared.has_nvram,
                has_tpm_state: prepared.has_tpm,
                console: folder.console(),
                wants_screen: self.args.screenshot.is_some(),
                exists: &Path::is_file,
            }
            .apply(self.domain)
            .map_err(ProveError::from)?;
            match Machine::start(self.connection, &made.xml.to_string(), folder) {
                Ok(machine) => return Ok((machine, accel, made.dropped)),
                Err(error) if candidates.is_empty() => return Err(error.into()),
                Err(error) => {
                    let accel = accel.name();
                    let remark = format!("the domain does not start by {accel}: {error}");
                    self.context.remark(&remark);
                }
            }
        }
    }

    /// Keeps a picture of the screen, if one is wanted and can be had.
    fn screenshot(&self, machine: &Machine<'_>) -> Option<PathBuf> {
        let path = self.args.screenshot.as_ref()?;
        let taken = machine.domain().screenshot(PICTURE_LEN_MAX);
        let kept = taken.map_err(anyhow::Error::from).and_then(|(_, picture)| {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            let written = options
                .open(path)
                .and_then(|mut file| file.write_all(&picture));
            written.with_context(|| format!("cannot write {}", path.display()))
        });
        match kept {
            Ok(()) => Some(path.clone()),
            Err(error) => {
                let line = crate::exit::one_line(&error);
                self.context.warn(&format!("there is no picture: {line}"));
                None
            }
        }
    }
}
