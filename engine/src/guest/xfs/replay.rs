//! The volume as it is once the log has been replayed, in memory.
//!
//! `lamxfs` replays the log and keeps the blocks that this changes, but shows files alone: neither
//! owners, times nor extended attributes. So it is shown a file of our own making that maps the
//! part of the volume that is wanted, and what it reads of that file is the replayed volume. The
//! inode of that file is put where the log begins: nothing that is replayed lies there.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamxfs::{BlockRead, Error, Inode, SuperblockReason, Xfs};

use super::WHAT;
use super::geometry::Geometry;
use crate::guest::fields::{damaged, unsupported};
use crate::guest::guard::guarded;
use crate::guest::tree::{GuestError, Volume};

/// The largest read handed on at once; a mapping of it fits in the blocks that one extent can have.
const PIECE_LEN: usize = 1 << 20;

/// What the replay may take between reads of the volume. Real logs take a second; of one that was
/// made for it, each new chunk of inodes is compared with each block that is freed later.
const REPLAY_TIME_MAX: Duration = Duration::from_secs(20);

/// What [`replay`] found.
pub(super) enum Replay {
    /// This volume is as the kernel would show it.
    Done(Arc<dyn Volume>),
    /// The log holds changes that cannot be replayed here.
    Refused,
}

/// Replays the log of a file system, if there is anything to replay.
pub(super) fn replay(volume: &Arc<dyn Volume>) -> Result<Replay, GuestError> {
    let shared = Arc::new(Mutex::new(Shared {
        since: Some(Instant::now()),
        ..Shared::default()
    }));
    let beneath = Beneath {
        volume: Arc::clone(volume),
        shared: Arc::clone(&shared),
    };
    let opened = guarded(WHAT, || Ok(Xfs::open(beneath, volume.size())))?;
    let is_late = {
        let mut shared = lock(&shared);
        shared.since = None;
        shared.is_late()
    };
    let xfs = match opened {
        Ok(xfs) => xfs,
        Err(_) if is_late => return Ok(Replay::Refused),
        Err(Error::BadSuperblock(SuperblockReason::DirtyLog)) => return Ok(Replay::Refused),
        Err(error) => return Err(refused(error, lock(&shared).failed.take())),
    };
    let mut start = vec![0; 512];
    volume.read_at(0, &mut start)?;
    let geometry = Geometry::decode(&start)?;
    let inode = geometry
        .log_start
        .checked_mul(geometry.inodes_per_block.get())
        .ok_or_else(|| damaged(WHAT, "the log lies outside of the file system"))?;
    Ok(Replay::Done(Arc::new(Replayed {
        inode,
        inode_at: geometry.inode_offset(inode)?,
        geometry,
        volume: Arc::clone(volume),
        xfs: Mutex::new(xfs),
        shared,
    })))
}

fn refused(error: Error, failed: Option<io::Error>) -> GuestError {
    if let Some(failed) = failed {
        return GuestError::Io(failed);
    }
    match error {
        Error::UnsupportedFeature(token) => {
            unsupported(WHAT, token.trim_start_matches("feat_").replace('_', " "))
        }
        Error::BadSuperblock(SuperblockReason::ExternalLog) => unsupported(WHAT, "an external log"),
        Error::BadSuperblock(SuperblockReason::RealtimeDevice) => {
            unsupported(WHAT, "a realtime device")
        }
        error => GuestError::Damaged {
            what: WHAT,
            source: Box::new(error),
        },
    }
}

/// What the two ends of `lamxfs` have in common.
#[derive(Default)]
struct Shared {
    /// An inode of our making, and where it is seen.
    inode: Option<(u64, Vec<u8>)>,
    /// Why the last read failed: `lamxfs` drops that.
    failed: Option<io::Error>,
    /// When the last read ended, while the log is replayed.
    since: Option<Instant>,
    /// What the replay took besides.
    spent: Duration,
}

impl Shared {
    fn is_late(&self) -> bool {
        self.spent > REPLAY_TIME_MAX
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `lamxfs` reads from.
struct Beneath {
    volume: Arc<dyn Volume>,
    shared: Arc<Mutex<Shared>>,
}

impl BlockRead for Beneath {
    type Error = ();

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ()> {
        let mut shared = lock(&self.shared);
        if let Some(since) = shared.since {
            shared.spent = shared.spent.saturating_add(since.elapsed());
            if shared.is_late() {
                return Err(());
            }
        }
        if let Some((at, inode)) = &shared.inode
            && *at == offset
            && inode.len() == buf.len()
        {
            buf.copy_from_slice(inode);
            return Ok(());
        }
        let read = self.volume.read_at(offset, buf);
        shared.since = shared.since.map(|_| Instant::now());
        read.map_err(|error| shared.failed = Some(error))
    }
}

struct Replayed {
    volume: Arc<dyn Volume>,
    geometry: Geometry,
    inode: u64,
    inode_at: u64,
    xfs: Mutex<Xfs<Beneath>>,
    shared: Arc<Mutex<Shared>>,
}

impl Replayed {
    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> Option<()> {
        let (block, within) = self.geometry.block_at(offset)?;
        let size = within.checked_add(u64::try_from(buf.len()).ok()?)?;
        let blocks = size.div_ceil(self.geometry.block_size.get());
        let inode = file_over(self.geometry.inode_size, size, block, blocks)?;
        let mut xfs = self.xfs.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut shared = lock(&self.shared);
            shared.inode = Some((self.inode_at, inode));
            shared.failed = None;
        }
        let inode = Inode { ino: self.inode };
        let read = guarded(WHAT, || Ok(xfs.read_file_at(&inode, within, buf))).ok()?;
        (read.ok()? == buf.len()).then_some(())
    }
}

impl Volume for Replayed {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(PIECE_LEN) {
            if self.read_piece(at, piece).is_none() {
                let failed = lock(&self.shared).failed.take();
                return Err(failed.unwrap_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "the replayed log is damaged")
                }));
            }
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

/// Returns the inode of a regular file that maps `blocks` from `block` on. It is of version 2,
/// which has no checksum, and as good as any on a file system of version 5.
fn file_over(inode_size: usize, size: u64, block: u64, blocks: u64) -> Option<Vec<u8>> {
    const CORE_SIZE: usize = 100;
    let mut inode = vec![0; inode_size];
    let mut put = |at: usize, bytes: &[u8]| {
        inode
            .get_mut(at..at.checked_add(bytes.len())?)?
            .copy_from_slice(bytes);
        Some(())
    };
    put(0, b"IN")?;
    put(2, &0o100_644_u16.to_be_bytes())?;
    put(4, &[2])?;
    put(5, &[2])?;
    put(56, &size.to_be_bytes())?;
    put(76, &1_u32.to_be_bytes())?;
    put(CORE_SIZE, &(block >> 43).to_be_bytes())?;
    put(108, &((block << 21) | (blocks & 0x1f_ffff)).to_be_bytes())?;
    Some(inode)
}
