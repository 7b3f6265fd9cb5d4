//! What belongs to a domain beside its disks: the firmware's variables and the TPM's state. Both
//! are small, and read while the guest is held still.

use std::path::{Path, PathBuf};

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

/// What was saved, and what could not be.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) files: Vec<FileRequest>,
    pub(super) not_saved: Vec<String>,
}

impl Extras {
    /// Reads what there is.
    pub(super) fn read(run: &Run<'_>) -> Self {
        let mut extras = Self::default();
        let domain = run.description;
        if let Some(path) = &domain.nvram {
            extras.add(NVRAM, "the firmware's variables", run.transport, || {
                read_file(path)
            });
        }
        if domain.has_tpm {
            let folder = tpm_folder(run.domain.connection(), &domain.uuid);
            extras.add(TPM, "the TPM's state", run.transport, || {
                pack_folder(&folder)
            });
        }
        if !domain.secrets.is_empty() {
            let uuids = domain.secrets.join(", ");
            extras
                .not_saved
                .push(format!("the values of the secrets {uuids}"));
        }
        extras
    }

    fn add(
        &mut self,
        name: &str,
        what: &str,
        transport: &Transport,
        read: impl FnOnce() -> std::io::Result<Vec<u8>>,
    ) {
        let bytes = match transport {
            Transport::Local => read().map_err(|error| error.to_string()),
            _ => Err("they are on another host".to_owned()),
        };
        match bytes {
            Ok(bytes) => self.files.push(FileRequest {
                name: name.to_owned(),
                source: Box::new(MemorySource::new(bytes)),
            }),
            Err(reason) => self.not_saved.push(format!("{what}: {reason}")),
        }
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
