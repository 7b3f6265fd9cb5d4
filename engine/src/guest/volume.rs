//! Ranges of bytes: a disk, a part of it, and a small cache in front of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::tree::Volume;
use crate::cache::Cache;
use crate::image::Image;

/// A range of bytes that several readers share.
pub type SharedVolume = Arc<dyn Volume>;

/// Unit of the cache. Structures of file systems are 512 bytes to 16 KiB, and neighbours are
/// wanted soon.
const CACHE_BLOCK_LEN: usize = 16 * 1024;
/// For each disk.
const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longer reads are file content, which is wanted once.
const CACHED_READ_LEN_MAX: usize = 32 * 1024;

/// Fails where a read goes beyond the end.
fn check_range(size: u64, offset: u64, len: usize) -> io::Result<()> {
    let end = u64::try_from(len)
        .ok()
        .and_then(|len| offset.checked_add(len));
    match end {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A raw image as a disk.
#[derive(Debug)]
pub struct FileVolume {
    file: File,
    size: u64,
}

impl FileVolume {
    /// Takes a file that is as long as the disk.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Volume for FileVolume {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file.read_exact_at(buf, offset)
    }
}

impl Volume for Image {
    fn size(&self) -> u64 {
        Image::size(self)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(Image::size(self), offset, buf.len())?;
        Image::read_at(self, offset, buf).map_err(io::Error::other)
    }
}

/// A part of another range.
pub struct Part {
    whole: SharedVolume,
    start: u64,
    size: u64,
}

impl Part {
    /// Takes `size` bytes from `start`, as far as there are that many.
    pub fn new(whole: SharedVolume, start: u64, size: u64) -> Self {
        let size = size.min(whole.size().saturating_sub(start));
        Self { whole, start, size }
    }
}

impl Volume for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        let offset = self.start.checked_add(offset);
        let offset = offset.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.whole.read_at(offset, buf)
    }
}

/// A small cache in front of a disk, for readers that ask for a few bytes at a time.
pub struct Cached {
    inner: SharedVolume,
    blocks: Cache<u64, Arc<[u8]>>,
}

impl Cached {
    /// Puts a cache in front of a disk.
    pub fn new(inner: SharedVolume) -> Self {
        let blocks = Cache::new(CACHE_BYTES_MAX);
        Self { inner, blocks }
    }

    fn block(&self, number: u64) -> io::Result<Arc<[u8]>> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block);
        }
        let start = number * CACHE_BLOCK_LEN as u64;
        let left = self.inner.size().saturating_sub(start);
        let len = usize::try_from(left).unwrap_or(usize::MAX);
        let mut block = vec![0; len.min(CACHE_BLOCK_LEN)];
        self.inner.read_at(start, &mut block)?;
        let block: Arc<[u8]> = block.into();
        self.blocks
            .insert(number, Arc::clone(&block), CACHE_BLOCK_LEN);
        Ok(block)
    }
}

impl Volume for Cached {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        if buf.len() > CACHED_READ_LEN_MAX {
            return self.inner.read_at(offset, buf);
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = usize::try_from(at % CACHE_BLOCK_LEN as u64).unwrap_or_default();
            let Ok(block) = self.block(at / CACHE_BLOCK_LEN as u64) else {
                // What cannot be read of a block may not be what is wanted of it.
                return self.inner.read_at(at, rest);
            };
            let held = block.get(within..).unwrap_or_default();
            let len = held.len().min(rest.len());
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&held[..len]);
            at += len as u64;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A disk in memory that counts how often it is read.
    pub(crate) struct Counted(pub Vec<u8>, pub AtomicUsize);

    impl Volume for Counted {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            check_range(self.size(), offset, buf.len())?;
            self.1.fetch_add(1, Ordering::Relaxed);
            let start = usize::try_from(offset).expect("test disks are small");
            buf.copy_from_slice(&self.0[start..start + buf.len()]);
            Ok(())
        }
    }

    fn noise(len: usize) -> Arc<Counted> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        Arc::new(Counted(bytes, AtomicUsize::new(0)))
    }

    #[test]
    fn a_cache_returns_what_is_beneath() {
        let disk = noise(3 * CACHE_BLOCK_LEN + 700);
        let cached = Cached::new(Arc::clone(&disk) as SharedVolume);
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..2000 {
            let start = random.usize(0..=disk.0.len());
            let len = random.usize(0..=(disk.0.len() - start).min(40_000));
            let mut found = vec![0; len];
            cached
                .read_at(start as u64, &mut found)
                .expect("within the disk");
            assert!(found == disk.0[start..start + len], "{start} {len}");
        }
        let beyond = cached.read_at(disk.size() - 1, &mut [0; 2]);
        assert!(beyond.is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn small_reads_of_a_block_read_it_once() {
        let disk = noise(CACHE_BLOCK_LEN);
        let cached = Cached::new(Arc::clone(&disk) as SharedVolume);
        for start in 0..1000 {
            cached
                .read_at(start * 16, &mut [0; 16])
                .expect("within the disk");
        }
        assert_eq!(disk.1.load(Ordering::Relaxed), 1);
    }

    /// A disk of which some bytes cannot be read.
    struct Hurt(Range<u64>);

    impl Volume for Hurt {
        fn size(&self) -> u64 {
            3 * CACHE_BLOCK_LEN as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            match offset < self.0.end && self.0.start < offset + buf.len() as u64 {
                true => Err(io::ErrorKind::InvalidData.into()),
                false => {
                    buf.fill(7);
                    Ok(())
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_hurts_no_neighbour() {
        let cached = Cached::new(Arc::new(Hurt(20_000..20_010)));
        let mut bytes = [0; 100];
        cached.read_at(19_900, &mut bytes).expect("it ends before");
        cached.read_at(20_010, &mut bytes).expect("it begins after");
        assert_eq!(bytes, [7; 100]);
        assert!(cached.read_at(19_901, &mut bytes).is_err());
        let mut across = [0; 4000];
        cached
            .read_at(15_000, &mut across)
            .expect("the first block is whole");
    }

    #[test]
    fn a_part_ends_where_the_whole_does() {
        let disk = noise(4096);
        let part = Part::new(Arc::clone(&disk) as SharedVolume, 4000, 4096);
        assert_eq!(part.size(), 96);
        let mut bytes = [0; 96];
        part.read_at(0, &mut bytes).expect("within the part");
        assert!(bytes == disk.0[4000..]);
        assert!(part.read_at(1, &mut bytes).is_err());
        assert!(part.read_at(u64::MAX, &mut bytes).is_err());
        assert_eq!(Part::new(disk, u64::MAX, 1).size(), 0);
    }

    #[test]
    fn a_file_is_a_disk() {
        let mut file = tempfile::tempfile().expect("a temporary file can be made");
        file.write_all(b"0123456789").expect("there is space");
        let volume = FileVolume::new(file).expect("its length is known");
        let mut bytes = [0; 3];
        volume.read_at(7, &mut bytes).expect("within the file");
        assert_eq!(&bytes, b"789");
        assert!(volume.read_at(8, &mut bytes).is_err());
    }
}
