//! A large disk, of which only some windows are ever looked at, and what is to be there.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cairn_engine::extent::{Extent, ExtentStatus, push_extent};
use cairn_engine::id::{NodeId, RepositoryId, SnapshotId};

use super::sim::Sim;
use crate::disk::{Disk, DiskError, WriteDisk};
use crate::overlay::header::{BootId, Header};
use crate::overlay::layout::{Layout, PAGE_BLOCKS, SECTOR_BLOCKS};
use crate::overlay::load::load;
use crate::overlay::medium::Medium;
use crate::overlay::open::write_fresh;
use crate::overlay::{Origin, Overlay, OverlayError};

pub const SIZE: u64 = 2 * PAGE_BLOCKS * 4096 + 12_345;
const WINDOW: u64 = 48 * 1024;
pub const SECTOR: u64 = 512;

/// A snapshot's disk, whose bytes follow from where they stand. Every third 64 KiB are zeros.
pub struct Pattern(pub u64);

fn pattern(at: u64) -> u8 {
    match at / 65536 % 3 {
        2 => 0,
        _ => (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1,
    }
}

impl Disk for Pattern {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = pattern(at);
        }
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        offset.is_multiple_of(2) && self.read_at(offset, buf).is_ok()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / 65536 + 1) * 65536).min(range.end);
            let status = match at / 65536 % 3 {
                2 => ExtentStatus::Zero,
                _ => ExtentStatus::Data,
            };
            push_extent(&mut extents, at, end - at, status);
            at = end;
        }
        Ok(extents)
    }

    fn prefetch(&self, _: Range<u64>) {}
}

pub fn origin() -> Origin {
    Origin {
        repository: RepositoryId::from_bytes([1; 32]),
        snapshot: SnapshotId::from_bytes([2; 32]),
        target: "vda".into(),
        recipe: NodeId::from_bytes([3; 32]),
    }
}

/// A part of the disk with all that may be read there.
struct Window {
    start: u64,
    now: Vec<u8>,
    /// What each sector was since the last flush, with that.
    versions: Vec<Vec<Vec<u8>>>,
    /// Whether a byte was written.
    written: Vec<bool>,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.now.len() as u64
    }

    fn forget_versions(&mut self) {
        let sectors = self.now.chunks(SECTOR as usize);
        self.versions = sectors.map(|sector| vec![sector.to_vec()]).collect();
    }

    /// Takes what the overlay tells as written, where either is right.
    fn take_written(&mut self, overlay: &Overlay) {
        self.written.fill(false);
        for range in overlay.written(self.start..self.end()).expect("known") {
            let part = (range.start - self.start) as usize..(range.end - self.start) as usize;
            self.written[part].fill(true);
        }
    }

    /// Takes a write in, as something that may be there or not.
    fn apply(&mut self, offset: u64, bytes: &[u8]) {
        let from = (offset - self.start) as usize;
        self.now[from..from + bytes.len()].copy_from_slice(bytes);
        self.written[from..from + bytes.len()].fill(true);
        let sectors = from / SECTOR as usize..(from + bytes.len()).div_ceil(SECTOR as usize);
        for sector in sectors {
            let at = sector * SECTOR as usize;
            let end = (at + SECTOR as usize).min(self.now.len());
            self.versions[sector].push(self.now[at..end].to_vec());
        }
    }
}

/// An overlay on a simulated medium, and the model of what it holds.
pub struct World {
    pub sim: Sim,
    pub overlay: Option<Overlay>,
    pub random: fastrand::Rng,
    pub boots: u64,
    windows: Vec<Window>,
    /// The write that a process died in.
    in_flight: Option<(Range<u64>, Vec<u8>)>,
    pub context: String,
}

fn boot(number: u64) -> BootId {
    BootId::parse(format!("{number:036}").as_bytes()).expect("36 digits")
}

pub fn layout() -> Layout {
    Layout::of(SIZE).expect("small")
}

