//! LVM2: logical volumes that are put together from pieces of physical ones.
//!
//! Linear and striped volumes are read, on any number of physical volumes. What keeps its own
//! records of where data is (thin, snapshot, cache, RAID, VDO) is named and left alone.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod label;
mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use super::tree::{GuestError, Volume};
use super::volume::SharedVolume;
use text::Section;

/// What errors call it.
const WHAT: &str = "LVM volume group";
/// The metadata counts in these.
const SECTOR_LEN: u64 = 512;
/// Pieces of one logical volume.
const SEGMENTS_MAX: usize = 1 << 16;
/// What the different texts of all groups may come to. Usual ones are below 1 MiB.
const TEXTS_LEN_MAX: usize = 32 * 1024 * 1024;

fn damaged(reason: &'static str) -> GuestError {
    GuestError::Damaged {
        what: WHAT,
        source: reason.into(),
    }
}

/// One logical volume.
pub struct LogicalVolume {
    /// The volume group's name.
    pub group: String,
    /// Its own name.
    pub name: String,
    /// The disk that it is to be found on: the first that its group lies on, and each of these
    /// where some hold copies of others.
    pub disk: usize,
    /// Its bytes, or why they cannot be read.
    pub volume: Result<SharedVolume, GuestError>,
}

/// Puts together the visible logical volumes of all groups that some of these physical volumes
/// belong to, each of which comes with the number of its disk. What cannot be read of one hides
/// none of the others.
pub fn logical_volumes(members: &[(usize, SharedVolume)]) -> (Vec<LogicalVolume>, Vec<GuestError>) {
    let mut errors = Vec::new();
    let mut found = Vec::new();
    let mut texts = Texts::default();
    for (disk, volume) in members {
        let label = match label::read(&**volume) {
            Ok(label) => label,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let group = label.metadata.map(|text| texts.group(text));
        let group = group.transpose().unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        found.push(Member {
            id: label.id,
            disk: *disk,
            volume: Arc::clone(volume),
            group: group.flatten(),
        });
    }
    let groups = found.iter().filter_map(|member| member.group.as_ref());
    let ids: BTreeSet<&str> = groups.map(|group| &*group.id).collect();
    let volumes = ids.into_iter().flat_map(|id| volumes_of(id, &found));
    (volumes.collect(), errors)
}

/// A physical volume.
struct Member {
    id: String,
    disk: usize,
    volume: SharedVolume,
    /// What it says of its group.
    group: Option<Arc<Group>>,
}

/// The metadata of all physical volumes, of which most is the same.
#[derive(Default)]
struct Texts {
    known: HashMap<Vec<u8>, Option<Arc<Group>>>,
    /// Bytes of them, and values in them.
    len: usize,
    values: usize,
}

impl Texts {
    /// Returns the group that a text describes; `None` where that has failed before.
    fn group(&mut self, text: Vec<u8>) -> Result<Option<Arc<Group>>, GuestError> {
        if let Some(known) = self.known.get(&text) {
            return Ok(known.clone());
        }
        self.len = self.len.saturating_add(text.len());
        if self.len > TEXTS_LEN_MAX {
            return Err(damaged("the groups have more metadata than can be read"));
        }
        let group = Group::decode(&text, &mut self.values).map(Arc::new);
        let (known, result) = match group {
            Ok(group) => (Some(Arc::clone(&group)), Ok(Some(group))),
            Err(error) => (None, Err(error)),
        };
        self.known.insert(text, known);
        result
    }
}

/// Puts together the volumes of a group. Where disks hold copies of a physical volume, as a clone
/// of a disk does, each disk of the group has the volumes as they are with its own copies.
fn volumes_of(id: &str, members: &[Member]) -> Vec<LogicalVolume> {
    let says = |member: &Member| member.group.clone().filter(|group| group.id == id);
    let versions: Vec<Arc<Group>> = members.iter().filter_map(says).collect();
    let ids = versions.iter().flat_map(|group| group.members.values());
    let ids: BTreeSet<&str> = ids.map(|(id, _)| &**id).collect();
    let own: Vec<&Member> = members
        .iter()
        .filter(|member| ids.contains(&*member.id) || says(member).is_some())
        .collect();
    let mut disks: BTreeSet<usize> = own.iter().map(|member| member.disk).collect();
    let mut seen = BTreeSet::new();
    if own.iter().all(|member| seen.insert(&*member.id)) {
        disks = disks.into_iter().take(1).collect();
    }
    let mut found = Vec::new();
    for disk in disks {
        let chosen = chosen(&own, disk);
        let held = chosen.values().flatten().filter_map(|member| says(member));
        // Members that missed a change still hold the text from before it.
        let newest = held.max_by_key(|group| group.sequence);
        let newest = newest.or_else(|| versions.iter().max_by_key(|group| group.sequence).cloned());
        let volumes = chosen
            .iter()
            .map(|(id, member)| ((*id).to_owned(), member.map(|it| Arc::clone(&it.volume))))
            .collect();
        found.extend(
            newest
                .into_iter()
                .flat_map(|group| group.volumes(disk, &volumes)),
        );
    }
    found
}

/// Returns which physical volume has an id, as seen from a disk: its own, or else the only one.
fn chosen<'m>(members: &[&'m Member], disk: usize) -> BTreeMap<&'m str, Option<&'m Member>> {
    let mut chosen: BTreeMap<&str, Option<&Member>> = BTreeMap::new();
    // Those of the disk come last and count more.
    for is_own in [false, true] {
        let mut seen = BTreeSet::new();
        for member in members
            .iter()
            .filter(|member| (member.disk == disk) == is_own)
        {
            let is_first = seen.insert(&*member.id);
            chosen.insert(&member.id, is_first.then_some(*member));
        }
    }
    chosen
}

