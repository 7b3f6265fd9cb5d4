//! Names of stored objects, and the paths they have.

use std::fmt;

use crate::id::{KeyId, NoteId, PackId, SnapshotId};

/// A group of objects that can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// All packs.
    Packs,
    /// The parity of all packs.
    Parity,
    /// All manifests.
    Snapshots,
    /// All notes of all snapshots.
    Notes,
    /// All key slots.
    Keys,
}

/// The name of one stored object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// The repository's settings.
    Config,
    /// A pack.
    Pack(PackId),
    /// The parity of a pack.
    Parity(PackId),
    /// A manifest.
    Snapshot(SnapshotId),
    /// A note about a snapshot.
    Note(SnapshotId, NoteId),
    /// A key slot.
    Key(KeyId),
    /// What a collection has condemned.
    GcPlan,
}

impl Name {
    /// Returns the path below the repository's root, with `/` between folders.
    pub fn path(&self) -> String {
        match self {
            Self::Config => "config".to_owned(),
            Self::Pack(id) => sharded("packs", *id),
            Self::Parity(id) => sharded("parity", *id),
            Self::Snapshot(id) => format!("snapshots/{id}"),
            Self::Note(snapshot, id) => format!("notes/{snapshot}/{id}"),
            Self::Key(id) => format!("keys/{id}"),
            Self::GcPlan => "gc/plan".to_owned(),
        }
    }

    /// Returns the name that a path below the root has, or `None` where Cairn puts nothing there.
    pub fn from_path(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let name = match *parts.as_slice() {
            ["config"] => Self::Config,
            ["packs", _, id] => Self::Pack(id.parse().ok()?),
            ["parity", _, id] => Self::Parity(id.parse().ok()?),
            ["snapshots", id] => Self::Snapshot(id.parse().ok()?),
            ["notes", snapshot, id] => Self::Note(snapshot.parse().ok()?, id.parse().ok()?),
            ["keys", id] => Self::Key(id.parse().ok()?),
            ["gc", "plan"] => Self::GcPlan,
            _ => return None,
        };
        (name.path() == path).then_some(name)
    }
}

/// Returns the path of what belongs to a pack: its folder is named by the first two digits.
fn sharded(area: &str, id: PackId) -> String {
    let hex = id.to_hex();
    format!("{area}/{}/{hex}", &hex[..2])
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_round_trip() {
        let snapshot = SnapshotId::from_bytes([2; 32]);
        for name in [
            Name::Config,
            Name::Pack(PackId::from_bytes([0xab; 32])),
            Name::Parity(PackId::from_bytes([0xab; 32])),
            Name::Snapshot(snapshot),
            Name::Note(snapshot, NoteId::from_bytes([3; 32])),
            Name::Key(KeyId::from_bytes([4; 32])),
            Name::GcPlan,
        ] {
            assert_eq!(Name::from_path(&name.path()), Some(name));
        }
    }

    #[test]
    fn a_pack_in_the_wrong_folder_has_no_name() {
        let hex = "ab".repeat(32);
        assert_eq!(Name::from_path(&format!("packs/ac/{hex}")), None);
        assert_eq!(Name::from_path(&format!("packs/ab/{hex}.tmp")), None);
    }
}
