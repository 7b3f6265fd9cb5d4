//! A qcow2 file, written natively.
//!
//! Data clusters are handed out by region, in one run each, so that any number of threads write at
//! once and the file grows without gaps. What is known of a region is its first cluster and 256
//! bits: 40 bytes for 16 MiB. Tables are made from that at the end, and the header comes last.

pub(super) mod layout;
mod place;
mod region;
mod tables;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use layout::{CLUSTER_LEN, Layout, Refcounts};
use place::Place;
use region::{RegionClusters, gaps};

use super::partial::Partial;
use super::{Abandoned, Finished, Target, TargetError, TargetOptions, check_region};
use crate::limits::REGION_LEN;

pub(super) struct Qcow2Target {
    place: Place,
    size: u64,
    layout: Layout,
    /// The first cluster of the file that is not handed out.
    next_cluster: AtomicU64,
    /// The regions that were begun, by number.
    regions: RwLock<BTreeMap<u64, RegionClusters>>,
}

impl Qcow2Target {
    pub(super) fn create(path: &Path, options: &TargetOptions) -> Result<Self, TargetError> {
        let place = Place::File(Partial::create(path, options.overwrite)?);
        Ok(Self::new(place, Layout::new(options.size), options))
    }

    /// Begins an image on a block device. How long it gets shows while it is written.
    pub(super) fn on_device(path: &Path, options: &TargetOptions) -> Result<Self, TargetError> {
        let layout = Layout::new(options.size);
        let least = Refcounts::after(layout.first_free()).total();
        let place = Place::device(path, options.overwrite, least)?;
        Ok(Self::new(place, layout, options))
    }

    fn new(place: Place, layout: Layout, options: &TargetOptions) -> Self {
        Self {
            place,
            size: options.size,
            next_cluster: AtomicU64::new(layout.first_free()),
            layout,
            regions: RwLock::default(),
        }
    }

    fn region(&self, number: u64) -> Option<RegionClusters> {
        let regions = self.regions.read().expect("no holder panics");
        regions.get(&number).copied()
    }

    /// Writes bytes that lie in one region.
    fn write_in_region(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let region = self
            .region(offset / REGION_LEN)
            .expect("the region was begun");
        let cluster = offset % REGION_LEN / CLUSTER_LEN;
        let last = (offset % REGION_LEN + bytes.len() as u64 - 1) / CLUSTER_LEN;
        // Clusters with data stand side by side, so the bytes do so in the file as well.
        for cluster in cluster..=last {
            assert!(region.has(cluster), "the region was begun with this data");
        }
        let host = (region.first + region.rank(cluster)) * CLUSTER_LEN + offset % CLUSTER_LEN;
        self.place.output().write_at(host, bytes)
    }
}

impl Target for Qcow2Target {
    fn begin_region(&self, start: u64, data: &[Range<u64>]) -> Result<(), TargetError> {
        check_region(self.size, start, data);
        let mut region = RegionClusters::default();
        for range in data {
            let last = (range.end - 1 - start) / CLUSTER_LEN;
            for cluster in (range.start - start) / CLUSTER_LEN..=last {
                region.mark(cluster);
            }
        }
        region.first = self
            .next_cluster
            .fetch_add(region.count(), Ordering::Relaxed);
        let mut regions = self.regions.write().expect("no holder panics");
        let before = regions.insert(start / REGION_LEN, region);
        assert!(before.is_none(), "the region at {start} was begun before");
        drop(regions);
        self.place.check_room(region.first + region.count())?;
        if self.place.has_old_bytes() {
            for gap in gaps(data) {
                let zeros = [0; CLUSTER_LEN as usize];
                let len = usize::try_from(gap.end - gap.start).expect("less than a cluster");
                self.write_in_region(gap.start, &zeros[..len])?;
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let end = offset + bytes.len() as u64;
        assert!(end <= self.size, "outside the disk");
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let in_region = REGION_LEN - at % REGION_LEN;
            let len = usize::try_from(in_region)
                .expect("a region fits memory")
                .min(rest.len());
            let (here, later) = rest.split_at(len);
            self.write_in_region(at, here)?;
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn end_region(&self, start: u64) {
        if let Some(region) = self.region(start / REGION_LEN) {
            let clusters = region.first..region.first + region.count();
            let bytes = clusters.start * CLUSTER_LEN..clusters.end * CLUSTER_LEN;
            self.place.output().start_writeback(bytes);
        }
    }

    fn finish(self: Box<Self>) -> Result<Finished, TargetError> {
        let header = self.write_tables()?;
        self.place.finish(header, self.layout.virtual_size)
    }

    fn abandon(self: Box<Self>) -> Abandoned {
        self.place.abandon()
    }
}
