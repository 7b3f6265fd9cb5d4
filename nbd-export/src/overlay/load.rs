//! Reading what an overlay's file holds, and how much of it is to be believed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::io_error;
use super::flush::sync_or_distrust;
use super::header::{BootId, Header, HeaderError, VERSION, decode_state, encode_state};
use super::layout::{Area, BLOCK_LEN, Layout, PAGE_LEN, PAGE_SECTORS, SECTOR_LEN, STATE_AT};
use super::map::Map;
use super::mark::Mark;
use super::medium::Medium;
use super::open::layout_of;
use super::sector::{SectorCodec, Words};
use super::{Opened, Origin, Overlay, OverlayError};
use crate::disk::Disk;

/// Bytes of a map that are read at once.
const LOAD_LEN: usize = 64 * PAGE_LEN;

/// Reads what an open file holds. `boot` says when we are.
pub(super) fn load(
    path: &Path,
    medium: Box<dyn Medium>,
    len: u64,
    base: Arc<dyn Disk>,
    origin: &Origin,
    boot: BootId,
) -> Result<Overlay, OverlayError> {
    let layout = layout_of(path, &*base)?;
    let loader = Loader {
        path,
        medium: &*medium,
        layout: &layout,
        map: Map::new(layout.blocks()),
    };
    let id = loader.header(len, origin)?;
    let (codec, mark) = (SectorCodec::new(&id), Mark::of(&id, boot));
    let (opened, unflushed) = match loader.is_whole(mark, boot)? {
        true => (Opened::Whole, loader.maps(&codec)?),
        false => loader.recover(&codec, mark, boot)?,
    };
    let map = loader.map;
    let mut overlay = Overlay::over(base, medium, layout, map, Some((codec, mark)));
    overlay.opened = opened;
    overlay.unflushed = Mutex::new(unflushed);
    Ok(overlay)
}

/// What is known of a file while it is being opened.
struct Loader<'a> {
    path: &'a Path,
    medium: &'a dyn Medium,
    layout: &'a Layout,
    map: Map,
}

