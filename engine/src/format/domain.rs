//! What a manifest says of the domain that was backed up, and of the disks as the hypervisor knew
//! them: with it, the next backup finds out whether it may go on from this one.

use std::borrow::Cow;

use serde::de::value::BorrowedStrDeserializer;
use serde::{Deserialize, Serialize};

use super::{FormatError, Unknown};

/// The domain of a snapshot, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRecord {
    /// Its UUID: a domain of the same name may be another.
    pub uuid: String,
    /// The libvirt URI of its hypervisor, without user and password.
    pub hypervisor: String,
    /// The checkpoint that the backup made: the next one counts changes from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// When the hypervisor says that the checkpoint was made, in seconds since 1970: another of
    /// the same name has another time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_time: Option<i64>,
    /// How the disks were held still.
    pub method: Method,
    /// What the disks can be trusted to show.
    pub consistency: Consistency,
    /// The machine type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The CPU model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Disks that were not backed up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What else belongs to the domain and is not in the snapshot, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_saved: Vec<String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How disks were held still while they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A backup job of the hypervisor served them.
    Pull,
    /// An external snapshot took the writes.
    Snapshot,
    /// The domain did not run.
    Offline,
}

/// What the disks of a snapshot show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// What a power cut would have left.
    Crash,
    /// File systems that the guest's agent had frozen.
    Agent,
    /// What was there while the domain was suspended.
    Suspend,
    /// What a domain that did not run had left.
    Offline,
    /// The disks and the memory of one moment.
    Memory,
}

/// A disk of the domain that is not in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The disk's name in the VM.
    pub target: String,
    /// Why.
    pub reason: String,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a disk was at the time of the backup: another image in its place is another disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The image's path, the device, or the name in the network.
    pub path: String,
    /// The image's format.
    pub format: String,
    /// The device that the image lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// The image's inode there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// The dirty bitmap that counts changes from this snapshot on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitmap: Option<String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl DomainRecord {
    /// Checks the rules that a manifest is refused by.
    pub fn check(&self) -> Result<(), FormatError> {
        if self.uuid.is_empty() {
            let rule = "the UUID of a domain must not be empty";
            return Err(FormatError::Malformed { rule });
        }
        let after = self.hypervisor.split_once("://").map(|(_, after)| after);
        let authority = after.and_then(|after| after.split(['/', '?', '#']).next());
        if authority.is_some_and(|authority| authority.contains('@')) {
            let rule = "the hypervisor of a manifest must be named without user and password";
            return Err(FormatError::Malformed { rule });
        }
        Ok(())
    }
}

/// Returns what a manifest that cannot be parsed needs and we do not have, if it is that: a newer
/// Cairn may know more methods, and its manifest is not damaged.
pub(super) fn unsupported(bytes: &[u8]) -> Option<FormatError> {
    #[derive(Deserialize)]
    struct Document<'d> {
        #[serde(borrow)]
        domain: Domain<'d>,
    }
    #[derive(Deserialize)]
    struct Domain<'d> {
        #[serde(borrow)]
        method: Cow<'d, str>,
        #[serde(borrow)]
        consistency: Cow<'d, str>,
    }
    let Document { domain } = serde_json::from_slice(bytes).ok()?;
    let (method, consistency) = (domain.method, domain.consistency);
    let feature = if !is_known::<Method>(&method) {
        format!("domain method {method}")
    } else if !is_known::<Consistency>(&consistency) {
        format!("domain consistency {consistency}")
    } else {
        return None;
    };
    Some(FormatError::UnsupportedFeature { feature })
}

fn is_known<'d, T: Deserialize<'d>>(word: &'d str) -> bool {
    let word: BorrowedStrDeserializer<'d, serde::de::value::Error> =
        BorrowedStrDeserializer::new(word);
    T::deserialize(word).is_ok()
}
