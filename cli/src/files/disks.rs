//! The disks of a snapshot, opened for looking into them.

use std::ffi::OsStr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::guest::btrfs;
use cairn_engine::guest::open::{AreaName, DiskLayout, Layout};
use cairn_engine::guest::tree::FileSystem;
use cairn_engine::guest::volume::SharedVolume;
use cairn_engine::image::{CACHE_BYTES_DEFAULT, Image, ImageCache};
use cairn_engine::repository::{Access, Snapshot};

use super::place::{self, Inside};
use crate::context::Context;
use crate::exit::CliError;
use crate::session::{self, Snapshots};

/// A place that was named, with the disks that it concerns.
pub struct Named {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What was named within it, if anything was.
    pub inside: Option<Inside>,
    /// What the disks hold.
    pub layout: Layout,
}

impl Named {
    /// Finds what a text names, and looks into the disks.
    pub fn open(context: &Context, text: &OsStr, command: &str) -> Result<Self> {
        let repository = session::open(context)?;
        let snapshots = Snapshots::read(context, &repository)?;
        let (snapshot, inside) = place::find(&snapshots, text)?;
        let access = Access::Read(vec![snapshot.id]);
        let contents = Arc::new(session::contents(context, &repository, access, command)?);
        let cache = ImageCache::new(CACHE_BYTES_DEFAULT);
        // A logical volume may lie on disks that are not named.
        let only = inside.as_ref().filter(|inside| {
            let is_logical = matches!(inside.area, AreaName::Logical { .. });
            let is_whole = inside.area == AreaName::Whole && inside.path.is_empty();
            !is_logical && !is_whole
        });
        let mut volumes: Vec<(String, SharedVolume)> = Vec::new();
        for disk in &snapshot.manifest.disks {
            if only.is_none_or(|inside| inside.target == disk.target) {
                let image = Image::open(Arc::clone(&contents), disk, &cache)?;
                volumes.push((disk.target.clone(), Arc::new(image)));
            }
        }
        let layout = Layout::read(volumes);
        Ok(Self {
            snapshot: snapshot.clone(),
            inside,
            layout,
        })
    }

    /// Opens the file system that was named, and says what must be known of it. Returns its name
    /// as it is typed as well, and whether there was something to be known.
    pub fn file_system(self, context: &Context) -> Result<Opened> {
        let inside = self.inside.ok_or_else(|| {
            CliError::Usage("name a disk as well: SNAPSHOT:TARGET[pN]/path".to_owned())
        })?;
        let Inside { target, area, path } = inside;
        let area = match area {
            AreaName::Whole => whole_or_only(&self.layout, &target)?,
            area => area,
        };
        let name = format!("{target}{area}");
        let Some(found) = self.layout.take(&target, &area) else {
            return Err(CliError::Usage(format!("there is no {name} in the snapshot")).into());
        };
        let file_system = found.open();
        let file_system =
            file_system.with_context(|| format!("cannot open the file system of {name}"))?;
        let has_caveats = warn_of(context, &name, &*file_system);
        if btrfs::hidden_top(&*file_system).is_some() {
            context.remark(&format!(
                "{name} shows the default subvolume; those beside it are in {name}/{}",
                btrfs::HIDDEN_TOP
            ));
        }
        Ok(Opened {
            name,
            path,
            file_system,
            has_caveats,
        })
    }
}

/// A file system that was named.
pub struct Opened {
    /// Its name as it is typed, without the snapshot.
    pub name: String,
    /// The path within it.
    pub path: Vec<u8>,
    /// The file system.
    pub file_system: Box<dyn FileSystem>,
    /// Whether what is read may not be what the guest sees.
    pub has_caveats: bool,
}

/// Says what must be known of a file system; returns whether there is anything.
pub fn warn_of(context: &Context, name: &str, file_system: &dyn FileSystem) -> bool {
    let caveats = file_system.caveats();
    for caveat in caveats {
        context.warn(&format!("{name}: {caveat}"));
    }
    !caveats.is_empty()
}

/// Returns the part that is meant where only the disk was named: all of it, or the one part that
/// holds a file system.
pub fn only_area(disk: &DiskLayout) -> Option<&AreaName> {
    let mut areas = disk
        .areas
        .iter()
        .filter(|area| area.content.is_file_system());
    let first = areas.next()?;
    let is_only = first.name == AreaName::Whole || areas.next().is_none();
    is_only.then_some(&first.name)
}

fn whole_or_only(layout: &Layout, target: &str) -> Result<AreaName> {
    let disk = layout.disks.iter().find(|disk| disk.target == target);
    let disk = disk.context("the disk that was named is open")?;
    if let Some(name) = only_area(disk) {
        return Ok(name.clone());
    }
    let all = disk
        .areas
        .iter()
        .filter(|area| area.content.is_file_system());
    let all: Vec<String> = all.map(|area| format!("{target}{}", area.name)).collect();
    if all.is_empty() {
        // Opening it says what is there instead.
        let first = disk.areas.first().map(|area| area.name.clone());
        return Ok(first
            .filter(|_| disk.areas.len() == 1)
            .unwrap_or(AreaName::Whole));
    }
    let all = all.join(", ");
    let text = format!("{target} holds several file systems; name one of: {all}");
    Err(CliError::Usage(text).into())
}
