//! What format an image has by its looks. Only ever a reason to ask: a guest can write any header
//! into a raw disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// A format that begins with `magic` at an offset.
struct Look {
    name: &'static str,
    offset: u64,
    magic: &'static [u8],
}

const fn look(name: &'static str, offset: u64, magic: &'static [u8]) -> Look {
    Look {
        name,
        offset,
        magic,
    }
}

const LOOKS: [Look; 10] = [
    look("qcow2", 0, b"QFI\xfb"),
    look("VMDK", 0, b"KDMV"),
    look("VMDK", 0, b"COWD"),
    look("VMDK", 0, b"# Disk DescriptorFile"),
    look("VDI", 0x40, &[0x7f, 0x10, 0xda, 0xbe]),
    look("VHDX", 0, b"vhdxfile"),
    look("VHD", 0, b"conectix"),
    look("QED", 0, b"QED\0"),
    look("Parallels", 0, b"WithoutFreeSpace"),
    look("Parallels", 0, b"WithouFreSpacExt"),
];

/// Returns the format that the bytes of a file or block device look like, if it is one of those
/// that hold disks; `None` for raw bytes, and where there is neither.
///
/// # Errors
///
/// The system's reason, where it cannot be read.
pub fn looks_like(path: &Path) -> io::Result<Option<&'static str>> {
    // Nobody waits for the other end of a pipe.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags fit");
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(None);
    }
    for look in &LOOKS {
        let mut found = [0; 32];
        let found = &mut found[..look.magic.len()];
        match file.read_exact_at(found, look.offset) {
            Ok(()) if found == look.magic => return Ok(Some(look.name)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_are_known() {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        let looks = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).expect("there is space");
            looks_like(file.path()).expect("readable")
        };
        assert_eq!(looks(b""), None);
        assert_eq!(looks(b"QFI"), None);
        assert_eq!(looks(b"QFI\xfb\0\0\0\x03"), Some("qcow2"));
        assert_eq!(looks(&[0; 4096]), None);
        let mut vdi = vec![b'<'; 512];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        assert_eq!(looks(&vdi), Some("VDI"));
        assert_eq!(looks_like(Path::new("/dev/null")).expect("readable"), None);
    }
}
