//! What belongs to a domain beside its disks: the firmware's variables and the TPM's state. Both
//! are small, and read while the guest is held still.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::remote::{Failure, Host, quoted};
use super::view::Run;
use crate::backup::FileRequest;
use crate::limits::MIB;
use crate::source::libvirt::{Connection, Transport};
use crate::source::memory::MemorySource;

/// Name of the firmware's variables in a snapshot.
pub const NVRAM: &str = "nvram";
/// Name of the TPM's state in a snapshot: a tar archive.
pub const TPM: &str = "tpm";

/// Longest file of firmware variables, and of a TPM's state.
const LEN_MAX: u64 = 64 * MIB;
/// Where libvirt keeps TPM states of the system's domains, each under its UUID.
const TPM_FOLDER: &str = "/var/lib/libvirt/swtpm";

/// How long a frozen guest waits for each of them to come from another host.
const FROZEN_MAX: Duration = Duration::from_secs(2);
/// How long they may take when the guest runs again.
const LATE_MAX: Duration = Duration::from_secs(60);

/// Something that belongs to a domain.
#[derive(Debug, Clone)]
struct Thing {
    name: &'static str,
    what: &'static str,
    path: PathBuf,
}

/// What was saved, and what could not be.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) files: Vec<FileRequest>,
    pub(super) not_saved: Vec<String>,
    /// What took too long while the guest was held still.
    late: Vec<Thing>,
}

impl Extras {
    /// Reads what there is.
    pub(super) fn read(run: &Run<'_>) -> Self {
        let mut extras = Self::default();
        let domain = run.description;
        let nvram = domain.nvram.as_ref().map(|path| Thing {
            name: NVRAM,
            what: "the firmware's variables",
            path: path.clone(),
        });
        let tpm = domain.has_tpm.then(|| Thing {
            name: TPM,
            what: "the TPM's state",
            path: tpm_folder(run.domain.connection(), &domain.uuid),
        });
        for thing in nvram.into_iter().chain(tpm) {
            match fetch(run, &thing, FROZEN_MAX) {
                Err(Failure::Slow) => extras.late.push(thing),
                fetched => extras.add(&thing, fetched),
            }
        }
        if !domain.secrets.is_empty() {
            let uuids = domain.secrets.join(", ");
            extras
                .not_saved
                .push(format!("the values of the secrets {uuids}"));
        }
        extras
    }

    /// Reads what took too long, now that the guest runs, and returns what to say about it.
    pub(super) fn read_late(&mut self, run: &Run<'_>) -> Vec<String> {
        let late = std::mem::take(&mut self.late);
        let read = late.into_iter().map(|thing| {
            self.add(&thing, fetch(run, &thing, LATE_MAX));
            format!("{} was read after the disks' moment", thing.what)
        });
        read.collect()
    }

    fn add(&mut self, thing: &Thing, fetched: Result<Vec<u8>, Failure>) {
        match fetched {
            Ok(bytes) => self.files.push(FileRequest {
                name: thing.name.to_owned(),
                source: Box::new(MemorySource::new(bytes)),
            }),
            Err(reason) => self.not_saved.push(format!("{}: {reason}", thing.what)),
        }
    }
}

fn fetch(run: &Run<'_>, thing: &Thing, time: Duration) -> Result<Vec<u8>, Failure> {
    let is_folder = thing.name == TPM;
    match (run.transport, run.host) {
        (Transport::Local, _) => match is_folder {
            true => pack_folder(&thing.path),
            false => read_file(&thing.path),
        }
        .map_err(|error| Failure::Said(error.to_string())),
        (_, Some(host)) => fetch_there(host, &thing.path, is_folder, time),
        (_, None) => Err(Failure::Said(
            "it is on another host, where nothing but disks can be read over TLS".to_owned(),
        )),
    }
}

fn fetch_there(
    host: &Host,
    path: &Path,
    is_folder: bool,
    time: Duration,
) -> Result<Vec<u8>, Failure> {
    let path = quoted(&path.to_string_lossy());
    let script = match is_folder {
        true => format!("exec tar -C {path} -cf - ."),
        false => format!("exec cat -- {path}"),
    };
    let bytes = host.run(&script, time)?;
    match bytes.len() as u64 > LEN_MAX {
        true => Err(Failure::Said("it is too long to be that".to_owned())),
        false => Ok(bytes),
    }
}

fn tpm_folder(connection: &Connection, uuid: &str) -> PathBuf {
    // A session's daemon keeps them in the user's own folders, which are not looked for.
    let _session = connection.uri().contains("/session");
    Path::new(TPM_FOLDER).join(uuid)
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?
        .take(LEN_MAX + 1)
        .read_to_end(&mut bytes)?;
    match read as u64 > LEN_MAX {
        true => Err(std::io::Error::other("they are too long to be that")),
        false => Ok(bytes),
    }
}

fn pack_folder(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder)?;
    let bytes = archive.into_inner()?;
    match bytes.len() as u64 > LEN_MAX {
        true => Err(std::io::Error::other("it is too long to be that")),
        false => Ok(bytes),
    }
}
