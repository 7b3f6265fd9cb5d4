//! Who holds locks on a file, in words.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::printable::is_printable;

/// Most processes that are named.
const NAMED_MAX: usize = 3;

/// Names the processes that hold a lock on a file, as far as this one may look.
pub(super) fn name(file: &Metadata) -> String {
    let mut named = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let number = process.file_name();
        let number = number.to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(number) = number.filter(|number| *number != std::process::id()) else {
            continue;
        };
        if named.len() < NAMED_MAX && has_locked(&process.path(), file) {
            named.push(describe(&process.path(), number));
        }
    }
    if named.is_empty() {
        return "another process".to_owned();
    }
    named.join(", ")
}

fn has_locked(process: &Path, file: &Metadata) -> bool {
    let opened = fs::read_dir(process.join("fd")).into_iter().flatten();
    opened.flatten().any(|opened| {
        let is_same = fs::metadata(opened.path())
            .is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()));
        is_same && is_locked(&process.join("fdinfo").join(opened.file_name()))
    })
}

fn is_locked(information: &Path) -> bool {
    let text = fs::read_to_string(information);
    text.is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:")))
}

fn describe(process: &Path, number: u32) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let guest = guest(&arguments).map(|guest| format!(", guest {guest}"));
    let name: String = name.trim().chars().filter(|c| is_printable(*c)).collect();
    format!("{name} (process {number}{})", guest.unwrap_or_default())
}

/// Returns the guest's name in QEMU's arguments.
fn guest(arguments: &[u8]) -> Option<String> {
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-name")?;
    let name = String::from_utf8_lossy(arguments.next()?).into_owned();
    let name = name.split(',').next()?;
    let name = name.strip_prefix("guest=").unwrap_or(name);
    let name: String = name
        .chars()
        .filter(|c| is_printable(*c))
        .take(100)
        .collect();
    (!name.is_empty()).then_some(name)
}

/// Returns the loop device that shows a file, if one does.
pub(super) fn loop_device(file: &Metadata) -> Option<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices.into_iter().find_map(|device| {
        let named = fs::read(device.path().join("loop/backing_file")).ok()?;
        let path = named.strip_suffix(b"\n").unwrap_or(&named);
        let path: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path);
        let found = fs::metadata(path).ok()?;
        let is_same = (found.dev(), found.ino()) == (file.dev(), file.ino());
        is_same.then(|| format!("/dev/{}", device.file_name().to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_named_as_qemu_is_told() {
        let found = |arguments: &[u8]| guest(arguments);
        let libvirts = b"/usr/bin/qemu\0-name\0guest=web1,debug-threads=on\0-S\0";
        assert_eq!(found(libvirts).as_deref(), Some("web1"));
        assert_eq!(found(b"qemu\0-name\0db\0").as_deref(), Some("db"));
        assert_eq!(found(b"qemu\0-name\0"), None);
        assert_eq!(found(b"qemu\0-S\0"), None);
    }
}
