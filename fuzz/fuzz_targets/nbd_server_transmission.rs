//! What clients ask for: whole replies, one for each request, and no more memory for any.
#![no_main]

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::nbd::wire::ReplyHeader;
use cairn_nbd_export::context::Context;
use cairn_nbd_export::disk::{Disk, DiskError, WriteDisk};
use cairn_nbd_export::exports::Export;
use cairn_nbd_export::handshake::{Agreement, Mode};
use cairn_nbd_export::log::Event;
use cairn_nbd_export::transmission::{Connection, Output, Pool};
use libfuzzer_sys::fuzz_target;

/// Longer than what is read at once.
const SIZE: usize = 300_001;

/// A disk in memory that is near only at its front.
struct Memory {
    bytes: Mutex<Vec<u8>>,
    is_writable: bool,
}

impl Memory {
    fn range(&self, range: &Range<u64>) -> Range<usize> {
        assert!(range.start <= range.end && range.end <= SIZE as u64);
        range.start as usize..range.end as usize
    }

    fn copy(&self, offset: u64, buf: &mut [u8]) {
        let range = self.range(&(offset..offset + buf.len() as u64));
        buf.copy_from_slice(&self.bytes.lock().expect("no panic")[range]);
    }
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        if offset == 77_777 {
            let (len, source) = (buf.len() as u64, "on purpose".into());
            return Err(DiskError::Read {
                offset,
                len,
                source,
            });
        }
        self.copy(offset, buf);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.copy(offset, buf);
        offset < 65_536
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        self.range(&range);
        Ok(vec![Extent {
            offset: range.start,
            len: range.end - range.start,
            status: ExtentStatus::Data,
        }])
    }

    fn prefetch(&self, range: Range<u64>) {
        self.range(&range);
    }

    fn writer(&self) -> Option<&dyn WriteDisk> {
        self.is_writable.then_some(self)
    }
}

impl WriteDisk for Memory {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let range = self.range(&(offset..offset + data.len() as u64));
        self.bytes.lock().expect("no panic")[range].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, _: bool) -> Result<(), DiskError> {
        let range = self.range(&range);
        self.bytes.lock().expect("no panic")[range].fill(0);
        Ok(())
    }

    fn trim(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.write_zeroes(range, false)
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn written(&self, _: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        Ok(Vec::new())
    }
}

/// Checks that replies are whole, in ways of speaking in which their lengths are told.
struct Checked {
    mode: Mode,
    header: Vec<u8>,
    skip: usize,
}

impl Write for Checked {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.mode == Mode::Simple {
            return Ok(buf.len());
        }
        let mut rest = buf;
        while !rest.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                self.skip -= skipped;
                rest = &rest[skipped..];
                continue;
            }
            let header_len = if self.mode == Mode::Extended { 32 } else { 20 };
            let taken = (header_len - self.header.len()).min(rest.len());
            self.header.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            if self.header.len() == header_len {
                self.skip = match ReplyHeader::decode(&self.header).expect("a header") {
                    ReplyHeader::Simple { .. } => panic!("a simple reply among structured ones"),
                    ReplyHeader::Structured { len, .. } => len as usize,
                    ReplyHeader::Extended { len, .. } => len as usize,
                };
                self.header.clear();
            }
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Checked {
    fn finish(&mut self) -> io::Result<()> {
        assert!(self.header.is_empty() && self.skip == 0, "a reply was cut");
        Ok(())
    }
}

fn pool() -> &'static Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let pool = Pool::new(2.try_into().expect("two is not zero"));
        for _ in 0..2 {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.work());
        }
        pool
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, said)) = input.split_first() else {
        return;
    };
    let mode = [Mode::Simple, Mode::Structured, Mode::Extended][usize::from(kind % 3)];
    let disk = Memory {
        bytes: Mutex::new(vec![1; SIZE]),
        is_writable: kind & 0x80 != 0,
    };
    let contexts = match kind & 0x40 {
        0 => Vec::new(),
        _ => vec![Context::Allocation; usize::from(mode != Mode::Simple)],
    };
    let export = Arc::new(Export {
        name: "vda".to_owned(),
        aliases: Vec::new(),
        description: String::new(),
        disk: Arc::new(disk),
        changes: None,
    });
    let agreement = Agreement {
        export,
        mode,
        contexts,
    };
    let output = Box::new(Checked {
        mode,
        header: Vec::new(),
        skip: 0,
    });
    let (close, log) = (Box::new(|| {}), Arc::new(|_: &Event<'_>| {}));
    let pool = Arc::clone(pool());
    // Either end is right: what counts is that it comes, and what was sent until then.
    drop(Connection::new(agreement, output, close, pool, log).serve(said));
});
