//! Where the bytes of an image go: a new file, or a device that is full of old bytes.

use std::path::Path;

use super::layout::CLUSTER_LEN;
use crate::target::device::Claimed;
use crate::target::output::Output;
use crate::target::partial::Partial;
use crate::target::{Abandoned, Finished, TargetError};

pub(super) enum Place {
    File(Partial),
    Device(Claimed),
}

impl Place {
    /// Takes a device. From here on it holds no image, until the header is written.
    pub(super) fn device(path: &Path, overwrite: bool, least: u64) -> Result<Self, TargetError> {
        let place = Self::Device(Claimed::open(path, overwrite)?);
        place.check_room(least)?;
        place.output().write_at(0, &[0; CLUSTER_LEN as usize])?;
        Ok(place)
    }

    pub(super) fn output(&self) -> &Output {
        match self {
            Self::File(partial) => partial.output(),
            Self::Device(claimed) => &claimed.output,
        }
    }

    /// Returns whether what is never written is not zero.
    pub(super) fn has_old_bytes(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// Fails where an image of so many clusters does not fit.
    pub(super) fn check_room(&self, clusters: u64) -> Result<(), TargetError> {
        let wanted = clusters * CLUSTER_LEN;
        match self {
            Self::Device(claimed) if claimed.size < wanted => Err(TargetError::DeviceTooSmall {
                path: claimed.output.path().to_owned(),
                device_size: claimed.size,
                disk_size: wanted,
            }),
            _ => Ok(()),
        }
    }

    /// Writes a table, which fills its clusters.
    pub(super) fn write_table(&self, cluster: u64, mut table: Vec<u8>) -> Result<(), TargetError> {
        if self.has_old_bytes() {
            let len = table.len().next_multiple_of(CLUSTER_LEN as usize);
            table.resize(len, 0);
        }
        self.output().write_at(cluster * CLUSTER_LEN, &table)
    }

    /// Writes the header last, and makes the image whole.
    pub(super) fn finish(self, header: Vec<u8>, size: u64) -> Result<Finished, TargetError> {
        if self.has_old_bytes() {
            self.output().sync()?;
        }
        self.write_table(0, header)?;
        let path = match self {
            Self::File(partial) => partial.publish()?,
            Self::Device(claimed) => {
                claimed.output.sync()?;
                claimed.output.path().to_owned()
            }
        };
        Ok(Finished { path, size })
    }

    pub(super) fn abandon(self) -> Abandoned {
        match self {
            Self::File(_) => Abandoned::Nothing,
            Self::Device(claimed) => Abandoned::IncompleteDevice(claimed.output.path().to_owned()),
        }
    }
}
