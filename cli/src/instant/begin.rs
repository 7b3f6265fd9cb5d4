//! Begins an instant restore: what `cairn restore --define` does in place of writing disks.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cairn_engine::domain::define::{DefineError, Defined, DefinedDisk, DiskMaker};
use cairn_engine::domain::instant::record::RECORD_VERSION;
use cairn_engine::domain::instant::{InstantDisk, Record, StateFolder, backing, overlay};
use cairn_engine::format::manifest::DiskRecord;
use cairn_engine::format::note::Fact;
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::source::libvirt::Connection;
use cairn_engine::source::libvirt::xml::Element;

use super::{ExportProcess, Places, finish, start_watcher, stop_watcher};
use crate::context::Context;
use crate::exit::CliError;

/// What an instant restore needs to know.
pub struct Begin<'b> {
    /// The domain's name.
    pub name: &'b str,
    /// The snapshot.
    pub snapshot: &'b Snapshot,
    /// Its repository.
    pub repository: &'b Repository,
    /// The daemon.
    pub connection: &'b Connection,
    /// Most bytes that are pulled in a second, of each disk; 0 is no bound.
    pub pull_limit: u64,
    /// Where things are kept.
    pub places: &'b Places,
}

/// Makes the overlays of a domain, and has the export running before the domain is defined.
struct Maker<'m> {
    begin: &'m Begin<'m>,
    states: StateFolder,
    run: PathBuf,
    repository: PathBuf,
    password_file: Option<PathBuf>,
    group: Option<u32>,
    /// What must be undone when the domain is not defined after all.
    record: RefCell<Option<Record>>,
}

/// Runs `define` with disks that are served until they are whole.
pub fn begin(
    begin: &Begin<'_>,
    context: &Context,
    define: impl FnOnce(&dyn DiskMaker) -> Result<Defined, DefineError>,
) -> Result<Defined> {
    let password_file = context
        .password_file()
        .map(std::path::absolute)
        .transpose()?;
    if begin.repository.config().encryption.is_some() && password_file.is_none() {
        let text = "an instant restore from an encrypted repository needs --password-file: \
                    the export must be able to start again when nobody is there to type";
        return Err(CliError::Usage(text.to_owned()).into());
    }
    let states = begin.places.states()?;
    if let Some(known) = states.find(begin.name)? {
        let text = format!("there is an instant restore of `{}` already", known.domain);
        return Err(CliError::Usage(text).into());
    }
    let maker = Maker {
        begin,
        states,
        run: begin.places.run()?,
        repository: std::path::absolute(context.repository()?)?,
        password_file,
        group: group_of_qemu(begin.connection)?,
        record: RefCell::default(),
    };
    let defined = define(&maker);
    let record = maker.record.borrow().clone();
    match (&defined, record) {
        // It is defined, and needs the export whenever it is started.
        (Ok(_) | Err(DefineError::NotStarted { .. }), _) | (_, None) => {}
        (Err(_), Some(record)) => maker.undo(&record)?,
    }
    Ok(defined?)
}

impl Maker<'_> {
    fn socket(&self, uuid: &str) -> PathBuf {
        self.run.join("instant").join(uuid).join("nbd.sock")
    }

    fn ready(&self, uuid: &str, disks: &[DefinedDisk]) -> Result<()> {
        let disk = |disk: &DefinedDisk| -> Result<InstantDisk> {
            Ok(InstantDisk {
                target: disk.target.clone(),
                path: std::path::absolute(&disk.path)?,
                size: disk.size,
            })
        };
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let record = Record {
            version: RECORD_VERSION,
            domain: self.begin.name.to_owned(),
            uuid: uuid.to_owned(),
            uri: self.begin.connection.uri().to_owned(),
            repository: self.repository.clone(),
            password_file: self.password_file.clone(),
            snapshot: self.begin.snapshot.id,
            pin: format!("instant {uuid} {host}"),
            socket: self.socket(uuid),
            group: self.group,
            disks: disks.iter().map(disk).collect::<Result<_>>()?,
            pull_limit: self.begin.pull_limit,
            is_defined: false,
        };
        // In this order: without a record nobody would take the pin off.
        self.states.save(&record)?;
        *self.record.borrow_mut() = Some(record.clone());
        let what = record.pin.clone();
        let repository = self.begin.repository;
        repository.add_note(record.snapshot, Fact::Pinned { what })?;
        start_watcher(&record, self.begin.places)
    }

    fn undo(&self, record: &Record) -> Result<()> {
        stop_watcher(&self.states, &record.uuid)?;
        let log = self.states.log(&record.uuid);
        let mut export = ExportProcess::new(record, PathBuf::new(), log);
        export.stop().context("cannot end the export")?;
        finish(self.begin.repository, &self.states, record)
    }
}

impl DiskMaker for Maker<'_> {
    fn make(&self, uuid: &str, disk: &DiskRecord, path: &Path) -> io::Result<()> {
        let socket = self.socket(uuid);
        let uri = overlay::uri(&socket.to_string_lossy(), &disk.target);
        overlay::create(path, disk.size, &uri)
    }

    fn backing(&self, uuid: &str, target: &str) -> Element {
        backing(&self.socket(uuid).to_string_lossy(), target)
    }

    fn before_define(&self, uuid: &str, disks: &[DefinedDisk]) -> io::Result<()> {
        let ready = self.ready(uuid, disks);
        ready.map_err(|error| io::Error::other(format!("{error:#}")))
    }
}

/// Returns the group that the daemon's QEMU has, where it has one of its own.
pub fn group_of_qemu(connection: &Connection) -> Result<Option<u32>> {
    let is_root = rustix::process::geteuid().is_root();
    let user = connection.qemu_user()?;
    Ok(user.map(|user| user.gid).filter(|_| is_root))
}
