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
            self.partial
                .output()
                .write_at(*used * CLUSTER_LEN, &table)?;
            l1.extend(entry(*used));
            *used += 1;
        }
        Ok(l1)
    }

    pub(super) fn write_tables(&self) -> Result<(), TargetError> {
        let output = self.partial.output();
        let mut used = self.next_cluster.load(Ordering::Relaxed);
        let l1 = self.write_l2_tables(&mut used)?;
        output.write_at(CLUSTER_LEN, &l1)?;
        let refcounts = Refcounts::after(used);
        for number in 0..refcounts.blocks {
            let at = (refcounts.first_block + number) * CLUSTER_LEN;
            output.write_at(at, &refcounts.block(number))?;
        }
        output.write_at(refcounts.table * CLUSTER_LEN, &refcounts.table())?;
        output.write_at(0, &self.layout.header(&refcounts))
    }
}
