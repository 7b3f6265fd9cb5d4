//! Which bytes of a disk differ between two snapshots.

use std::ops::Range;

use crate::format::manifest::DiskRecord;
use crate::recipe::{self, Recipe, RecipeError, Shape};
use crate::repository::Contents;

/// Returns the disk ranges in which two snapshots of a disk differ, to whole chunks, in disk order.
/// Takes time in proportion to the difference. Where the sizes differ, the tail differs.
pub fn diff(
    contents: &Contents,
    old: &DiskRecord,
    new: &DiskRecord,
) -> Result<Vec<Range<u64>>, RecipeError> {
    diff_in(contents, old, new, 0..u64::MAX)
}

/// Returns what [`diff`] does, as far as it lies in `range`, in time proportional to the difference
/// there.
pub fn diff_in(
    contents: &Contents,
    old: &DiskRecord,
    new: &DiskRecord,
    range: Range<u64>,
) -> Result<Vec<Range<u64>>, RecipeError> {
    let window_len = contents.repository().chunker().window_len();
    let open = |disk: &DiskRecord| {
        Ok(Recipe::new(
            contents,
            Shape::new(disk.size, window_len)?,
            disk.recipe,
        ))
    };
    recipe::diff_in(&open(old)?, &open(new)?, range)
}
