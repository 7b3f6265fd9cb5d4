//! `cairn restore --salvage`: what is whole of disks, and a map of what is not.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::format::manifest::DiskRecord;
use cairn_engine::guest::hurt::{HurtDisk, hurt_files};
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::repository::Snapshot;
use cairn_engine::restore::salvage_disk;
use cairn_engine::target::durable::{rename_file, replace_file, write_file};
use cairn_engine::target::{self, TargetError};

use super::Work;
use super::disks::{DisksArgs, is_device};
use crate::context::Context;
use crate::exit::CliError;
use crate::files::shown;
use crate::output::restore::{HurtReport, Loss, LostRange, RestoredDisk, SalvageReport};
use crate::output::size;

/// Files named in the report; the list beside the disks has all.
const FILES_NAMED_MAX: usize = 1000;

/// What is lost of one disk.
pub struct Lost {
    target: String,
    /// The disk that is incomplete.
    path: PathBuf,
    map: PathBuf,
    ranges: Vec<Range<u64>>,
    reason: Option<String>,
}

/// Returns a path with more behind its name.
pub fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(extension);
    name.into()
}

/// Refuses what would have to be overwritten, and devices, whose names cannot say that they are
/// incomplete.
pub fn check(path: &Path, force: bool) -> Result<()> {
    if is_device(path) {
        let text = format!(
            "{} is a device, which cannot be named as incomplete: salvage to a file, and copy \
             that",
            path.display()
        );
        return Err(CliError::Usage(text).into());
    }
    if !force && path.symlink_metadata().is_ok() {
        let path = path.to_owned();
        return Err(TargetError::Exists { path }.into());
    }
    Ok(())
}

/// Writes what is whole of a disk. Where something is lost, that is added to `losses`.
pub fn restore(
    args: &DisksArgs<'_>,
    work: &Work,
    disk: &DiskRecord,
    path: &Path,
    losses: &mut Vec<Lost>,
) -> Result<RestoredDisk> {
    let incomplete = beside(path, ".incomplete");
    let target = target::create(&incomplete, &args.target_options(disk))?;
    let salvaged = salvage_disk(&work.contents, disk, &*target, &work.options())?;
    let mut finished = target.finish()?;
    if salvaged.lost.is_empty() {
        match args.force {
            true => replace_file(&incomplete, path)?,
            false => rename_file(&incomplete, path)?,
        }
        finished.path = path.to_owned();
    } else {
        let map = beside(path, ".incomplete.map");
        write_file(&map, map_of(disk, &salvaged.lost).as_bytes())?;
        losses.push(Lost {
            target: disk.target.clone(),
            path: incomplete,
            map,
            ranges: salvaged.lost,
            reason: salvaged.reason,
        });
    }
    Ok(RestoredDisk {
        target: disk.target.clone(),
        path: finished.path,
        size: disk.size,
        written_bytes: salvaged.written_bytes,
    })
}

/// Returns the map of a disk in the form of GNU ddrescue's: `+` is there, `-` is lost.
fn map_of(disk: &DiskRecord, lost: &[Range<u64>]) -> String {
    let mut map = format!(
        "# Mapfile. Created by cairn {}\n# Disk {}, as the guest sees it\n\
         # current_pos  current_status  current_pass\n0x00000000     +               1\n\
         #      pos        size  status\n",
        env!("CARGO_PKG_VERSION"),
        shown(disk.target.as_bytes())
    );
    let mut line = |range: Range<u64>, status| {
        if !range.is_empty() {
            let (start, len) = (range.start, range.end - range.start);
            writeln!(map, "0x{start:08X}  0x{len:08X}  {status}").expect("memory can be written");
        }
    };
    let mut at = 0;
    for range in lost {
        line(at..range.start, '+');
        line(range.clone(), '-');
        at = range.end;
    }
    line(at..disk.size, '+');
    map
}

/// Says what is lost, and finds the files that it belongs to.
pub fn report(
    work: &Work,
    snapshot: &Snapshot,
    losses: Vec<Lost>,
    list: PathBuf,
    context: &Context,
) -> Result<SalvageReport> {
    for lost in &losses {
        let bytes = size::human(
            lost.ranges
                .iter()
                .map(|range| range.end - range.start)
                .sum(),
        );
        let (path, target) = (lost.path.display(), &lost.target);
        let reason = lost.reason.as_deref().unwrap_or("damage");
        context.warn(&format!(
            "{path} is INCOMPLETE: of disk {target} {bytes} are lost, and zeros in it ({reason})"
        ));
    }
    let (files, file_count) = files_of(work, snapshot, &losses, &list)?;
    let loss = |lost: Lost| Loss {
        target: lost.target,
        map: lost.map,
        lost_bytes: lost
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum(),
        ranges: lost.ranges.iter().map(LostRange::of).collect(),
    };
    Ok(SalvageReport {
        losses: losses.into_iter().map(loss).collect(),
        files,
        file_count,
        list,
    })
}

/// Writes the list of the files that are hurt; returns the first of them, and how many there are.
fn files_of(
    work: &Work,
    snapshot: &Snapshot,
    losses: &[Lost],
    list: &Path,
) -> Result<(Vec<HurtReport>, u64)> {
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    let mut disks = Vec::new();
    for disk in &snapshot.manifest.disks {
        let lost = losses.iter().find(|lost| lost.target == disk.target);
        disks.push(HurtDisk {
            target: disk.target.clone(),
            volume: Arc::new(Image::open(Arc::clone(&work.contents), disk, &cache)?),
            lost: lost.map(|lost| lost.ranges.clone()).unwrap_or_default(),
        });
    }
    let failed = || format!("cannot write {}", list.display());
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = BufWriter::new(options.open(list).with_context(failed)?);
    let (mut files, mut count, mut written) = (Vec::new(), 0, Ok(()));
    hurt_files(disks, work.cancel(), &mut |file| {
        let slash = if file.is_folder { "/" } else { "" };
        let place = format!(
            "{}{}{slash}",
            shown(file.area.as_bytes()),
            shown(&file.path)
        );
        written = writeln!(out, "{place}");
        count += 1;
        if files.len() < FILES_NAMED_MAX {
            files.push(HurtReport {
                place,
                is_folder: file.is_folder,
            });
        }
        written.is_ok()
    });
    written.and_then(|()| out.flush()).with_context(failed)?;
    if work.cancel().is_cancelled() {
        return Err(cairn_engine::restore::RestoreError::Cancelled.into());
    }
    Ok((files, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_goes_beside_what_is_incomplete() {
        let name = beside(Path::new("/vm/a.qcow2"), ".incomplete.map");
        assert_eq!(name, Path::new("/vm/a.qcow2.incomplete.map"));
    }
}
