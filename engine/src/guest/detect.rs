//! What a volume holds, by the marks that it bears. Here guessing from content is right: it is
//! what the guest's kernel does as well.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

use std::io;

use super::fields::{array, le16, padded_text};
use super::tree::Volume;

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// NTFS.
    Ntfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// A physical volume of LVM.
    LvmMember,
    /// Something that holds no files.
    NoFiles(&'static str),
    /// Something that may hold files which cannot be read here, with a hint.
    Foreign(&'static str, &'static str),
    /// Nothing that is known.
    Unknown,
}

/// What to do about volumes that other tools open.
const HINT_LUKS: &str = "export the snapshot over NBD and open it with cryptsetup";
const HINT_RAID: &str = "export the snapshot over NBD and assemble it with mdadm";
const HINT_EXPORT: &str = "export the snapshot over NBD and let the kernel read it";

impl Content {
    /// Returns what people call it; file systems of one reader by the name of the family.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ntfs => "ntfs",
            Self::Fat => "vfat",
            Self::LvmMember => "LVM2_member",
            Self::NoFiles(name) | Self::Foreign(name, _) => name,
            Self::Unknown => "unknown",
        }
    }

    /// Returns whether there is a reader for it.
    pub fn is_file_system(self) -> bool {
        matches!(
            self,
            Self::Ext | Self::Xfs | Self::Btrfs | Self::Ntfs | Self::Fat
        )
    }
}

/// What a volume holds, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// What it is.
    pub content: Content,
    /// The label that someone gave it.
    pub label: Option<String>,
}

/// A mark: bytes at an offset.
type Mark = (u64, &'static [u8], Content);

/// Containers come before what may lie in them.
const MARKS: &[Mark] = &[
    (
        0,
        b"LUKS\xba\xbe",
        Content::Foreign("crypto_LUKS", HINT_LUKS),
    ),
    (0, b"\xfc\x4e\x2b\xa9\x01\0\0\0", RAID),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", RAID),
    (
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        Content::Foreign("bcache", HINT_EXPORT),
    ),
    (3, b"-FVE-FS-", Content::Foreign("BitLocker", HINT_EXPORT)),
    (0x10040, b"_BHRfS_M", Content::Btrfs),
    (0, b"XFSB", Content::Xfs),
    (0x438, b"\x53\xef", Content::Ext),
    (3, b"NTFS    ", Content::Ntfs),
    (3, b"EXFAT   ", Content::Foreign("exfat", HINT_EXPORT)),
    (4086, b"SWAPSPACE2", Content::NoFiles("swap")),
    (4086, b"SWAP-SPACE", Content::NoFiles("swap")),
    (16374, b"SWAPSPACE2", Content::NoFiles("swap")),
    (65526, b"SWAPSPACE2", Content::NoFiles("swap")),
    (
        1024,
        b"\x10\x20\xf5\xf2",
        Content::Foreign("f2fs", HINT_EXPORT),
    ),
    (
        1024,
        b"\xe2\xe1\xf5\xe0",
        Content::Foreign("erofs", HINT_EXPORT),
    ),
    (0x8001, b"CD001", Content::Foreign("iso9660", HINT_EXPORT)),
    (0, b"hsqs", Content::Foreign("squashfs", HINT_EXPORT)),
];
const RAID: Content = Content::Foreign("linux_raid_member", HINT_RAID);
/// Beyond the last mark.
const HEAD_LEN: u64 = 0x1_1000;

/// Finds out what a volume holds.
pub fn detect(volume: &dyn Volume) -> io::Result<Detected> {
    let len = usize::try_from(volume.size().min(HEAD_LEN)).unwrap_or_default();
    let mut head = vec![0; len];
    volume.read_at(0, &mut head)?;
    let content = content(volume, &head)?;
    Ok(Detected {
        content,
        label: label(content, &head),
    })
}

fn content(volume: &dyn Volume, head: &[u8]) -> io::Result<Content> {
    if is_lvm(head) {
        return Ok(Content::LvmMember);
    }
    let has = |at: u64, mark: &[u8]| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        head.get(at..).is_some_and(|rest| rest.starts_with(mark))
    };
    let known = MARKS.iter().find(|(at, mark, _)| has(*at, mark));
    if let Some((_, _, content)) = known {
        // A mirror that keeps its record at the end begins with a file system.
        return Ok(match is_raid_at_end(volume)? {
            true => RAID,
            false => *content,
        });
    }
    if is_fat(head) {
        return Ok(Content::Fat);
    }
    if is_raid_at_end(volume)? {
        return Ok(RAID);
    }
    let is_empty = head.iter().all(|byte| *byte == 0);
    Ok(if is_empty {
        Content::NoFiles("empty")
    } else {
        Content::Unknown
    })
}

