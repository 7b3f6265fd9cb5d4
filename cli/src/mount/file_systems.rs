//! What is in a volume, and how the kernel is asked to mount it.

use std::ffi::OsStr;
use std::path::Path;

use super::error::MountError;
use super::tools::{BLKID, MOUNT, NTFS_3G};

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file system that is mounted.
    FileSystem(FileSystem),
    /// Something that is not, and why.
    Other {
        /// What it is.
        kind: String,
        /// Why it is left out.
        reason: &'static str,
    },
}

/// A file system that is known here. Others are left alone: a guest wrote them, and the kernel's
/// code for a rare file system is seldom hardened against that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// What it is called, such as `ext4`.
    pub kind: String,
    /// Its id as text, where it has one.
    id: String,
}

/// Kinds as blkid(8) calls them.
const KNOWN: [&str; 8] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "exfat", "ntfs",
];

/// Finds out what `file` holds.
pub fn probe(file: &Path) -> Result<Content, MountError> {
    let args = ["--probe", "--output", "export"].map(OsStr::new);
    let output = BLKID.output(&[args.as_slice(), &[file.as_os_str()]].concat())?;
    match output.status.code() {
        Some(0) => Ok(content(&String::from_utf8_lossy(&output.stdout))),
        // Nothing is there that it knows.
        Some(2) => Ok(other("unknown content", "no file system was recognised")),
        Some(8) => Ok(other("unclear content", "it looks like several things")),
        _ => Err(BLKID.failure(&output)),
    }
}

fn other(kind: &str, reason: &'static str) -> Content {
    Content::Other {
        kind: kind.to_owned(),
        reason,
    }
}

fn content(export: &str) -> Content {
    let value = |wanted: &str| {
        let mut pairs = export.lines().filter_map(|line| line.split_once('='));
        pairs.find_map(|(name, value)| (name == wanted).then_some(value))
    };
    let Some(kind) = value("TYPE") else {
        return match value("PTTYPE") {
            Some(_) => other("partition table", "it holds partitions, and no file system"),
            None => other("unknown content", "no file system was recognised"),
        };
    };
    if KNOWN.contains(&kind) {
        return Content::FileSystem(FileSystem {
            kind: kind.to_owned(),
            id: value("UUID").unwrap_or_default().to_owned(),
        });
    }
    let reason = match (kind, value("USAGE")) {
        ("crypto_LUKS" | "BitLocker", _) => "it is encrypted, and its key is the guest's",
        ("swap" | "swsuspend", _) => "swap space holds no files",
        ("LVM2_member", _) => "it is a physical volume; its logical volumes are mounted",
        ("linux_raid_member", _) => "parts of a RAID array are not put together",
        (_, Some("filesystem")) => "file systems of this kind are not mounted",
        _ => "it is no file system",
    };
    other(kind, reason)
}

impl FileSystem {
    /// Mounts `device` at `directory`, read-only.
    ///
    /// A file system that was not unmounted cleanly is brought to rest by the kernel, which writes
    /// to the device, unless that is not wanted.
    pub fn mount(&self, device: &Path, directory: &Path, replay: bool) -> Result<(), MountError> {
        let (kind, options) = self.how(replay);
        let mounted = mount(kind, &options, device, directory);
        if self.kind != "ntfs" || mounted.is_ok() {
            return mounted;
        }
        // Not every kernel has a driver of its own.
        let options = format!("{options},norecover");
        let args = ["-o", &options].map(OsStr::new);
        let paths = [device.as_os_str(), directory.as_os_str()];
        match NTFS_3G.run(&[args, paths].concat()) {
            Err(MountError::NoTool { .. }) => mounted,
            other => other.map(drop),
        }
    }

    /// Returns why the file system must not be mounted beside what is mounted already.
    pub fn conflict(&self) -> Option<&'static str> {
        let is_mounted = self.kind == "btrfs"
            && !self.id.is_empty()
            && !self.id.contains('/')
            && Path::new("/sys/fs/btrfs").join(&self.id).exists();
        // The kernel knows a btrfs by its id alone, and would take one for a part of the other.
        is_mounted.then_some("a btrfs with the same id is mounted on this machine")
    }

    fn how(&self, replay: bool) -> (&'static str, String) {
        let (kind, always, no_replay) = match self.kind.as_str() {
            // The guest's own choice may be to panic.
            "ext2" | "ext3" | "ext4" => ("ext4", "errors=remount-ro", "noload"),
            // The same file system may be mounted in another state, or from the VM itself.
            "xfs" => ("xfs", "nouuid", "norecovery"),
            // All of it, whichever subvolume the guest begins with.
            "btrfs" => ("btrfs", "subvolid=5", "rescue=nologreplay"),
            "vfat" => ("vfat", "", ""),
            "exfat" => ("exfat", "", ""),
            _ => ("ntfs3", "", ""),
        };
        let mut options = "ro,nosuid,nodev".to_owned();
        for option in [always, if replay { "" } else { no_replay }] {
            if !option.is_empty() {
                options.push(',');
                options.push_str(option);
            }
        }
        (kind, options)
    }
}

