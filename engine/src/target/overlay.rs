//! A qcow2 file that holds what differs from the image below it, until it is committed there.
//!
//! Blocks come in any order from any number of threads. L2 tables are kept in memory: 64 KiB for
//! each 512 MiB of the disk in which something differs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::TargetError;
use super::partial::Partial;
use super::qcow2::layout::{CLUSTER_LEN, L2_ENTRIES, Layout, Refcounts, entry};

/// An L2 entry of a cluster that reads as zeros, whatever lies below.
const ZERO_CLUSTER: [u8; 8] = 1_u64.to_be_bytes();
/// The header extension that names the format of the image below.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Longest name of an image below, by the format.
const NAME_LEN_MAX: usize = 1023;

/// An overlay that is being written.
pub struct Overlay {
    partial: Partial,
    layout: Layout,
    below: Below,
    /// The first cluster of the file that is not handed out.
    next_cluster: AtomicU64,
    /// L2 tables by their place in the L1 table.
    tables: Mutex<BTreeMap<u64, Vec<u8>>>,
}

/// The image below an overlay.
#[derive(Debug, Clone)]
pub struct Below {
    /// Its path.
    pub path: PathBuf,
    /// Its format, as QEMU names it.
    pub format: &'static str,
}

impl Overlay {
    /// Length of the blocks that it is written in, in bytes.
    pub const BLOCK_LEN: u64 = CLUSTER_LEN;

    /// Begins an overlay of a disk of `size` bytes; what is at the path already is replaced, and
    /// not followed where it is a link. Only its owner may read it.
    pub fn create(path: &Path, size: u64, below: Below) -> Result<Self, TargetError> {
        if below.path.as_os_str().len() > NAME_LEN_MAX {
            let source = std::io::Error::other("the path is too long for a qcow2 header");
            return Err(TargetError::io("name", &below.path, source));
        }
        let partial = Partial::create_unfollowed(path)?;
        let private = fs::Permissions::from_mode(0o600);
        let set = partial.output().file().set_permissions(private);
        set.map_err(|source| TargetError::io("set the mode of", path, source))?;
        let layout = Layout::new(size);
        Ok(Self {
            partial,
            next_cluster: AtomicU64::new(layout.first_free()),
            layout,
            below,
            tables: Mutex::default(),
        })
    }

    /// Writes the block at `offset`. The last of a disk may be shorter.
    ///
    /// # Panics
    ///
    /// If it is no block of the disk.
    pub fn write_block(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        assert!(bytes.len() as u64 <= CLUSTER_LEN, "a block has one cluster");
        let cluster = self.next_cluster.fetch_add(1, Ordering::Relaxed);
        self.partial
            .output()
            .write_at(cluster * CLUSTER_LEN, bytes)?;
        self.set_entry(offset, entry(cluster));
        Ok(())
    }

    /// Makes the block at `offset` read as zeros.
    pub fn zero_block(&self, offset: u64) {
        self.set_entry(offset, ZERO_CLUSTER);
    }

    fn set_entry(&self, offset: u64, entry: [u8; 8]) {
        assert!(
            offset.is_multiple_of(CLUSTER_LEN),
            "{offset} begins no block"
        );
        assert!(
            offset < self.layout.virtual_size,
            "{offset} is not on the disk"
        );
        let number = offset / CLUSTER_LEN;
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let table = tables.entry(number / L2_ENTRIES);
        let table = table.or_insert_with(|| vec![0; CLUSTER_LEN as usize]);
        let at = (number % L2_ENTRIES) as usize * entry.len();
        table[at..][..entry.len()].copy_from_slice(&entry);
    }

    /// Makes the overlay whole and gives it its name; durable on return. Returns its length.
    pub fn finish(self) -> Result<u64, TargetError> {
        let output = self.partial.output();
        let mut used = self.next_cluster.load(Ordering::Relaxed);
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut l1 = vec![0; self.layout.l1_entries as usize * 8];
        for (number, table) in &*tables {
            output.write_at(used * CLUSTER_LEN, table)?;
            let at = *number as usize * 8;
            l1[at..][..8].copy_from_slice(&entry(used));
            used += 1;
        }
        drop(tables);
        output.write_at(CLUSTER_LEN, &l1)?;
        let refcounts = Refcounts::after(used);
        for number in 0..refcounts.blocks {
            let at = (refcounts.first_block + number) * CLUSTER_LEN;
            output.write_at(at, &refcounts.block(number))?;
        }
        output.write_at(refcounts.table * CLUSTER_LEN, &refcounts.table())?;
        output.write_at(0, &self.header(&refcounts))?;
        let len = refcounts.total() * CLUSTER_LEN;
        self.partial.publish()?;
        Ok(len)
    }

    /// Encodes the header with the extension and the name of the image below.
    fn header(&self, refcounts: &Refcounts) -> Vec<u8> {
        let mut header = self.layout.header(refcounts);
        // The end of extensions comes after ours.
        header.truncate(header.len() - 8);
        let format = self.below.format.as_bytes();
        header.extend(BACKING_FORMAT.to_be_bytes());
        header.extend((format.len() as u32).to_be_bytes());
        header.extend(format);
        header.resize(header.len().next_multiple_of(8), 0);
        header.extend([0; 8]);
        let name = self.below.path.as_os_str().as_bytes();
        let place = header.len() as u64;
        header[8..16].copy_from_slice(&place.to_be_bytes());
        header[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        header.extend(name);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;
    use crate::source::qcow2::{Qcow2Options, Qcow2Source};

    #[test]
    fn an_overlay_is_what_lies_below_but_for_its_blocks() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let (below, above) = (folder.path().join("a.raw"), folder.path().join("b.qcow2"));
        let block = usize::try_from(Overlay::BLOCK_LEN).expect("it is small");
        fs::write(&below, vec![1; 4 * block]).expect("a file can be written");
        let size = 5 * Overlay::BLOCK_LEN + 512;
        let named = Below {
            path: below,
            format: "raw",
        };
        let overlay = Overlay::create(&above, size, named).expect("a file can be made");
        overlay
            .write_block(5 * Overlay::BLOCK_LEN, &[3; 512])
            .expect("there is space");
        overlay
            .write_block(Overlay::BLOCK_LEN, &vec![2; block])
            .expect("there is space");
        overlay.zero_block(2 * Overlay::BLOCK_LEN);
        let len = overlay.finish().expect("it is whole");
        let found = fs::metadata(&above).expect("it has its name");
        assert_eq!(
            (found.len(), found.permissions().mode() & 0o777),
            (len, 0o600)
        );
        let options = Qcow2Options {
            allow_backing: true,
            ..Qcow2Options::default()
        };
        let disk = Qcow2Source::open(&above, &options).expect("it is an image");
        assert_eq!(disk.size(), size);
        let mut bytes = vec![9; 5 * block + 512];
        disk.read_at(0, &mut bytes).expect("it can be read");
        for (number, expected) in [1, 2, 0, 1, 0, 3].into_iter().enumerate() {
            let mut here = bytes.iter().skip(number * block).take(block);
            assert!(here.all(|byte| *byte == expected), "block {number}");
        }
    }
}
