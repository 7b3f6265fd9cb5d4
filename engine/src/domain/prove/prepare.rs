//! What must be there before a throw-away domain can start.

use std::collections::BTreeMap;
use std::fs::File;

use super::folder::shared;
use super::{ProveError, ProveFolder};
use crate::domain::backup::{NVRAM, TPM};
use crate::domain::define::files::{restore, tpm_folder, unpack_tpm};
use crate::domain::instant::{backing, overlay};
use crate::domain::rewrite::{DiskFormat, NewDisk};
use crate::repository::{Contents, Snapshot};
use crate::source::libvirt::xml::Element;

/// What was made.
#[derive(Debug)]
pub struct Prepared {
    /// The files of the disks, by target.
    pub disks: BTreeMap<String, NewDisk>,
    /// Whether the firmware's variables are there.
    pub has_nvram: bool,
    /// Whether the TPM's state is there.
    pub has_tpm: bool,
}

/// Makes the overlays of a snapshot's disks, and copies of the firmware's variables and the TPM's
/// state as far as the domain has such things.
pub fn prepare(
    contents: &Contents,
    snapshot: &Snapshot,
    domain: &Element,
    folder: &ProveFolder,
) -> Result<Prepared, ProveError> {
    let manifest = &*snapshot.manifest;
    let socket = folder.socket();
    let socket = socket.to_string_lossy();
    let mut disks = BTreeMap::new();
    for disk in &manifest.disks {
        let path = folder.disk(&disk.target);
        let uri = overlay::uri(&socket, &disk.target);
        let made = overlay::create(&path, disk.size, &uri).and_then(|()| shared(&path));
        made.map_err(ProveError::file("make", &path))?;
        let new = NewDisk {
            path,
            format: DiskFormat::Qcow2,
            backing: Some(below(&socket, &disk.target)),
        };
        disks.insert(disk.target.clone(), new);
    }
    let record = |name| manifest.files.iter().find(|file| file.name == name);
    let has_nvram = domain.at("os/nvram").is_some();
    let nvram = record(NVRAM).filter(|_| has_nvram);
    if let Some(record) = nvram {
        let path = folder.nvram();
        let made = File::create_new(&path).and_then(|file| shared(&path).map(|()| file));
        restore(
            contents,
            record,
            &mut made.map_err(ProveError::file("make", &path))?,
        )?;
    }
    let has_tpm = domain.at("devices/tpm").is_some();
    let tpm = record(TPM).filter(|_| has_tpm);
    if let (Some(record), Some(folder)) = (tpm, tpm_folder(&folder.record().uuid)) {
        unpack_tpm(contents, record, &folder)?;
    }
    Ok(Prepared {
        disks,
        has_nvram: nvram.is_some(),
        has_tpm: tpm.is_some(),
    })
}

/// Returns what is below an overlay. An export that is gone is gone for good: nobody waits for it.
fn below(socket: &str, target: &str) -> Element {
    let mut backing = backing(socket, target);
    if let Some(source) = backing.first_mut("source") {
        source.retain(|child| child.name != "reconnect");
    }
    backing
}