impl Loader<'_> {
    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn damaged(&self, what: &'static str, offset: u64) -> OverlayError {
        OverlayError::Damaged {
            path: self.path(),
            what,
            offset,
        }
    }

    fn page(&self, offset: u64) -> Result<[u8; PAGE_LEN], OverlayError> {
        let mut page = [0; PAGE_LEN];
        self.medium
            .read_at(offset, &mut page)
            .map_err(io_error("read", self.path))?;
        Ok(page)
    }

    /// Checks that the file is an overlay over this disk. Nothing that it says is used for more
    /// than to be compared. Returns its id.
    fn header(&self, len: u64, origin: &Origin) -> Result<[u8; 32], OverlayError> {
        let path = self.path();
        if len < PAGE_LEN as u64 {
            return Err(OverlayError::NotAnOverlay { path });
        }
        let header = Header::decode(&self.page(0)?).map_err(|err| match err {
            HeaderError::NotAnOverlay => OverlayError::NotAnOverlay { path },
            HeaderError::UnsupportedVersion(found) => OverlayError::UnsupportedVersion {
                path,
                found,
                supported: VERSION,
            },
            HeaderError::Damaged => self.damaged("the header does not check", 0),
        })?;
        let (is, ours) = (&header.origin, origin);
        let pairs = [
            (
                "repository",
                is.repository.to_hex(),
                ours.repository.to_hex(),
            ),
            ("snapshot", is.snapshot.to_hex(), ours.snapshot.to_hex()),
            ("target", is.target.clone(), ours.target.clone()),
            ("recipe", is.recipe.to_hex(), ours.recipe.to_hex()),
            (
                "disk size",
                header.size.to_string(),
                self.layout.size.to_string(),
            ),
        ];
        if let Some((what, found, expected)) = pairs.into_iter().find(|(_, a, b)| a != b) {
            return Err(OverlayError::OtherDisk {
                path: self.path(),
                what,
                found,
                expected,
            });
        }
        if len != self.layout.file_len() {
            return Err(self.damaged("the file does not end", self.layout.file_len()));
        }
        Ok(header.id)
    }

    /// Returns whether the map of what was written holds: nothing that was handed to the kernel
    /// since the machine was started is lost.
    ///
    /// A process that was killed may have left what the kernel could not write out. It says so to
    /// the next who asks, once, and goes on showing what is not on the medium.
    fn is_whole(&self, mark: Mark, boot: BootId) -> Result<bool, OverlayError> {
        let state = decode_state(&self.page(STATE_AT)?);
        let is_marked = self.medium.has_mark(mark);
        let is_marked = is_marked.map_err(io_error("look for a failure of", self.path))?;
        Ok(state == boot && !is_marked && sync_or_distrust(self.medium, mark).is_ok())
    }

    fn sync(&self, mark: Mark) -> Result<(), OverlayError> {
        sync_or_distrust(self.medium, mark).map_err(io_error("recover", self.path))
    }

    /// Takes both maps; returns the pages that were not flushed.
    fn maps(&self, codec: &SectorCodec) -> Result<BTreeSet<u64>, OverlayError> {
        self.map_of_flushed(codec)?;
        self.map_of_written(codec)
    }

    /// Goes back to what was flushed. Returns the pages of the map that the first flush writes.
    fn recover(
        &self,
        codec: &SectorCodec,
        mark: Mark,
        boot: BootId,
    ) -> Result<(Opened, BTreeSet<u64>), OverlayError> {
        // What the kernel could not write it keeps as if it had, until it needs the memory. What
        // is read from here on is what the medium has.
        self.sync(mark)?;
        self.medium
            .drop_cached()
            .map_err(io_error("recover", self.path))?;
        // Should it hold on to a page of this map all the same, a flush must not count it as done.
        let unflushed = self.map_of_flushed(codec)?;
        let dropped = self.drop_written(codec, boot)?;
        // Durable before the mark goes: it is what tells this state from an earlier one.
        self.sync(mark)?;
        self.medium
            .remove_mark(mark)
            .map_err(io_error("recover", self.path))?;
        Ok((Opened::AfterPowerCut { dropped }, unflushed))
    }

    /// Takes what was flushed, and returns the pages that have any of it.
    fn map_of_flushed(&self, codec: &SectorCodec) -> Result<BTreeSet<u64>, OverlayError> {
        let mut flushed = BTreeSet::new();
        self.each_sector(Area::Flushed, |number, bytes| {
            let words = codec.decode(Area::Flushed, number, bytes)?;
            let page = number / PAGE_SECTORS as u64;
            flushed.insert(page);
            let page = self.map.page(page);
            page.add(sector_in_page(number), &words);
            let mut state = page.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_reserved = true;
            Some(())
        })?;
        Ok(flushed)
    }

    /// Takes what was written too, and returns the pages that were not flushed.
    fn map_of_written(&self, codec: &SectorCodec) -> Result<BTreeSet<u64>, OverlayError> {
        let mut unflushed = BTreeSet::new();
        self.each_sector(Area::Written, |number, bytes| {
            let words = codec.decode(Area::Written, number, bytes)?;
            let page = number / PAGE_SECTORS as u64;
            if self.news(number, &words) > 0 {
                self.map.page(page).add(sector_in_page(number), &words);
                unflushed.insert(page);
            }
            Some(())
        })?;
        Ok(unflushed)
    }

    /// Returns how many blocks of a sector the map does not have yet.
    fn news(&self, number: u64, words: &Words) -> u64 {
        let page = self.map.page(number / PAGE_SECTORS as u64);
        let known = page.load(sector_in_page(number));
        let news = words.iter().zip(known).map(|(word, known)| word & !known);
        news.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Empties the map of what was written, whose data may not be there, and only then says that
    /// it holds from now on. Returns how many bytes are known to be dropped.
    fn drop_written(&self, codec: &SectorCodec, boot: BootId) -> Result<u64, OverlayError> {
        let mut dropped = 0;
        self.each_sector(Area::Written, |number, bytes| {
            // Torn sectors are to be expected here.
            if let Some(words) = codec.decode(Area::Written, number, bytes) {
                dropped += self.news(number, &words) * BLOCK_LEN;
            }
            Some(())
        })?;
        self.medium
            .zero(self.layout.area(Area::Written), false)
            .and_then(|()| {
                self.medium
                    .write_at(STATE_AT, [&encode_state(boot), &[], &[]])
            })
            .map_err(io_error("recover", self.path))?;
        Ok(dropped)
    }

    /// Gives `take` every sector of a map that is not a hole in the file; it returns `None` where
    /// one does not check.
    fn each_sector(
        &self,
        area: Area,
        mut take: impl FnMut(u64, &[u8; SECTOR_LEN]) -> Option<()>,
    ) -> Result<(), OverlayError> {
        let range = self.layout.area(area);
        let failed = io_error("read", self.path);
        let mut buf = vec![0; LOAD_LEN];
        let mut at = range.start;
        while let Some(data) = self.medium.next_data(at..range.end).map_err(&failed)? {
            at = data.start - data.start % PAGE_LEN as u64;
            let len = (data.end - at).next_multiple_of(PAGE_LEN as u64);
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(LOAD_LEN);
            let part = &mut buf[..len];
            self.medium.read_at(at, part).map_err(&failed)?;
            for sector in part.as_chunks::<SECTOR_LEN>().0 {
                let number = (at - range.start) / SECTOR_LEN as u64;
                if *sector != [0; SECTOR_LEN] && take(number, sector).is_none() {
                    return Err(self.damaged("a sector of the map does not check", at));
                }
                at += SECTOR_LEN as u64;
            }
        }
        Ok(())
    }
}

fn sector_in_page(number: u64) -> usize {
    usize::try_from(number % PAGE_SECTORS as u64).expect("a small remainder")
}
