//! Disks in memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use cairn_engine::extent::{Extent, ExtentStatus, push_extent};
use cairn_engine::id::SnapshotId;
use cairn_nbd_export::disk::{Changes, Disk, DiskError, WriteDisk};

use crate::support::waiting::PATIENCE;

/// What a hole is made of.
const UNIT: u64 = 64 * 1024;

/// Where reads wait while it is shut.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_shut: bool,
    waiting: usize,
}

impl Gate {
    pub fn set_shut(&self, is_shut: bool) {
        self.state.lock().expect("nobody panicked").is_shut = is_shut;
        self.changed.notify_all();
    }

    /// Returns how many reads wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().expect("nobody panicked").waiting
    }

    fn pass(&self) {
        let mut state = self.state.lock().expect("nobody panicked");
        state.waiting += 1;
        // A test that failed opens it no more, and the server is to end all the same.
        let is_shut = |state: &mut GateState| state.is_shut;
        let waited = self.changed.wait_timeout_while(state, PATIENCE, is_shut);
        waited.expect("nobody panicked").0.waiting -= 1;
    }
}

/// A disk in memory that can be told to fail, to be slow, or to be written.
pub struct MemoryDisk {
    pub bytes: Mutex<Vec<u8>>,
    is_writable: bool,
    /// Whether reads are answered at once.
    pub is_near: AtomicBool,
    /// Whether asking for what is near panics.
    pub panics_near: AtomicBool,
    /// Reads and writes that touch this fail.
    pub broken: Mutex<Option<Range<u64>>>,
    /// How long a read that is not near takes.
    pub delay: Mutex<Duration>,
    /// What reads that are not near have to pass.
    pub gate: Gate,
    pub flushes: AtomicUsize,
    pub prefetched: Mutex<Vec<Range<u64>>>,
    pub written: Mutex<Vec<Range<u64>>>,
    /// Zeros that had to stay allocated.
    pub kept: Mutex<Vec<Range<u64>>>,
}

impl MemoryDisk {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Self::with(bytes, false)
    }

    pub fn writable(bytes: Vec<u8>) -> Arc<Self> {
        Self::with(bytes, true)
    }

    fn with(bytes: Vec<u8>, is_writable: bool) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            is_writable,
            is_near: AtomicBool::new(false),
            panics_near: AtomicBool::new(false),
            broken: Mutex::default(),
            delay: Mutex::default(),
            gate: Gate::default(),
            flushes: AtomicUsize::new(0),
            prefetched: Mutex::default(),
            written: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    /// Half data, half holes, of a length that is a multiple of nothing.
    pub fn mixed(len: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(len as u64);
        let mut bytes = vec![0; len];
        for (number, unit) in bytes.chunks_mut(UNIT as usize).enumerate() {
            if number % 4 < 2 {
                random.fill(unit);
            }
        }
        bytes
    }

    pub fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no test panicked with it")
    }

    fn check(&self, range: &Range<u64>) -> Result<(), io::Error> {
        let broken = self.broken.lock().expect("no test panicked with it");
        match &*broken {
            Some(broken) if broken.start < range.end && range.start < broken.end => {
                Err(io::Error::other("broken on purpose"))
            }
            _ => Ok(()),
        }
    }

    fn copy(&self, offset: u64, buf: &mut [u8]) {
        let start = offset as usize;
        buf.copy_from_slice(&self.lock()[start..start + buf.len()]);
    }
}

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let delay = *self.delay.lock().expect("no test panicked with it");
        // sleeps: some tests want a slow disk; none counts on how slow it is.
        std::thread::sleep(delay);
        self.gate.pass();
        let range = offset..offset + buf.len() as u64;
        self.check(&range).map_err(|error| DiskError::Read {
            offset,
            len: buf.len() as u64,
            source: error.into(),
        })?;
        self.copy(offset, buf);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        assert!(!self.panics_near.load(Ordering::SeqCst), "on purpose");
        let is_near = self.is_near.load(Ordering::SeqCst);
        if is_near {
            self.copy(offset, buf);
        } else {
            buf.fill(0xee);
        }
        is_near
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        self.check(&range).map_err(|error| DiskError::Read {
            offset: range.start,
            len: range.end - range.start,
            source: error.into(),
        })?;
        let bytes = self.lock();
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / UNIT + 1) * UNIT).min(range.end);
            let unit = at / UNIT * UNIT..((at / UNIT + 1) * UNIT).min(bytes.len() as u64);
            let unit = &bytes[unit.start as usize..unit.end as usize];
            let status = match unit.iter().all(|byte| *byte == 0) {
                true => ExtentStatus::Zero,
                false => ExtentStatus::Data,
            };
            push_extent(&mut extents, at, end - at, status);
            at = end;
        }
        Ok(extents)
    }

    fn prefetch(&self, range: Range<u64>) {
        self.prefetched
            .lock()
            .expect("no test panicked with it")
            .push(range);
    }

    fn writer(&self) -> Option<&dyn WriteDisk> {
        self.is_writable.then_some(self)
    }
}

impl MemoryDisk {
    fn change(&self, range: Range<u64>, op: &'static str) -> Result<(), DiskError> {
        self.check(&range).map_err(|_| DiskError::Overlay {
            op,
            source: io::Error::from_raw_os_error(28),
        })?;
        self.written
            .lock()
            .expect("no test panicked with it")
            .push(range);
        Ok(())
    }
}

impl WriteDisk for MemoryDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.change(offset..offset + data.len() as u64, "write to")?;
        let start = offset as usize;
        self.lock()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, keep_allocated: bool) -> Result<(), DiskError> {
        self.change(range.clone(), "write zeros to")?;
        if keep_allocated {
            self.kept
                .lock()
                .expect("no test panicked with it")
                .push(range.clone());
        }
        self.lock()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn trim(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.write_zeroes(range, false)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn written(&self, _: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        unreachable!("who composes changes asks, and these tests compose none")
    }
}

/// Changes since snapshots that there never were.
pub struct Fixed(pub BTreeMap<SnapshotId, Vec<Range<u64>>>);

impl Fixed {
    pub fn id(number: u16) -> SnapshotId {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        SnapshotId::from_bytes(bytes)
    }
}

impl Changes for Fixed {
    fn bases(&self) -> Vec<SnapshotId> {
        self.0.keys().copied().collect()
    }

    fn has(&self, base: SnapshotId) -> Result<bool, DiskError> {
        Ok(self.0.contains_key(&base))
    }

    fn changed(&self, base: SnapshotId, range: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        let all = self.0[&base].iter();
        let clipped = all.map(|dirty| dirty.start.max(range.start)..dirty.end.min(range.end));
        Ok(clipped.filter(|dirty| !dirty.is_empty()).collect())
    }
}
