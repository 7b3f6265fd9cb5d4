//! Undoing a mount, whoever made it and whatever is left of it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

use super::error::MountError;
use super::mount_table::{self, MountPoint};
use super::run_folder::RunFolder;
use super::tools::{BTRFS, UMOUNT};
use super::{loop_device, users};

/// A device goes when the kernel has closed it, a moment after the unmounting.
const DEVICES_GONE_WITHIN: Duration = Duration::from_secs(10);
const PASSERS_BY_GONE_WITHIN: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);

/// Returns the mounts that show a run folder's volumes, in the order of mounting.
pub fn mounts(run: &RunFolder) -> Result<Vec<MountPoint>, MountError> {
    let devices = loop_device::attached_below(&run.volumes());
    let directory = &run.state().directory;
    let is_ours = |mount: &MountPoint| {
        devices.contains(&mount.source)
            || (mount.directory == *directory
                && mount.kind == "tmpfs"
                && mount.source == run.holder())
    };
    let table = mount_table::read()?;
    Ok(table.into_iter().filter(is_ours).collect())
}

/// Unmounts everything and ends the FUSE file system.
///
/// # Errors
///
/// [`MountError::Busy`] names who is in the way. If they could be seen beforehand, nothing was
/// unmounted; else some of it may have been.
pub fn take_down(run: &RunFolder) -> Result<(), MountError> {
    let ours = mounts(run)?;
    let directory = &run.state().directory;
    if !ours.is_empty() {
        let mut users = users::processes_below(directory);
        users.extend(users::mounts_below(directory, &ours));
        if !users.is_empty() {
            return Err(busy(directory, users));
        }
    }
    for mount in ours.iter().rev() {
        unmount_at_rest(directory, mount)?;
    }
    let devices = release_devices(run, &ours)?;
    if !wait_until(|| devices_left(run).is_empty(), DEVICES_GONE_WITHIN) {
        // Such as another mount namespace, where the file systems are mounted still.
        let users = devices.iter().map(|device| device.display().to_string());
        return Err(MountError::Busy {
            directory: directory.clone(),
            users: users.map(users::User::Device).collect(),
        });
    }
    end_fuse(run, &[])
}

/// Takes everything out of sight at once; what is in use goes on as long as it is used, and the
/// process that serves it has to live so long.
pub fn detach(run: &RunFolder) -> Result<(), MountError> {
    let ours = mounts(run)?;
    for mount in ours.iter().rev() {
        if let Err(error) = unmount_ours(mount, &["--lazy"])
            && still_there(mount)?
        {
            return Err(error);
        }
    }
    release_devices(run, &ours).map(drop)
}

/// Returns whether nothing uses the volumes any more.
pub fn is_unused(run: &RunFolder) -> bool {
    devices_left(run).is_empty()
}

/// Ends the FUSE file system even though it is in use: its users get errors, and who serves it sees
/// its end. Forced, the kernel breaks the connection off; lazily, it goes out of sight.
pub fn cut_off(run: &RunFolder) -> Result<(), MountError> {
    end_fuse(run, &["--force", "--lazy"])
}

fn devices_left(run: &RunFolder) -> Vec<PathBuf> {
    loop_device::attached_below(&run.volumes())
}

/// Detaches the devices that did not go with their mounts, and returns those that were there.
fn release_devices(run: &RunFolder, ours: &[MountPoint]) -> Result<Vec<PathBuf>, MountError> {
    for mount in ours.iter().filter(|mount| mount.kind == "btrfs") {
        // Older kernels remember a btrfs after its end, and then refuse an older state of it.
        // Where the program or its option is missing, there is nothing to be done about that.
        let args = ["device", "scan", "--forget"].map(OsStr::new);
        let args = [args.as_slice(), &[mount.source.as_os_str()]].concat();
        drop(BTRFS.output(&args));
    }
    let devices = devices_left(run);
    for device in &devices {
        if let Err(error) = loop_device::detach(device)
            && devices_left(run).contains(device)
        {
            return Err(error);
        }
    }
    Ok(devices)
}

fn end_fuse(run: &RunFolder, options: &[&str]) -> Result<(), MountError> {
    let folder = run.volumes();
    let mut last = Ok(());
    // The last of the devices' files may be closed a moment later.
    let ended = wait_until(
        || {
            if !matches!(mount_table::is_mounted(&folder), Ok(true)) {
                return true;
            }
            // A program that was on its way when its parent was killed may attach one yet.
            for device in devices_left(run) {
                drop(loop_device::detach(&device));
            }
            last = unmount(&folder, options);
            last.is_ok()
        },
        DEVICES_GONE_WITHIN,
    );
    if ended { Ok(()) } else { last }
}

/// Unmounts what nobody was seen to use. Whoever only looks at what is new (a desktop, udev) is
/// gone in a moment.
fn unmount_at_rest(directory: &Path, mount: &MountPoint) -> Result<(), MountError> {
    let mut last = Ok(());
    let ended = wait_until(
        || {
            last = unmount_ours(mount, &[]);
            last.is_ok() || !matches!(still_there(mount), Ok(true))
        },
        PASSERS_BY_GONE_WITHIN,
    );
    if ended {
        return Ok(());
    }
    let users = users::processes_below(&mount.directory);
    match users.is_empty() {
        true => last,
        false => Err(busy(directory, users)),
    }
}

/// Unmounts by folder, as the programs do, and so looks first that it is ours on top there.
fn unmount_ours(mount: &MountPoint, options: &[&str]) -> Result<(), MountError> {
    if mount.is_covered(&mount_table::read()?) {
        let directory = mount.directory.clone();
        let other = users::User::Mount(directory.display().to_string());
        return Err(busy(&directory, vec![other]));
    }
    unmount(&mount.directory, options)
}

fn unmount(directory: &Path, options: &[&str]) -> Result<(), MountError> {
    // The path comes from the kernel's table; looking at it again could hang or fail.
    let mut args = vec![OsStr::new("--no-canonicalize")];
    args.extend(options.iter().map(OsStr::new));
    args.push(directory.as_os_str());
    UMOUNT.run(&args).map(drop)
}

/// Someone else may unmount at the same time.
fn still_there(mount: &MountPoint) -> Result<bool, MountError> {
    Ok(mount_table::read()?.contains(mount))
}

fn busy(directory: &Path, users: Vec<users::User>) -> MountError {
    MountError::Busy {
        directory: directory.to_owned(),
        users,
    }
}

/// Asks again and again, since the kernel tells nobody; returns whether it came true in time.
fn wait_until(mut is_true: impl FnMut() -> bool, within: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if is_true() {
            return true;
        }
        if begun.elapsed() > within {
            return false;
        }
        pause(STEP);
    }
}

fn pause(time: Duration) {
    let time = Timespec::try_from(time).ok();
    // A signal ends the pause early, and does no harm.
    let _ = poll(&mut [], time.as_ref());
}