fn is_lvm(head: &[u8]) -> bool {
    let sectors = head.chunks_exact(512).take(4);
    let is_label = |sector: &[u8]| {
        sector.starts_with(b"LABELONE") && array::<8>(sector, 24) == Some(*b"LVM2 001")
    };
    { sectors }.any(is_label)
}

/// Few things are common to all kinds of FAT; the name of the kind, which tools write, is one.
fn is_fat(head: &[u8]) -> bool {
    let has = |at: usize, text: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(text));
    let sector_len = le16(head, 11).unwrap_or_default();
    let is_sound = le16(head, 510) == Some(0xaa55)
        && matches!(sector_len, 512 | 1024 | 2048 | 4096)
        && head
            .get(13)
            .is_some_and(|sectors| sectors.is_power_of_two());
    is_sound && (has(54, b"FAT") || has(82, b"FAT32"))
}

/// Versions 1.0 and 0.90 of the record of a Linux RAID lie near the end.
fn is_raid_at_end(volume: &dyn Volume) -> io::Result<bool> {
    const MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
    let size = volume.size();
    let newer = size.checked_sub(8192).map(|at| at & !4095);
    let older = (size & !0xffff).checked_sub(0x1_0000);
    for at in [newer, older].into_iter().flatten() {
        let mut found = [0; 4];
        volume.read_at(at, &mut found)?;
        if found == MAGIC {
            return Ok(true);
        }
    }
    Ok(false)
}

fn label(content: Content, head: &[u8]) -> Option<String> {
    let text = |at: usize, len: usize| padded_text(head.get(at..)?.get(..len)?);
    match content {
        Content::Ext => text(0x478, 16),
        Content::Xfs => text(108, 12),
        Content::Btrfs => text(0x1012b, 256),
        Content::Fat if head.get(82..87) == Some(b"FAT32") => fat_label(text(71, 11)),
        Content::Fat => fat_label(text(43, 11)),
        Content::NoFiles("swap") => text(1024 + 28, 16),
        _ => None,
    }
}

fn fat_label(label: Option<String>) -> Option<String> {
    label.filter(|label| label != "NO NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Volume for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let start = usize::try_from(offset).expect("test disks are small");
            let found = self.0.get(start..start + buf.len());
            buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn detected(len: usize, marks: &[(usize, &[u8])]) -> Detected {
        let mut bytes = vec![0; len];
        for (at, mark) in marks {
            bytes[*at..*at + mark.len()].copy_from_slice(mark);
        }
        detect(&Bytes(bytes)).expect("the bytes can be read")
    }

    #[test]
    fn every_mark_is_found_where_it_stands() {
        for (at, mark, content) in MARKS {
            let at = usize::try_from(*at).expect("marks stand at the beginning");
            assert_eq!(detected(1 << 20, &[(at, mark)]).content, *content);
            let moved = detected(1 << 20, &[(at + 1, mark)]);
            assert_ne!(moved.content, *content, "{content:?}");
        }
    }

    #[test]
    fn short_and_empty_volumes_hold_nothing() {
        for len in [0, 1, 511, 512, 4096, 70_000] {
            assert_eq!(detected(len, &[]).content, Content::NoFiles("empty"));
        }
        assert_eq!(detected(4096, &[(17, b"x")]).content, Content::Unknown);
    }

    #[test]
    fn a_raid_is_told_from_the_file_system_in_it() {
        let marks: &[(usize, &[u8])] = &[(0x438, b"\x53\xef"), (0xfe000, b"\xfc\x4e\x2b\xa9")];
        assert_eq!(detected(1 << 20, marks).content, RAID);
        let marks: &[(usize, &[u8])] = &[(0x438, b"\x53\xef"), (0xf0000, b"\xfc\x4e\x2b\xa9")];
        assert_eq!(detected(1 << 20, marks).content, RAID);
    }

    #[test]
    fn labels_are_read() {
        let marks: &[(usize, &[u8])] = &[(0x438, b"\x53\xef"), (0x478, b"root")];
        assert_eq!(detected(1 << 20, marks).label.as_deref(), Some("root"));
        let boot: &[(usize, &[u8])] = &[
            (11, &[0, 2, 4]),
            (43, b"NO NAME    "),
            (54, b"FAT16   "),
            (510, &[0x55, 0xaa]),
        ];
        let found = detected(1 << 20, boot);
        assert_eq!((found.content, found.label), (Content::Fat, None));
    }
}
