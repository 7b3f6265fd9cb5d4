//! Which images can keep no bitmaps, though they are qcow2, and which bitmaps nobody needs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::plan::Plan;
use super::remote::{Host, quoted};
use crate::source::bitmaps;
use crate::source::libvirt::xml::{DiskSource, DomainDisk, checkpoint_xml};
use crate::source::libvirt::{Domain, LibvirtError, Transport};

/// What a qcow2 begins with: its magic number, and its version.
const HEAD: usize = 8;
const MAGIC: &[u8] = b"QFI\xfb";

/// Returns why a disk's image can keep no bitmap, or `None` if it can, as far as can be seen. What
/// cannot be seen here is found out when the bitmap is added.
pub(super) fn refusal(
    disk: &DomainDisk,
    transport: &Transport,
    host: Option<&Host>,
) -> Option<String> {
    if disk.format != "qcow2" {
        return Some(format!("{} images keep no bitmaps", disk.format));
    }
    let (DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
        return None;
    };
    let head = match (transport, host) {
        (Transport::Local, _) => head_here(path),
        (_, Some(host)) => head_there(host, path),
        (_, None) => None,
    };
    let is_old = head.and_then(|head| version(&head)) == Some(2);
    is_old.then(|| {
        format!(
            "qcow2 of version 2 keeps no bitmaps; while the domain is off, `qemu-img amend \
             -f qcow2 -o compat=1.1 {}` makes it one of version 3",
            path.display()
        )
    })
}

/// Removes bitmaps of a running domain whose checkpoints libvirt has lost, as after each end of a
/// transient domain: else they would be more each time. `is_stale` knows those that nobody counts
/// from.
pub(super) fn remove_stale(
    domain: &Domain,
    plan: &Plan,
    is_stale: impl Fn(&str) -> bool,
) -> Result<(), LibvirtError> {
    let mut stale: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for planned in plan.disks.iter().filter(|it| it.can_have_bitmap()) {
        let disk = &planned.disk;
        let (DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
            continue;
        };
        // What cannot be listed stays, and is tried the next time.
        let names = bitmaps::names_in_use(path).unwrap_or_default();
        for name in names.into_iter().filter(|name| is_stale(name)) {
            stale.entry(name).or_default().push(disk.target.clone());
        }
    }
    for (name, targets) in stale {
        // libvirt deletes those only that it knows of. Whether they are intact is all one.
        let xml = checkpoint_xml(&name, "", Some(0), &targets, &[]);
        match domain.checkpoint_redefine(&xml, false) {
            Ok(()) => domain.checkpoint_delete(&name)?,
            Err(error) if error.is_disconnected() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}

fn head_here(path: &Path) -> Option<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let mut file = File::open(path).ok()?;
    file.read_exact(&mut head).ok()?;
    Some(head)
}

fn head_there(host: &Host, path: &Path) -> Option<Vec<u8>> {
    let path = quoted(&path.to_string_lossy());
    let script = format!("head -c {HEAD} -- {path} 2>/dev/null | od -An -v -tx1\n");
    let digits = host.ask(&script).ok()?;
    let digits: String = digits.split_whitespace().collect();
    hex::decode(digits).ok()
}

fn version(head: &[u8]) -> Option<u32> {
    let version = head.strip_prefix(MAGIC)?;
    Some(u32::from_be_bytes(version.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_a_qcow2_alone() {
        assert_eq!(version(b"QFI\xfb\0\0\0\x02"), Some(2));
        assert_eq!(version(b"QFI\xfb\0\0\0\x03"), Some(3));
        assert_eq!(version(b"QFI\xfc\0\0\0\x02"), None);
        assert_eq!(version(b"QFI\xfb\0\0"), None);
    }
}