impl World {
    pub fn new(seed: u64) -> Self {
        let sim = Sim::default();
        let header = Header {
            id: [9; 32],
            size: SIZE,
            origin: origin(),
        };
        write_fresh(&header, boot(0), |at, bytes| {
            sim.write_at(at, [bytes, &[], &[]])
        })
        .expect("nothing fails yet");
        sim.sync().expect("nothing fails yet");
        let borders = [
            WINDOW / 2,
            3 * (1 << 20),
            SECTOR_BLOCKS * 4096,
            PAGE_BLOCKS * 4096,
            // The disk's end, a little beyond the last border of pages.
            2 * PAGE_BLOCKS * 4096,
        ];
        let windows = borders.map(|border| {
            let start = (border - WINDOW / 2) / SECTOR * SECTOR;
            let end = (border + WINDOW / 2).min(SIZE);
            let mut window = Window {
                start,
                now: (start..end).map(pattern).collect(),
                versions: Vec::new(),
                written: vec![false; (end - start) as usize],
            };
            window.forget_versions();
            window
        });
        let mut world = Self {
            sim,
            overlay: None,
            random: fastrand::Rng::with_seed(seed),
            boots: 0,
            windows: windows.into(),
            in_flight: None,
            context: format!("CAIRN_SEED={seed}"),
        };
        world.reopen();
        world
    }

    pub fn try_open(&self) -> Result<Overlay, OverlayError> {
        let medium = Box::new(self.sim.clone());
        let len = layout().file_len();
        let base = Arc::new(Pattern(SIZE));
        load(
            Path::new("sim"),
            medium,
            len,
            base,
            &origin(),
            boot(self.boots),
        )
    }

    pub fn reopen(&mut self) {
        let opened = self.try_open();
        self.overlay = Some(opened.unwrap_or_else(|err| panic!("{}: {err}", self.context)));
    }

    pub fn overlay(&self) -> &Overlay {
        self.overlay.as_ref().expect("open")
    }

    /// Ends the process, as `kill -9` does, and starts the next.
    pub fn kill(&mut self) {
        self.sim = self.sim.kill();
        self.overlay = None;
        self.reopen();
        self.check();
    }

    /// Lets the process die, or the power go, in the middle of a write, a flush or an opening.
    pub fn die_in_the_middle(&mut self) {
        self.sim.die_after(Some(self.random.usize(0..8)));
        while !self.sim.is_dead() {
            if self.random.bool() && self.overlay().flush().is_ok() {
                self.forget_versions();
            } else if !self.sim.is_dead() {
                drop(self.change());
            }
        }
        self.overlay = None;
        let is_power_cut = self.random.bool();
        if !is_power_cut {
            // Then all that was answered is there.
            self.forget_versions();
        }
        if let Some((range, bytes)) = self.in_flight.take() {
            self.window(&range).apply(range.start, &bytes);
        }
        self.restart(is_power_cut);
        self.sim.die_after(Some(self.random.usize(0..3)));
        // Opening goes on where the last one died, as does the flush of one that is dropped.
        drop(self.try_open());
        if self.sim.is_dead() {
            let is_power_cut = is_power_cut && self.random.bool();
            self.restart(is_power_cut);
        }
        self.sim.die_after(None);
        self.reopen();
        self.check_versions();
        self.flush();
    }

    fn restart(&mut self, is_power_cut: bool) {
        self.sim.die_after(None);
        if is_power_cut {
            self.sim = self.sim.cut_power(&mut self.random);
            self.boots += 1;
        } else {
            self.sim = self.sim.kill();
        }
    }

    fn forget_versions(&mut self) {
        self.windows.iter_mut().for_each(Window::forget_versions);
    }

    /// Cuts the power, and checks that every sector is one that was there since the last flush.
    pub fn cut_power(&mut self) {
        self.restart(true);
        self.overlay = None;
        self.reopen();
        self.check_versions();
    }

    /// Checks that every sector is as it was at some time since the last flush, and takes it so.
    pub fn check_versions(&mut self) {
        let overlay = self.overlay.take().expect("open");
        for window in &mut self.windows {
            let mut found = vec![0; window.now.len()];
            overlay.read_at(window.start, &mut found).expect("readable");
            for (number, sector) in found.chunks(SECTOR as usize).enumerate() {
                let at = window.start + number as u64 * SECTOR;
                assert!(
                    window.versions[number].iter().any(|known| known == sector),
                    "{}: sector at {at} is none of its {} versions",
                    self.context,
                    window.versions[number].len()
                );
            }
            window.now = found;
            // What was not flushed may be forgotten, data and map entry alike.
            window.take_written(&overlay);
            window.forget_versions();
        }
        self.overlay = Some(overlay);
    }

    /// Picks a range within a window.
    pub fn range(&mut self) -> Range<u64> {
        let window = &self.windows[self.random.usize(0..self.windows.len())];
        let (start, end) = (window.start, window.end());
        let len = [1, 512, 4096, 20_000][self.random.usize(0..4)];
        let unit = [1, 512, 4096][self.random.usize(0..3)];
        let from = start + (self.random.u64(0..end - start) / unit) * unit;
        let to = (from + self.random.u64(1..=len).next_multiple_of(unit)).min(end);
        from..to
    }