/// Physical volumes by their ids; `None` where several have the id.
type Members = BTreeMap<String, Option<SharedVolume>>;

/// What the metadata says of a volume group.
struct Group {
    id: String,
    name: String,
    sequence: u64,
    /// Length of an extent in bytes.
    extent_len: u64,
    /// Ids of physical volumes, and the sector where data begins, by what they are called here.
    members: HashMap<String, (String, u64)>,
    volumes: Section,
}

impl Group {
    /// Decodes a text; `values` counts what is in all texts.
    fn decode(metadata: &[u8], values: &mut usize) -> Result<Self, GuestError> {
        let root = text::parse(metadata, values)?;
        // Beside the group stand remarks on who wrote the text.
        let (name, section) = root
            .into_sections()
            .find(|(_, section)| section.section("physical_volumes").is_some())
            .ok_or_else(|| damaged("its metadata names no group"))?;
        let missing = || damaged("its metadata lacks something");
        let extent_len = section.number("extent_size").ok_or_else(missing)?;
        let extent_len = extent_len.checked_mul(SECTOR_LEN).filter(|len| *len > 0);
        let physical = section.section("physical_volumes").into_iter();
        let members = physical.flat_map(Section::sections).map(|(name, member)| {
            let id = member.text("id").unwrap_or_default().replace('-', "");
            let start = member.number("pe_start").unwrap_or_default();
            (name.to_owned(), (id, start))
        });
        Ok(Self {
            id: section.text("id").ok_or_else(missing)?.to_owned(),
            name,
            sequence: section.number("seqno").unwrap_or_default(),
            extent_len: extent_len.ok_or_else(|| damaged("its extents are of no length"))?,
            members: members.collect(),
            volumes: section
                .into_sections()
                .find_map(|(name, section)| (name == "logical_volumes").then_some(section))
                .unwrap_or_default(),
        })
    }

    fn volumes(&self, disk: usize, members: &Members) -> Vec<LogicalVolume> {
        let snapshots = self.snapshots();
        let visible =
            { self.volumes.sections() }.filter(|(_, volume)| volume.has_word("status", "VISIBLE"));
        visible
            .map(|(name, volume)| LogicalVolume {
                group: self.name.clone(),
                name: name.to_owned(),
                disk,
                volume: match snapshots.get(name) {
                    Some(feature) => Err(GuestError::Unsupported {
                        what: "logical volume",
                        feature: feature.clone(),
                    }),
                    None => self.volume(volume, members),
                },
            })
            .collect()
    }

    /// Returns which volumes are not what they seem: a classic snapshot bears the name of the
    /// volume where it keeps what its origin was, and an origin that a snapshot is merged into lies
    /// in both.
    fn snapshots(&self) -> BTreeMap<&str, String> {
        let volumes = self.volumes.sections();
        let segments = volumes.flat_map(|(_, volume)| volume.sections());
        let mut found = BTreeMap::new();
        for (_, segment) in segments {
            if segment.text("type") != Some("snapshot") {
                continue;
            }
            let origin = segment.text("origin").unwrap_or_default();
            let feature = format!("the layout `snapshot` of `{}`", origin.escape_default());
            if let Some(store) = segment.text("cow_store") {
                found.insert(store, feature);
            } else if let Some(store) = segment.text("merging_store") {
                let merging = "a snapshot that is being merged into it".to_owned();
                found.insert(origin, merging);
                found.insert(store, feature);
            }
        }
        found
    }

