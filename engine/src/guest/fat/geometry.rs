//! The boot sector, and the table of clusters.

use std::num::NonZeroU64;

use super::WHAT;
use crate::guest::fields::{Fields, damaged, unsupported};
use crate::guest::tree::{GuestError, Volume};

/// How wide the entries of the table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits12,
    Bits16,
    Bits32,
}

/// Where things are on the volume, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub width: Width,
    pub cluster_size: NonZeroU64,
    /// Clusters are numbered from 2 up to this, which is none.
    pub clusters_end: u64,
    pub table_offset: u64,
    /// Where the top folder is, and its length, where it is no chain of clusters.
    pub root_offset: u64,
    pub root_len: u64,
    /// First cluster of the top folder, where it is a chain.
    pub root_cluster: u64,
    pub data_offset: u64,
    /// Whether the boot sector says that the volume was not closed.
    pub marked_dirty: bool,
}

/// Returns whether the first sector of a volume is one of FAT.
pub(super) fn is(start: &[u8]) -> bool {
    // A boot sector of anything else may end with the same mark: its numbers must make sense too.
    start.get(510..512) == Some(&[0x55, 0xaa])
        && !is_exfat(start)
        && start.get(3..11) != Some(b"NTFS    ")
        && Geometry::decode(start).is_ok()
}

/// Returns whether the first sector of a volume is one of exFAT.
pub(super) fn is_exfat(start: &[u8]) -> bool {
    start.get(3..11) == Some(b"EXFAT   ")
}

impl Geometry {
    /// Decodes the boot sector.
    pub fn decode(bytes: &[u8]) -> Result<Self, GuestError> {
        if is_exfat(bytes) {
            return Err(unsupported("exfat file system", "a format of its own"));
        }
        let fields = Fields::new(WHAT, bytes);
        let bad = || damaged(WHAT, "the boot sector's sizes are impossible");
        let sector = u64::from(fields.le16(11)?);
        let cluster_sectors = u64::from(fields.u8(13)?);
        let (reserved, tables) = (u64::from(fields.le16(14)?), u64::from(fields.u8(16)?));
        let jumps = matches!(fields.u8(0)?, 0xeb | 0xe9);
        if !matches!(sector, 512 | 1024 | 2048 | 4096)
            || !cluster_sectors.is_power_of_two()
            || reserved == 0
            || !(1..=2).contains(&tables)
            || !jumps
        {
            return Err(bad());
        }
        let or = |small: u16, large: u32| match small {
            0 => u64::from(large),
            small => u64::from(small),
        };
        let wide = fields.le16(22)? == 0;
        let table_sectors = or(fields.le16(22)?, if wide { fields.le32(36)? } else { 0 });
        let sectors = or(fields.le16(19)?, fields.le32(32)?);
        let root_len = u64::from(fields.le16(17)?).saturating_mul(32);
        let root_sectors = root_len.div_ceil(sector);
        let root_sector = table_sectors
            .saturating_mul(tables)
            .saturating_add(reserved);
        let data_sector = root_sector.saturating_add(root_sectors);
        let data = sectors.checked_sub(data_sector).ok_or_else(bad)?;
        let clusters = data.checked_div(cluster_sectors).unwrap_or_default();
        let width = match clusters {
            _ if wide => Width::Bits32,
            0..4085 => Width::Bits12,
            4085..65525 => Width::Bits16,
            _ => return Err(bad()),
        };
        let entry_bits = match width {
            Width::Bits12 => 12,
            Width::Bits16 => 16,
            Width::Bits32 => 32,
        };
        // The table bounds the clusters too.
        let bits = table_sectors.saturating_mul(sector).saturating_mul(8);
        let entries = bits.checked_div(entry_bits).unwrap_or_default();
        let state = fields.u8(if wide { 65 } else { 37 })?;
        Ok(Self {
            width,
            cluster_size: NonZeroU64::new(cluster_sectors.saturating_mul(sector))
                .ok_or_else(bad)?,
            clusters_end: clusters.saturating_add(2).min(entries),
            table_offset: reserved.saturating_mul(sector),
            root_offset: root_sector.saturating_mul(sector),
            root_len,
            root_cluster: if wide { u64::from(fields.le32(44)?) } else { 0 },
            data_offset: data_sector.saturating_mul(sector),
            marked_dirty: state & 1 != 0,
        })
    }

    /// Returns where a cluster is.
    pub fn cluster_offset(&self, cluster: u64) -> Result<u64, GuestError> {
        if !(2..self.clusters_end).contains(&cluster) {
            return Err(damaged(WHAT, "a cluster lies outside of the file system"));
        }
        let within = cluster
            .saturating_sub(2)
            .saturating_mul(self.cluster_size.get());
        Ok(self.data_offset.saturating_add(within))
    }

    /// Returns the cluster that follows another; `None` at the end of the chain.
    pub fn next(&self, volume: &dyn Volume, cluster: u64) -> Result<Option<u64>, GuestError> {
        let (next, end) = match self.width {
            Width::Bits12 => (self.entry12(volume, cluster)?, 0xff7),
            Width::Bits16 => (self.entry(volume, cluster, 2)?, 0xfff7),
            Width::Bits32 => (self.entry(volume, cluster, 4)? & 0xfff_ffff, 0xfff_fff7),
        };
        Ok((next < end).then_some(next))
    }

    fn entry12(&self, volume: &dyn Volume, cluster: u64) -> Result<u64, GuestError> {
        let mut pair = [0; 2];
        let at = cluster.saturating_add(cluster / 2);
        volume.read_at(self.table_offset.saturating_add(at), &mut pair)?;
        let pair = u64::from(u16::from_le_bytes(pair));
        Ok(if cluster.is_multiple_of(2) {
            pair & 0xfff
        } else {
            pair >> 4
        })
    }

    fn entry(&self, volume: &dyn Volume, cluster: u64, len: usize) -> Result<u64, GuestError> {
        let mut bytes = [0; 8];
        let at = cluster.saturating_mul(u64::try_from(len).unwrap_or(u64::MAX));
        let place = bytes.get_mut(..len).unwrap_or_default();
        volume.read_at(self.table_offset.saturating_add(at), place)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Returns whether the table or the boot sector says that the volume was not closed.
    pub fn is_dirty(&self, volume: &dyn Volume) -> Result<bool, GuestError> {
        let closed = match self.width {
            Width::Bits12 => true,
            Width::Bits16 => self.entry(volume, 1, 2)? & 0x8000 != 0,
            Width::Bits32 => self.entry(volume, 1, 4)? & 0x800_0000 != 0,
        };
        Ok(self.marked_dirty || !closed)
    }
}
