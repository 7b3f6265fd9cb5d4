//! Every bound of the engine, with its reason. Bytes are bytes; `KIB` and `MIB` are binary.

/// 1024 bytes.
pub const KIB: u64 = 1024;
/// 1024 KiB.
pub const MIB: u64 = 1024 * KIB;
/// 1024 MiB.
pub const GIB: u64 = 1024 * MIB;

/// The block of hole detection and of dirty rounding. QEMU's default bitmap granularity and
/// qcow2's default cluster, so that neither is rounded up.
pub const BLOCK_LEN: u64 = 64 * KIB;
/// A segment ends at every multiple of this. Bounds how far a change can move cuts (measured cost:
/// 0.45 % of space), and is the unit of parallel work.
pub const REGION_LEN: u64 = 16 * MIB;
/// Largest disk: 256^4 windows of 2 MiB would be 8 PiB; no guest disk comes near 1 PiB.
pub const DISK_LEN_MAX: u64 = 1 << 50;

/// Smallest average chunk size: below, references outweigh what is saved.
pub const CHUNK_AVG_MIN: u32 = 4 * 1024;
/// Default average chunk size; measured best of 4 KiB to 4 MiB on the reference corpus.
pub const CHUNK_AVG_DEFAULT: u32 = 16 * 1024;
/// Largest average chunk size: four times this is the largest chunk, and a region holds four.
pub const CHUNK_AVG_MAX: u32 = 1024 * 1024;
/// Largest chunk at any setting (four times the average).
pub const CHUNK_LEN_MAX: u32 = 4 * CHUNK_AVG_MAX;

/// Smallest window of a recipe leaf; the window is the larger of this and the largest chunk.
pub const WINDOW_LEN_MIN: u64 = 2 * MIB;
/// Children of an inner recipe node.
pub const NODE_FANOUT: u64 = 256;
/// Most levels above the leaves: 256^4 windows of 2 MiB exceed `DISK_LEN_MAX`.
pub const NODE_LEVEL_MAX: u8 = 4;
/// Most chunks in one leaf: a 2 MiB window of 1 KiB chunks holds 2048, and a 4 MiB window of
/// 256 KiB chunks far fewer; short tails of segments add at most one for each block.
pub const LEAF_CHUNKS_MAX: usize = 8192;
/// Largest encoded recipe node: a full leaf of 40 bytes a chunk, rounded up.
pub const NODE_LEN_MAX: usize = 512 * 1024;

/// Default plain length that a frame is filled to: a random read decodes a whole frame, and a disk
/// that is served is read at random (`docs/decisions/0004-frames-of-64-kib.md`).
pub const FRAME_LEN_DEFAULT: u32 = 64 * 1024;
/// Smallest and largest plain length that a frame may be set to be filled to.
pub const FRAME_LEN_RANGE: std::ops::RangeInclusive<u32> = 16 * 1024..=1024 * 1024;
/// Most plain bytes in one frame: one largest chunk alone.
pub const FRAME_PLAIN_LEN_MAX: u32 = CHUNK_LEN_MAX;
/// Most stored bytes of one frame: plain bytes and an authentication tag.
pub const FRAME_STORED_LEN_MAX: u32 = FRAME_PLAIN_LEN_MAX + 64;
/// Most chunks in one frame; an index entry has 16 bits for it.
pub const FRAME_CHUNKS_MAX: usize = 16 * 1024;

/// Stored length at which a pack is sealed. Large enough that a million packs hold 64 TB, small
/// enough that repacking one is cheap.
pub const PACK_LEN_DEFAULT: u64 = 64 * MIB;
/// Lengths at which users may have packs sealed.
pub const PACK_LEN_RANGE: std::ops::RangeInclusive<u64> = MIB..=512 * MIB;
/// Longest pack that is read: a pack is sealed by the first frame past its length.
pub const PACK_LEN_MAX: u64 = 1024 * MIB;
/// Most frames in a pack; an index entry has 16 bits for it.
pub const PACK_FRAMES_MAX: usize = 65_535;
/// Most chunks in a pack: bounds the footer.
pub const PACK_CHUNKS_MAX: usize = 256 * 1024;
/// Longest stored footer: `PACK_CHUNKS_MAX` entries, the frame table and a tag.
pub const FOOTER_LEN_MAX: u32 = 24 * 1024 * 1024;

/// Block by which packs are checked and rebuilt: what disks lose at once is as long or shorter.
pub const PARITY_BLOCK_LEN: usize = 4096;
/// Most blocks of a pack that are coded together: 4 MiB of memory, whatever the pack's length.
pub const PARITY_GROUP_LEN_MAX: u32 = 1024;

/// Longest config, key slot or note.
pub const SMALL_DOCUMENT_LEN_MAX: u64 = MIB;
/// Longest session document: 67 bytes for each of a hundred thousand snapshots that are pinned.
pub const SESSION_LEN_MAX: u64 = 8 * MIB;
/// Longest manifest: domain XML and thousands of disks fit.
pub const MANIFEST_LEN_MAX: u64 = 64 * MIB;
