//! A native reader of qcow2 images.
//!
//! Owns everything about the format: versions 2 and 3, any legal cluster size, backing chains,
//! compressed clusters, subclusters, external data files, internal snapshots and persistent dirty
//! bitmaps. What an image names is opened only where the options allow it, and every byte of it is
//! taken for hostile: an image is the guest's. Reads never change it.
//!
//! `header` decodes the first cluster, `tables` keeps parts of tables in memory, `mapping` goes
//! from disk offsets to places in the file, `image` and `compressed` read there, `chain` puts the
//! images together, `bitmaps` and `snapshots` read what they are called after, `marks` puts the
//! bitmaps of a chain together, and `disk` is what comes of it.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "tests compute their own bytes"
    )
)]

mod bitmaps;
mod chain;
mod compressed;
mod disk;
mod header;
mod image;
mod mapping;
mod marks;
mod snapshots;
mod tables;
mod types;

pub use disk::Qcow2Source;

use super::spec::{Format, Origin};

/// What of an image is read, and what else may be opened for it.
#[derive(Debug, Clone, Default)]
pub struct Qcow2Options {
    /// Whether backing files may be opened.
    pub allow_backing: bool,
    /// The format of backing files whose images do not tell it.
    pub backing_format: Option<Format>,
    /// Whether external data files may be opened.
    pub allow_data_file: bool,
    /// The id or name of an internal snapshot to read instead of the active state.
    pub snapshot: Option<String>,
    /// A persistent dirty bitmap: what is clean in it is unchanged. Not with `snapshot`.
    /// A backing file's bitmap of that name counts too.
    pub bitmap: Option<String>,
    /// The image that the bitmap was made on. It must be in the chain, and every image from the
    /// first down to it must have the bitmap. Where it is not given, all images count that have
    /// the bitmap, and none between them may lack it.
    pub origin: Option<Origin>,
    /// Whether the image is a delta: what is unallocated in it is unchanged, and the backing file
    /// that it names is ignored. Neither with `snapshot` nor with `bitmap`.
    pub delta: bool,
    /// Whether the files may be open for writing elsewhere: what is read of them is then of no
    /// one moment, and the image may look damaged.
    pub may_be_written: bool,
}
