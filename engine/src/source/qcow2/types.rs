//! Coordinates and geometry: what is an offset into what, and how one leads to the other.

use std::path::Path;

use crate::source::SourceError;

/// Smallest legal `cluster_bits`: 512 bytes. The specification's limit.
pub(super) const CLUSTER_BITS_MIN: u32 = 9;
/// Largest `cluster_bits`: 2 MiB. QEMU's limit.
pub(super) const CLUSTER_BITS_MAX: u32 = 21;
/// Subclusters in a cluster with extended L2 entries. The specification's number.
pub(super) const SUBCLUSTERS: u32 = 32;
/// Smallest `cluster_bits` with extended L2 entries: a subcluster has at least 512 bytes.
const CLUSTER_BITS_MIN_EXTENDED: u32 = 14;

/// A byte offset in the disk that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GuestOffset(pub u64);

/// A byte offset in the image file or its external data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HostOffset(pub u64);

impl GuestOffset {
    /// Returns the place `len` bytes on. Sums of places in a disk stay far below 2^64.
    pub fn plus(self, len: u64) -> Self {
        GuestOffset(self.0.saturating_add(len))
    }
}

impl HostOffset {
    /// Returns the place `len` bytes on; one past the end of any file where that overflows.
    pub fn plus(self, len: u64) -> Self {
        HostOffset(self.0.saturating_add(len))
    }
}

/// What stands in the way of reading an image; its path is added by whoever knows it.
#[derive(Debug)]
pub(super) enum Fault {
    /// A rule of the format is broken.
    Malformed(String),
    /// A feature is not supported.
    Unsupported(String),
    /// The image is encrypted, by this method.
    Encrypted(&'static str),
    /// Metadata could not be read.
    Io(std::io::Error),
}

impl Fault {
    /// Returns the fault of the image at `path`.
    pub fn at(self, path: &Path) -> SourceError {
        let path = path.to_path_buf();
        match self {
            Fault::Malformed(fault) => SourceError::Malformed { path, fault },
            Fault::Unsupported(feature) => SourceError::Unsupported { path, feature },
            Fault::Encrypted(method) => SourceError::Encrypted { path, method },
            Fault::Io(source) => SourceError::Io {
                op: "read the metadata of",
                path,
                source,
            },
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(source: std::io::Error) -> Self {
        Fault::Io(source)
    }
}

/// Shorthand for a broken rule.
pub(super) fn malformed<T>(fault: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(fault.into()))
}

/// The sizes that follow from a header; every shift is by less than 64 once it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    cluster_bits: u32,
    extended_l2: bool,
}

impl Geometry {
    /// Returns the geometry, or what is wrong with it.
    pub fn new(cluster_bits: u32, extended_l2: bool) -> Result<Self, Fault> {
        if !(CLUSTER_BITS_MIN..=CLUSTER_BITS_MAX).contains(&cluster_bits) {
            return malformed(format!(
                "cluster_bits is {cluster_bits}, not {CLUSTER_BITS_MIN} to {CLUSTER_BITS_MAX}"
            ));
        }
        if extended_l2 && cluster_bits < CLUSTER_BITS_MIN_EXTENDED {
            return malformed("extended L2 entries need clusters of at least 16 KiB");
        }
        Ok(Geometry {
            cluster_bits,
            extended_l2,
        })
    }

    /// Returns the binary logarithm of the cluster length.
    pub fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    /// Returns whether L2 entries have a second word, of subcluster bits.
    pub fn extended_l2(self) -> bool {
        self.extended_l2
    }

    /// Returns the bytes in a cluster.
    pub fn cluster_len(self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits)
    }

    /// Returns the bytes in the smallest run with a status of its own.
    pub fn unit_len(self) -> u64 {
        if self.extended_l2 {
            self.cluster_len().wrapping_shr(SUBCLUSTERS.ilog2())
        } else {
            self.cluster_len()
        }
    }

    /// Returns the 8-byte words in one L2 entry.
    pub fn l2_entry_words(self) -> u64 {
        if self.extended_l2 { 2 } else { 1 }
    }

    /// Returns the binary logarithm of the disk bytes that one L2 table covers.
    fn l2_span_bits(self) -> u32 {
        // A table fills a cluster with entries of 8 or 16 bytes.
        let entries_bits = self.cluster_bits.saturating_sub(3);
        let entries_bits = entries_bits.saturating_sub(u32::from(self.extended_l2));
        self.cluster_bits.saturating_add(entries_bits)
    }

    /// Returns the disk bytes that one L2 table covers.
    pub fn l2_span(self) -> u64 {
        1_u64.wrapping_shl(self.l2_span_bits())
    }

    /// Returns which L1 entry covers `offset`.
    pub fn l1_index(self, offset: GuestOffset) -> u64 {
        offset.0.wrapping_shr(self.l2_span_bits())
    }

    /// Returns which entry of its L2 table covers `offset`.
    pub fn l2_index(self, offset: GuestOffset) -> u64 {
        let in_span = offset.0 & self.l2_span().wrapping_sub(1);
        in_span.wrapping_shr(self.cluster_bits)
    }

    /// Returns how far `offset` lies in its cluster.
    pub fn in_cluster(self, offset: u64) -> u64 {
        offset & self.cluster_len().wrapping_sub(1)
    }

    /// Returns whether `offset` is a multiple of the cluster length.
    pub fn is_aligned(self, offset: HostOffset) -> bool {
        self.in_cluster(offset.0) == 0
    }

    /// Returns the L1 entries that a disk of `size` bytes needs; rounds up.
    pub fn l1_entries_for(self, size: u64) -> u64 {
        size.div_ceil(self.l2_span().max(1))
    }
}

/// Returns the big-endian u32 at `at`, where there is one.
pub(super) fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

/// Returns the big-endian u64 at `at`, where there is one.
pub(super) fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(word.try_into().ok()?))
}

/// Returns the big-endian u16 at `at`, where there is one.
pub(super) fn be_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(word.try_into().ok()?))
}
