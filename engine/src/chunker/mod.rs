//! Cuts disks into chunks: zero blocks, segments, FastCDC, and the incremental walk. Pure.
//!
//! A disk is a row of blocks. A block of zeros is a hole; a segment is a maximal run of other
//! blocks, ended also at every region border; FastCDC runs over each segment from its start. What
//! the chunks of a disk are therefore depends on its bytes and on the settings alone, and
//! [`walk_region`] upholds that while it takes over, unread, what a parent's chunks already say.

mod blocks;
mod gear;
mod settings;
mod walk;

pub use blocks::{BlockSet, is_zero};
pub use gear::{Cutter, GearTable};
pub use settings::{AverageRefused, ChunkerSettings, CutParams, Geometry};
pub use walk::{
    ChunkRef, LOOK_AHEAD, Piece, Region, RegionBuffer, RegionBytes, clean_holes, walk_region,
};