    fn volume(&self, volume: &Section, members: &Members) -> Result<SharedVolume, GuestError> {
        let mut segments = Vec::new();
        for (name, section) in volume.sections() {
            if !name.starts_with("segment") {
                continue;
            }
            if segments.len() >= SEGMENTS_MAX {
                return Err(damaged("a logical volume has too many pieces"));
            }
            segments.push(self.segment(section, members)?);
        }
        segments.sort_by_key(|segment| segment.start);
        let mut end = 0;
        for segment in &segments {
            if segment.start != end {
                return Err(damaged(
                    "the pieces of a logical volume do not fit together",
                ));
            }
            end = end
                .checked_add(segment.len)
                .ok_or_else(|| damaged("a logical volume is too long"))?;
        }
        Ok(Arc::new(Pieces {
            segments,
            size: end,
        }))
    }

    fn segment(&self, section: &Section, members: &Members) -> Result<Segment, GuestError> {
        let kind = section.text("type").unwrap_or_default();
        if kind != "striped" {
            return Err(GuestError::Unsupported {
                what: "logical volume",
                feature: format!("the layout `{}`", kind.escape_default()),
            });
        }
        let number = |name| {
            let number = section.number(name);
            number.ok_or_else(|| damaged("a piece of a logical volume lacks something"))
        };
        let too_long = || damaged("a logical volume is too long");
        let start = number("start_extent")?.checked_mul(self.extent_len);
        let len = number("extent_count")?.checked_mul(self.extent_len);
        let mut stripes = Vec::new();
        for (member, extent) in section.places("stripes") {
            let offset = extent.checked_mul(self.extent_len).ok_or_else(too_long)?;
            stripes.push(self.stripe(member, offset, members)?);
        }
        let stripe_len = match stripes.len() {
            0 => return Err(damaged("a piece of a logical volume lies nowhere")),
            1 => 0,
            _ => number("stripe_size")?.saturating_mul(SECTOR_LEN),
        };
        if stripes.len() > 1 && stripe_len == 0 {
            return Err(damaged("stripes are of no length"));
        }
        Ok(Segment {
            start: start.ok_or_else(too_long)?,
            len: len.ok_or_else(too_long)?,
            stripe_len,
            stripes,
        })
    }

    /// Finds the member that the metadata calls `name`, and where data begins on it.
    fn stripe(
        &self,
        name: &str,
        offset: u64,
        members: &Members,
    ) -> Result<(SharedVolume, u64), GuestError> {
        let unsupported = |feature: &str| GuestError::Unsupported {
            what: "logical volume",
            feature: feature.to_owned(),
        };
        let known = self.members.get(name);
        let known = known.ok_or_else(|| unsupported("other logical volumes beneath it"));
        let (id, start) = known?;
        let missing = "a physical volume that is on none of these disks";
        let several = "a physical volume whose id is on several disks";
        let member = members.get(id).ok_or_else(|| unsupported(missing))?;
        let member = member.as_ref().ok_or_else(|| unsupported(several))?;
        let start = start.checked_mul(SECTOR_LEN);
        let start = start.and_then(|start| start.checked_add(offset));
        let start = start.ok_or_else(|| damaged("a physical volume is too long"))?;
        Ok((Arc::clone(member), start))
    }
}

/// A piece of a logical volume. Offsets and lengths are bytes.
struct Segment {
    start: u64,
    len: u64,
    /// How much of one stripe comes before the next; 0 where there is one only.
    stripe_len: u64,
    /// The volumes that it lies on, and where.
    stripes: Vec<(SharedVolume, u64)>,
}

impl Segment {
    /// Returns where an offset of this piece lies, and how much follows there.
    fn place(&self, offset: u64) -> Option<(&SharedVolume, u64, u64)> {
        let left = self.len.checked_sub(offset)?;
        if self.stripe_len == 0 {
            let (volume, start) = self.stripes.first()?;
            return Some((volume, start.checked_add(offset)?, left));
        }
        let count = u64::try_from(self.stripes.len()).ok()?;
        let number = offset.checked_div(self.stripe_len)?;
        let within = offset.checked_rem(self.stripe_len)?;
        let index = usize::try_from(number.checked_rem(count)?).ok()?;
        let (volume, start) = self.stripes.get(index)?;
        let row = number.checked_div(count)?.checked_mul(self.stripe_len)?;
        let at = start.checked_add(row)?.checked_add(within)?;
        Some((volume, at, left.min(self.stripe_len.checked_sub(within)?)))
    }
}

/// A logical volume.
struct Pieces {
    segments: Vec<Segment>,
    size: u64,
}

impl Pieces {
    fn place(&self, offset: u64) -> Option<(&SharedVolume, u64, u64)> {
        let after = self
            .segments
            .partition_point(|segment| segment.start <= offset);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let place = segment.place(offset.checked_sub(segment.start)?)?;
        (place.2 > 0).then_some(place)
    }
}

impl Volume for Pieces {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let place = self.place(at).ok_or(io::ErrorKind::UnexpectedEof)?;
            let (volume, from, left) = place;
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            volume.read_at(from, now)?;
            at = at.saturating_add(len as u64);
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
