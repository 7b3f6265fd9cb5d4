//! Tables and header of a qcow2 file, written when all data is.

use std::sync::atomic::Ordering;

use super::Qcow2Target;
use super::layout::{CLUSTER_LEN, L2_ENTRIES, Refcounts, entry};
use super::region::REGION_CLUSTERS;
use crate::target::TargetError;

const L2_REGIONS: u64 = L2_ENTRIES / REGION_CLUSTERS;

impl Qcow2Target {
    /// Writes the L2 tables after all data, and returns the L1 table.
    fn write_l2_tables(&self, used: &mut u64) -> Result<Vec<u8>, TargetError> {
        let regions = self.regions.read().expect("no holder panics");
        let mut l1 = Vec::with_capacity(self.layout.l1_entries as usize * 8);
        for number in 0..self.layout.l1_entries {
            let covered = number * L2_REGIONS..(number + 1) * L2_REGIONS;
            let mut table = vec![0; CLUSTER_LEN as usize];
            let mut empty = true;
            for (region, clusters) in regions.range(covered.clone()) {
                let entries = clusters.entries();
                let at = (region - covered.start) as usize * entries.len();
                table[at..at + entries.len()].copy_from_slice(&entries);
                empty &= clusters.count() == 0;
            }
            if empty {
                l1.extend([0; 8]);
                continue;
            }
            self.place.write_table(*used, table)?;
            l1.extend(entry(*used));
            *used += 1;
        }
        Ok(l1)
    }

    /// Writes all but the header, and returns that.
    pub(super) fn write_tables(&self) -> Result<Vec<u8>, TargetError> {
        let mut used = self.next_cluster.load(Ordering::Relaxed);
        let l1 = self.write_l2_tables(&mut used)?;
        let refcounts = Refcounts::after(used);
        self.place.check_room(refcounts.total())?;
        self.place.write_table(1, l1)?;
        for number in 0..refcounts.blocks {
            let at = refcounts.first_block + number;
            self.place.write_table(at, refcounts.block(number))?;
        }
        self.place.write_table(refcounts.table, refcounts.table())?;
        Ok(self.layout.header(&refcounts))
    }
}