/// Makes `directory` hold mount points, which vanish with it.
///
/// A guest's user may have the number of one of the host's, who is somebody else: so nobody but
/// root gets in, unless that is wanted.
pub fn mount_holder(name: &Path, directory: &Path, allow_other: bool) -> Result<(), MountError> {
    let mode = if allow_other { "755" } else { "700" };
    let options = format!("size=1m,mode={mode},nosuid,nodev,noexec");
    mount("tmpfs", &options, name, directory)
}

/// Lets nobody write to the folder of mount points any more.
pub fn close_holder(directory: &Path) -> Result<(), MountError> {
    let args = ["-o", "remount,ro"].map(OsStr::new);
    let args = [args.as_slice(), &[directory.as_os_str()]].concat();
    MOUNT.run(&args).map(drop)
}

/// Returns whether an error of [`FileSystem::mount`] is about that file system alone.
pub fn is_refusal(error: &MountError) -> bool {
    match error {
        MountError::NoDriver { .. } => true,
        MountError::Tool { program, .. } => [MOUNT, NTFS_3G].iter().any(|tool| tool.is(program)),
        _ => false,
    }
}

/// Returns whether the kernel knows a kind of file system; it has tried to load a driver.
fn is_known(kind: &str) -> bool {
    // Where the list cannot be read, what mount(8) says has to do.
    std::fs::read_to_string("/proc/filesystems").map_or(true, |text| {
        text.split_whitespace().any(|word| word == kind)
    })
}

fn mount(kind: &'static str, options: &str, device: &Path, at: &Path) -> Result<(), MountError> {
    let args = ["--internal-only", "-t", kind, "-o", options].map(OsStr::new);
    let paths = [device.as_os_str(), at.as_os_str()];
    let mounted = MOUNT.run(&[args.as_slice(), &paths].concat());
    mounted.map(drop).map_err(|error| match error {
        MountError::Tool { .. } if !is_known(kind) => MountError::NoDriver { kind },
        // The folder says nothing about what is wrong: leave it out of the reason.
        MountError::Tool {
            program,
            said,
            status,
        } => MountError::Tool {
            program,
            said: said
                .strip_prefix(&format!("{}: ", at.display()))
                .unwrap_or(&said)
                .to_owned(),
            status,
        },
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_file_systems_are_mounted_and_all_else_has_a_reason() {
        let ext4 = content("DEVNAME=x\nUUID=7aa7\nTYPE=ext4\nUSAGE=filesystem\n");
        let Content::FileSystem(ext4) = ext4 else {
            panic!("{ext4:?}");
        };
        assert_eq!((ext4.kind.as_str(), ext4.id.as_str()), ("ext4", "7aa7"));
        for (export, wanted) in [
            ("TYPE=crypto_LUKS\nUSAGE=crypto\n", "encrypted"),
            ("TYPE=swap\nUSAGE=other\n", "swap"),
            ("TYPE=linux_raid_member\nUSAGE=raid\n", "RAID"),
            ("TYPE=hfsplus\nUSAGE=filesystem\n", "this kind"),
            ("PTTYPE=gpt\n", "partitions"),
            ("", "no file system"),
        ] {
            let found = content(export);
            let Content::Other { reason, .. } = &found else {
                panic!("{found:?}");
            };
            assert!(reason.contains(wanted), "{reason}");
        }
    }

    #[test]
    fn a_kind_that_the_kernel_does_not_know_is_named() {
        let at = Path::new("/nowhere");
        let error = mount("no-such-fs", "ro", Path::new("/dev/null"), at);
        let error = error.expect_err("nobody can mount it");
        assert!(is_refusal(&error), "{error:?}");
        let text = "this machine's kernel has no driver for no-such-fs";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_mount_without_replay_asks_the_kernel_for_none() {
        let how = |kind: &str, replay| {
            let kind = kind.to_owned();
            let id = String::new();
            FileSystem { kind, id }.how(replay).1
        };
        assert_eq!(how("xfs", true), "ro,nosuid,nodev,nouuid");
        assert_eq!(how("xfs", false), "ro,nosuid,nodev,nouuid,norecovery");
        assert!(how("ext3", false).ends_with(",noload"));
        assert!(how("btrfs", false).ends_with(",rescue=nologreplay"));
        assert_eq!(how("vfat", false), "ro,nosuid,nodev");
    }
}
