//! Which clusters a region of the disk has, and where in the file they stand.

use std::ops::Range;

use super::layout::{CLUSTER_LEN, entry};
use crate::limits::REGION_LEN;

/// Clusters of a region.
pub(super) const REGION_CLUSTERS: u64 = REGION_LEN / CLUSTER_LEN;

/// Which clusters of a region have data, and where in the file they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RegionClusters {
    pub(super) first: u64,
    data: [u64; (REGION_CLUSTERS / 64) as usize],
}

impl RegionClusters {
    pub(super) fn mark(&mut self, cluster: u64) {
        self.data[(cluster / 64) as usize] |= 1 << (cluster % 64);
    }

    pub(super) fn has(&self, cluster: u64) -> bool {
        self.data[(cluster / 64) as usize] >> (cluster % 64) & 1 == 1
    }

    /// Returns how many clusters before this one have data.
    pub(super) fn rank(&self, cluster: u64) -> u64 {
        let (words, rest) = self.data.split_at((cluster / 64) as usize);
        let below = rest
            .first()
            .map_or(0, |word| word & ((1 << (cluster % 64)) - 1));
        words
            .iter()
            .chain([&below])
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    pub(super) fn count(&self) -> u64 {
        self.data
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Returns the L2 entries of the region.
    pub(super) fn entries(&self) -> Vec<u8> {
        let mut next = self.first;
        let mut entries = Vec::with_capacity(REGION_CLUSTERS as usize * 8);
        for cluster in 0..REGION_CLUSTERS {
            let has = self.has(cluster);
            entries.extend(if has { entry(next) } else { [0; 8] });
            next += u64::from(has);
        }
        entries
    }
}

/// Returns what ascending ranges leave of the clusters that they touch.
pub(super) fn gaps(data: &[Range<u64>]) -> Vec<Range<u64>> {
    let floor = |offset: u64| offset - offset % CLUSTER_LEN;
    let mut gaps = Vec::new();
    let mut end = 0;
    for (number, range) in data.iter().enumerate() {
        gaps.push(end.max(floor(range.start))..range.start);
        end = range.end;
        let next = data.get(number + 1).map_or(u64::MAX, |it| floor(it.start));
        gaps.push(end..end.next_multiple_of(CLUSTER_LEN).min(next));
    }
    gaps.retain(|gap| gap.start < gap.end);
    gaps
}
