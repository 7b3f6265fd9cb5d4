//! The bytes of a qcow2 image, as far as a writer of new images needs them: version 3, clusters of
//! 64 KiB, 16-bit refcounts that are all one. Big-endian; see QEMU's `docs/interop/qcow2.rst`.

use crate::limits::BLOCK_LEN;

/// A cluster is a block, so that holes need no rounding. Also qemu-img's default.
pub(in crate::target) const CLUSTER_LEN: u64 = BLOCK_LEN;
const CLUSTER_BITS: u32 = CLUSTER_LEN.trailing_zeros();
/// Entries of an L2 table, which has one cluster.
pub(in crate::target) const L2_ENTRIES: u64 = CLUSTER_LEN / 8;
/// Entries of a refcount block, which has one cluster.
const REFCOUNTS: u64 = CLUSTER_LEN / 2;
/// In an L1 or L2 entry: the cluster has a refcount of one.
const COPIED: u64 = 1 << 63;
const HEADER_LEN: u32 = 104;

/// Where the tables of an image are, in clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::target) struct Layout {
    pub(in crate::target) virtual_size: u64,
    /// Follows the header.
    pub(in crate::target) l1_clusters: u64,
    /// Number of entries, of which each has an L2 table or is zero.
    pub(in crate::target) l1_entries: u64,
}

/// Where the refcounts of an image are: blocks, then the table, then the image's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::target) struct Refcounts {
    pub(in crate::target) first_block: u64,
    pub(in crate::target) blocks: u64,
    pub(in crate::target) table: u64,
    pub(in crate::target) table_clusters: u64,
}

impl Layout {
    /// Plans an image for a disk, whose size qcow2 rounds up to whole sectors.
    pub(in crate::target) fn new(disk_size: u64) -> Self {
        let virtual_size = disk_size.next_multiple_of(512);
        let l1_entries = virtual_size.div_ceil(CLUSTER_LEN * L2_ENTRIES);
        Self {
            virtual_size,
            l1_clusters: (l1_entries * 8).div_ceil(CLUSTER_LEN),
            l1_entries,
        }
    }

    /// Returns the cluster after the header and the L1 table.
    pub(in crate::target) fn first_free(&self) -> u64 {
        1 + self.l1_clusters
    }

    /// Encodes the header cluster's beginning, with an end-of-extensions mark.
    pub(in crate::target) fn header(&self, refcounts: &Refcounts) -> Vec<u8> {
        let l1_offset = match self.l1_entries {
            0 => 0,
            _ => CLUSTER_LEN,
        };
        let l1_entries = u32::try_from(self.l1_entries).expect("disks are below 1 PiB");
        let table_clusters = u32::try_from(refcounts.table_clusters).expect("as above");
        let mut header = Vec::new();
        header.extend(*b"QFI\xfb");
        header.extend(3_u32.to_be_bytes());
        header.extend([0; 12]); // backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.virtual_size.to_be_bytes());
        header.extend([0; 4]); // encryption
        header.extend(l1_entries.to_be_bytes());
        header.extend(l1_offset.to_be_bytes());
        header.extend((refcounts.table * CLUSTER_LEN).to_be_bytes());
        header.extend(table_clusters.to_be_bytes());
        header.extend([0; 12]); // internal snapshots
        header.extend([0; 24]); // feature bits
        header.extend(4_u32.to_be_bytes()); // 2^4 bits for a refcount
        header.extend(HEADER_LEN.to_be_bytes());
        assert!(header.len() == HEADER_LEN as usize);
        header.extend([0; 8]); // end of extensions
        header
    }
}

impl Refcounts {
    /// Plans the refcounts of an image that has used the clusters before `used`; they cover
    /// themselves as well.
    pub(in crate::target) fn after(used: u64) -> Self {
        let (mut blocks, mut table_clusters) = (1, 1);
        loop {
            let total = used + blocks + table_clusters;
            let needed = total.div_ceil(REFCOUNTS);
            let table_needed = (needed * 8).div_ceil(CLUSTER_LEN);
            if needed <= blocks && table_needed <= table_clusters {
                return Self {
                    first_block: used,
                    blocks,
                    table: used + blocks,
                    table_clusters,
                };
            }
            (blocks, table_clusters) = (needed.max(blocks), table_needed.max(table_clusters));
        }
    }

    /// Returns how many clusters the image has.
    pub(in crate::target) fn total(&self) -> u64 {
        self.table + self.table_clusters
    }

    /// Encodes a refcount block: one for every cluster of the image, zero beyond.
    pub(in crate::target) fn block(&self, number: u64) -> Vec<u8> {
        let first = number * REFCOUNTS;
        let ones = self.total().saturating_sub(first).min(REFCOUNTS);
        let ones = usize::try_from(ones).expect("fits a block");
        let mut block = 1_u16.to_be_bytes().repeat(ones);
        block.resize(CLUSTER_LEN as usize, 0);
        block
    }

    /// Encodes the refcount table.
    pub(in crate::target) fn table(&self) -> Vec<u8> {
        let blocks = self.first_block..self.first_block + self.blocks;
        let mut table: Vec<u8> = blocks
            .flat_map(|block| (block * CLUSTER_LEN).to_be_bytes())
            .collect();
        let len = self.table_clusters * CLUSTER_LEN;
        table.resize(usize::try_from(len).expect("tables fit memory"), 0);
        table
    }
}

/// Returns the entry of an L1 or L2 table that points to a cluster of its own.
pub(in crate::target) fn entry(cluster: u64) -> [u8; 8] {
    ((cluster * CLUSTER_LEN) | COPIED).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_cover_everything_with_little_to_spare() {
        for used in (1..5)
            .chain(32_760..32_780)
            .chain([65_534, 268_435_456, 1 << 34])
        {
            let refcounts = Refcounts::after(used);
            let total = refcounts.total();
            assert!(refcounts.blocks * REFCOUNTS >= total, "{used}");
            assert!(
                refcounts.table_clusters * CLUSTER_LEN >= refcounts.blocks * 8,
                "{used}"
            );
            assert!((refcounts.blocks - 1) * REFCOUNTS <= total, "{used}");
        }
    }

    #[test]
    fn sizes_are_rounded_up_to_sectors() {
        assert_eq!(Layout::new(0).virtual_size, 0);
        assert_eq!(Layout::new(1).virtual_size, 512);
        assert_eq!(Layout::new(1024).virtual_size, 1024);
        assert_eq!(Layout::new((512 << 20) + 1).l1_entries, 2);
    }
}
