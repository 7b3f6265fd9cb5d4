//! A snapshot's disks, cut into volumes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use cairn_engine::guest::open::{Area, AreaName, Layout};
use cairn_engine::guest::volume::SharedVolume;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::repository::{Contents, Snapshot};
use cairn_nbd_export::disk::Disk;
use cairn_nbd_export::overlay::Overlay;

use super::volumes::{Skipped, Volume, VolumeDisk, Volumes};
use crate::exit::CliError;
use crate::files::{self, place::Inside};
use crate::session::Snapshots;

/// For large files that may outlive a boot: not in memory, as `/tmp` and `/run` often are.
const LAYERS_FOLDER: &str = "/var/tmp";

/// Finds the snapshot, and which part of it is wanted: a place without a path.
pub fn select<'s>(
    snapshots: &'s Snapshots,
    text: &OsStr,
) -> Result<(&'s Snapshot, Option<Inside>)> {
    let (snapshot, inside) = files::place::find(snapshots, text)?;
    if inside
        .as_ref()
        .is_some_and(|inside| !matches!(&*inside.path, b"" | b"/"))
    {
        let text = "a file system is mounted as a whole: leave the path out".to_owned();
        return Err(CliError::Usage(text).into());
    }
    Ok((snapshot, inside))
}

/// Opens the volumes that are wanted; with a private layer that takes writes where they are.
pub fn open(
    contents: Contents,
    snapshot: &Snapshot,
    selection: Option<&Inside>,
    is_writable: bool,
) -> Result<Volumes> {
    let contents = Arc::new(contents);
    let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
    let mut images: Vec<(String, SharedVolume)> = Vec::new();
    for disk in &snapshot.manifest.disks {
        let image = Image::open(Arc::clone(&contents), disk, &cache)?;
        images.push((disk.target.clone(), Arc::new(image)));
    }
    // A logical volume that begins on a disk that is wanted may go on on one that is not.
    let layout = Layout::read(images);
    let mut volumes = Volumes::default();
    for error in &layout.errors {
        let volume = "LVM".to_owned();
        volumes.skipped.push(Skipped::unreadable(volume, error));
    }
    let areas = wanted(layout, selection)?;
    let several = areas.iter().any(|(target, _)| *target != areas[0].0);
    let folder = layers_folder();
    let names: Vec<String> = areas
        .iter()
        .map(|(target, area)| {
            let is_copied = areas
                .iter()
                .filter(|other| other.1.name == area.name)
                .count()
                > 1;
            name(target, &area.name, several, is_copied)
        })
        .collect();
    for ((_, area), name) in areas.into_iter().zip(names) {
        let bytes = match area.into_volume() {
            Ok(bytes) => bytes,
            Err(error) => {
                volumes.skipped.push(Skipped::unreadable(name, &error));
                continue;
            }
        };
        let snapshot: Arc<dyn Disk> = Arc::new(VolumeDisk(bytes));
        let disk = match is_writable {
            true => Arc::new(Overlay::temporary(&folder, snapshot)?),
            false => snapshot,
        };
        volumes.found.push(Volume { name, disk });
    }
    Ok(volumes)
}

/// Returns the parts of the disks that are wanted, with the disk of each.
fn wanted(layout: Layout, selection: Option<&Inside>) -> Result<Vec<(String, Area)>> {
    let mut known = Vec::new();
    let mut areas = Vec::new();
    for disk in layout.disks {
        for area in disk.areas {
            let is_named = match selection {
                None => true,
                // A logical volume is found by its name, on whichever disk it begins.
                Some(Inside {
                    area: name @ AreaName::Logical { .. },
                    ..
                }) => area.name == *name,
                Some(inside) if inside.area == AreaName::Whole => disk.target == inside.target,
                Some(inside) => disk.target == inside.target && area.name == inside.area,
            };
            known.push(format!("{}{}", disk.target, area.name));
            if is_named {
                areas.push((disk.target.clone(), area));
            }
        }
    }
    // Of the copies of a logical volume, that of the disk that was named is meant.
    if let Some(Inside {
        target,
        area: AreaName::Logical { .. },
        ..
    }) = selection
        && areas.iter().any(|(disk, _)| disk == target)
    {
        areas.retain(|(disk, _)| disk == target);
    }
    if let (true, Some(inside)) = (areas.is_empty(), selection) {
        let (target, area, known) = (&inside.target, &inside.area, known.join(", "));
        let text = format!("there is no {target}{area} in the snapshot; it has: {known}");
        return Err(CliError::Usage(text).into());
    }
    Ok(areas)
}

/// Returns a name that tells an area from all others, and holds no slash: those of logical volumes
/// are made as the device mapper makes them.
/// A logical volume that each of several disks has a copy of is told by its disk as well.
fn name(target: &str, area: &AreaName, several: bool, is_copied: bool) -> String {
    match area {
        AreaName::Whole => target.to_owned(),
        AreaName::Partition(number) if several => format!("{target}p{number}"),
        AreaName::Partition(number) => format!("p{number}"),
        AreaName::Logical { group, volume } => {
            let escape = |name: &str| name.replace('-', "--").replace(['/', '\0'], "_");
            let disk = if is_copied {
                format!("{target}-")
            } else {
                String::new()
            };
            format!("{disk}{}-{}", escape(group), escape(volume))
        }
    }
}

fn layers_folder() -> PathBuf {
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    let named = named.filter(|folder| folder.is_absolute());
    named.unwrap_or_else(|| Path::new(LAYERS_FOLDER).to_owned())
}
