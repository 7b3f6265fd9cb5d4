//! The geometry of a recipe: which windows a node covers, and how high the tree is.

use std::fmt;
use std::ops::Range;

use super::RecipeError;
use crate::limits::{DISK_LEN_MAX, NODE_FANOUT, NODE_LEVEL_MAX, REGION_LEN};

/// Bits of a window number that one level of the tree consumes.
const LEVEL_BITS: u32 = NODE_FANOUT.trailing_zeros();

/// Where a node stands: its level (leaves have 0), and its number among the nodes of that level.
///
/// A place covers the same windows in every recipe, whatever the disk's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePlace {
    /// Distance from the leaves.
    pub level: u8,
    /// Number among the nodes of this level, counted from the disk's start.
    pub index: u64,
}

impl NodePlace {
    /// Returns the place at `level` that covers `window`.
    pub(super) fn of_window(level: u8, window: u64) -> Self {
        Self {
            level,
            index: window >> (LEVEL_BITS * u32::from(level)),
        }
    }

    /// Returns how many windows a node of `level` covers.
    pub(super) fn span(level: u8) -> u64 {
        1 << (LEVEL_BITS * u32::from(level))
    }

    /// Returns the windows covered.
    pub fn windows(self) -> Range<u64> {
        let span = Self::span(self.level);
        let start = self.index.saturating_mul(span);
        start..start.saturating_add(span)
    }

    /// Returns the slot that this place has in its parent node.
    pub(super) fn slot(self) -> u8 {
        u8::try_from(self.index % NODE_FANOUT).expect("a remainder of 256 fits a byte")
    }

    /// Returns the place of the node above.
    pub(super) fn above(self) -> Self {
        Self {
            level: self.level + 1,
            index: self.index / NODE_FANOUT,
        }
    }

    /// Returns the place of the child in `slot`. Leaves have no children.
    pub(super) fn child(self, slot: u8) -> Self {
        assert!(self.level > 0, "a leaf has no children");
        Self {
            level: self.level - 1,
            index: self.index * NODE_FANOUT + u64::from(slot),
        }
    }
}

impl fmt::Display for NodePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = self.windows();
        match self.level {
            0 => write!(f, "leaf of window {}", windows.start),
            level => {
                let (start, end) = (windows.start, windows.end);
                write!(f, "level {level}, windows {start} to {end}")
            }
        }
    }
}

/// The geometry of one disk's recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    size: u64,
    window_len: u64,
}

impl Shape {
    /// Describes the recipe of a disk of `size` bytes, with leaves of `window_len` bytes.
    ///
    /// # Errors
    ///
    /// [`RecipeError::DiskTooLarge`], as a manifest could say any size.
    ///
    /// # Panics
    ///
    /// Unless `window_len` is a power of two that divides a region.
    pub fn new(size: u64, window_len: u64) -> Result<Self, RecipeError> {
        assert!(
            window_len.is_power_of_two() && window_len <= REGION_LEN,
            "a window of {window_len} bytes does not divide a region"
        );
        let limit = DISK_LEN_MAX.min(window_len.saturating_mul(NodePlace::span(NODE_LEVEL_MAX)));
        if size > limit {
            return Err(RecipeError::DiskTooLarge { size, limit });
        }
        Ok(Self { size, window_len })
    }

    /// Returns the disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the length of a window in bytes.
    pub fn window_len(&self) -> u64 {
        self.window_len
    }

    /// Returns how many windows the disk has; the last may be short.
    pub fn windows(&self) -> u64 {
        self.size.div_ceil(self.window_len)
    }

    /// Returns the level of the root, unless the disk is one hole.
    pub fn height(&self) -> u8 {
        let windows = self.windows();
        (0..=NODE_LEVEL_MAX)
            .find(|level| NodePlace::span(*level) >= windows)
            .expect("no larger disk has a shape")
    }

    /// Returns the disk bytes that a node's windows cover.
    pub fn bytes(&self, place: NodePlace) -> Range<u64> {
        let windows = place.windows();
        let offset = |window: u64| window.saturating_mul(self.window_len).min(self.size);
        offset(windows.start)..offset(windows.end)
    }

    /// Returns the place of the root, unless the disk is one hole.
    pub(crate) fn root_place(&self) -> NodePlace {
        NodePlace {
            level: self.height(),
            index: 0,
        }
    }

    /// Returns where a window begins.
    pub(super) fn window_start(&self, window: u64) -> u64 {
        window * self.window_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MIB;

    #[test]
    fn height_is_the_least_that_covers_the_disk() {
        let window = 2 * MIB;
        for (windows, height) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (256, 1),
            (257, 2),
            (65_536, 2),
            (65_537, 3),
            (1 << 24, 3),
            ((1 << 24) + 1, 4),
        ] {
            let shape = Shape::new(windows * window, window).expect("sizes are supported");
            assert_eq!(shape.height(), height, "{windows} windows");
            assert_eq!(shape.windows(), windows);
        }
        let shape = Shape::new(256 * window + 1, window).expect("size is supported");
        assert_eq!(shape.height(), 2);
    }

    #[test]
    fn a_larger_disk_is_refused() {
        assert!(Shape::new(DISK_LEN_MAX, 2 * MIB).is_ok());
        assert!(matches!(
            Shape::new(DISK_LEN_MAX + 1, 2 * MIB),
            Err(RecipeError::DiskTooLarge { .. })
        ));
    }

    #[test]
    fn places_nest() {
        let place = NodePlace { level: 2, index: 3 };
        assert_eq!(place.windows(), 3 * 65_536..4 * 65_536);
        let child = place.child(7);
        assert_eq!(child.windows(), (3 * 256 + 7) * 256..(3 * 256 + 8) * 256);
        assert_eq!(child.above(), place);
        assert_eq!(child.slot(), 7);
        assert_eq!(NodePlace::of_window(1, child.windows().start), child);
    }
}