    fn window(&mut self, range: &Range<u64>) -> &mut Window {
        let found = self.windows.iter_mut();
        let mut found = found.filter(|window| window.start <= range.start);
        found
            .find(|window| range.end <= window.end())
            .expect("ranges lie in windows")
    }

    /// Writes, zeroes or trims somewhere.
    pub fn change(&mut self) -> Result<(), DiskError> {
        let range = self.range();
        let len = (range.end - range.start) as usize;
        let mut bytes = vec![0; len];
        let result = match self.random.u8(0..5) {
            0 => self
                .overlay()
                .write_zeroes(range.clone(), self.boots.is_multiple_of(2)),
            1 => self.overlay().trim(range.clone()),
            _ => {
                bytes.fill_with(|| self.random.u8(1..));
                self.overlay().write_at(range.start, &bytes)
            }
        };
        match &result {
            Ok(()) => self.window(&range).apply(range.start, &bytes),
            Err(_) if self.sim.is_dead() => self.in_flight = Some((range, bytes)),
            Err(_) => self.take_half_done(&range, &bytes),
        }
        result
    }

    /// Checks that a write that failed changed nothing but what it was to change, and takes what
    /// it left.
    fn take_half_done(&mut self, range: &Range<u64>, bytes: &[u8]) {
        let mut found = vec![0; bytes.len()];
        let read = self.overlay().read_at(range.start, &mut found);
        read.expect("readable");
        let context = self.context.clone();
        let window = self.window(range);
        let from = (range.start - window.start) as usize;
        let old = &window.now[from..from + bytes.len()];
        for at in 0..bytes.len() {
            let (old, new) = (old[at], bytes[at]);
            assert!(found[at] == old || found[at] == new, "{context}: byte {at}");
        }
        window.apply(range.start, &found);
        let overlay = self.overlay.take().expect("open");
        self.window(range).take_written(&overlay);
        self.overlay = Some(overlay);
    }

    pub fn flush(&mut self) {
        self.overlay().flush().expect("flushes");
        self.forget_versions();
    }

    /// Compares everything that can be asked with the model.
    pub fn check(&mut self) {
        for number in 0..self.windows.len() {
            let window = &self.windows[number];
            let overlay = self.overlay();
            let mut found = vec![0; window.now.len()];
            overlay.read_at(window.start, &mut found).expect("readable");
            let wrong = (0..found.len()).find(|at| found[*at] != window.now[*at]);
            let wrong = wrong.map(|at| window.start + at as u64);
            assert_eq!(wrong, None, "{}: first wrong byte", self.context);
            self.check_written(window);
            self.check_extents(window);
        }
        let range = self.range();
        let mut found = vec![0; (range.end - range.start) as usize];
        if self.overlay().try_read_at(range.start, &mut found) {
            let from = (range.start - self.window(&range).start) as usize;
            let expected = &self.window(&range).now[from..from + found.len()];
            assert!(found == expected, "{}: {range:?}", self.context);
        }
    }

    /// What is told as written is what was, rounded to blocks.
    fn check_written(&self, window: &Window) {
        let range = window.start..window.end();
        let told = self.overlay().written(range.clone()).expect("known");
        let mut expected: Vec<Range<u64>> = Vec::new();
        for block in range.start / 4096..range.end.div_ceil(4096) {
            let part = (block * 4096).max(range.start)..((block + 1) * 4096).min(range.end);
            let from = (part.start - range.start) as usize;
            let to = (part.end - range.start) as usize;
            // At the window's edge a part of the block is not looked at.
            if window.written[from..to].contains(&true) {
                match expected.last_mut() {
                    Some(last) if last.end == part.start => last.end = part.end,
                    _ => expected.push(part),
                }
            }
        }
        assert_eq!(told, expected, "{}", self.context);
    }

    fn check_extents(&self, window: &Window) {
        let extents = self.overlay().extents(window.start..window.end());
        let mut at = window.start;
        for extent in extents.expect("known") {
            assert_eq!(
                extent.offset, at,
                "{}: extents tile the range",
                self.context
            );
            let from = (at - window.start) as usize;
            at = extent.range().end;
            let bytes = &window.now[from..(at - window.start) as usize];
            let is_zero = bytes.iter().all(|byte| *byte == 0);
            let context = &self.context;
            assert!(
                is_zero || extent.status == ExtentStatus::Data,
                "{context}: {extent:?}"
            );
        }
        assert_eq!(at, window.end(), "{}", self.context);
    }
}
