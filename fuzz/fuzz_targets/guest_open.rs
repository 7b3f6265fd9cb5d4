//! Disks of guests: partition tables, volume groups and file systems, read as far as one input is
//! worth, without a panic. Whatever is flipped in an image, an answer comes.
#![no_main]

use std::io;
use std::sync::Arc;

use cairn_engine::guest::open::Layout;
use cairn_engine::guest::tree::{FileKind, Volume};
use cairn_engine::guest::walk::{Event, Walk};
use libfuzzer_sys::fuzz_target;

/// Files that are looked at in one file system.
const FILES_MAX: usize = 100;
/// Content that is read of one file.
const READ_MAX: usize = 1 << 20;

/// The input, at the beginning of a disk of zeros.
struct Disk(Vec<u8>);

impl Volume for Disk {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let held = self.0.get(start..).unwrap_or_default();
        for (to, from) in buf.iter_mut().zip(held) {
            *to = *from;
        }
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let disk: Arc<dyn Volume> = Arc::new(Disk(bytes.to_vec()));
    let layout = Layout::read(vec![("vda".to_owned(), disk)]);
    for area in layout.disks.into_iter().flat_map(|disk| disk.areas) {
        let Ok(file_system) = area.open() else {
            continue;
        };
        let mut walk = Walk::new(&*file_system, file_system.root());
        for _ in 0..FILES_MAX {
            // Failing is an answer too.
            match walk.step() {
                None => break,
                Some(Event::File(id, stat)) => {
                    drop(file_system.xattrs(id));
                    let mut left = READ_MAX;
                    drop(match stat.kind {
                        FileKind::Symlink => file_system.read_link(id).map(drop),
                        _ => file_system.read_file(id, &mut |_, piece| {
                            left = left.saturating_sub(piece.len());
                            if left == 0 {
                                return Err(io::ErrorKind::Other.into());
                            }
                            Ok(())
                        }),
                    });
                }
                Some(_) => {}
            }
        }
    }
});
