//! Takes new content in: each piece once, in frames, in packs, in the index.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Contents, Needs, RepositoryError};
use crate::format::pack::{Footer, PackKind};
use crate::id::{ContentId, NodeId, PackId};
use crate::index::{IndexError, Ingest, PackPrefix};
use crate::pack::{Frame, Framer, PackError, PackSink, Packer, PackerStats, places_in};
use crate::recipe::{Cause, NodeSink};
use crate::storage::StorageError;

/// What a run stored.
#[derive(Debug)]
pub struct IntakeStats {
    /// Packs of disk data.
    pub data: PackerStats,
    /// Packs of recipe nodes.
    pub nodes: PackerStats,
    /// Whether the index knows them now. It is a cache: where it could not be written, whoever
    /// opens it next takes the packs in from their footers, and that is no failure of the run.
    pub index: Result<Ingest, IndexError>,
    /// The packs in which all lies that was claimed.
    pub(crate) needs: Needs,
}

/// The writing side of a session: shared by the threads of one run.
pub struct Intake {
    contents: Arc<Contents>,
    pending: Arc<Pending>,
    data: Packer,
    nodes: Packer,
}

/// What was claimed and is not yet in a published pack: bounded by what two packs and the channels
/// hold.
struct Pending {
    contents: Arc<Contents>,
    claimed: Mutex<HashSet<ContentId>>,
    /// Packs in which something that was claimed lies.
    needs: Mutex<Needs>,
}

impl Pending {
    fn claimed(&self) -> MutexGuard<'_, HashSet<ContentId>> {
        // What a panicking thread leaves is a set of claims; the run fails with it in any case.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn needs(&self) -> MutexGuard<'_, Needs> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PackSink for Pending {
    fn published(&self, pack: PackId, footer: &Footer) -> Result<(), PackError> {
        // The index first: content must at no time be in neither.
        let places: Vec<_> = places_in(pack, footer).collect();
        self.contents.index().add_pack(pack, &places)?;
        self.needs().insert(PackPrefix::of(pack));
        let mut claimed = self.claimed();
        for entry in &footer.entries {
            claimed.remove(&entry.id);
        }
        Ok(())
    }
}

impl Intake {
    /// Starts the threads that write packs.
    pub fn start(contents: &Arc<Contents>) -> Result<Self, RepositoryError> {
        let repository = contents.repository();
        let contents = Arc::clone(contents);
        let pending = Pending {
            contents: Arc::clone(&contents),
            claimed: Mutex::default(),
            needs: Mutex::default(),
        };
        let pending = Arc::new(pending);
        let context = repository.pack_context(contents.session());
        let start = |kind| {
            let sink: Arc<dyn PackSink> = pending.clone();
            Packer::start(context.clone(), kind, sink).map_err(RepositoryError::NoThread)
        };
        let (data, nodes) = (start(PackKind::Data)?, start(PackKind::Nodes)?);
        Ok(Self {
            contents: Arc::clone(&contents),
            pending,
            data,
            nodes,
        })
    }

    /// Returns, for each id, whether the caller now has to store it: nobody has, and nobody else
    /// in this run was told to. Best asked for many ids at once.
    pub fn claim(&self, ids: &[ContentId]) -> Result<Vec<bool>, RepositoryError> {
        let mut claimed = self.pending.claimed();
        let mut new: Vec<bool> = ids.iter().map(|id| claimed.insert(*id)).collect();
        drop(claimed);
        // Only now: a pack that was published before our claim is in the index by now.
        let asked: Vec<ContentId> = ids
            .iter()
            .zip(&new)
            .filter(|(_, new)| **new)
            .map(|(id, _)| *id)
            .collect();
        let places = self.contents.locate_to_build_on(&asked)?;
        if places.iter().any(Option::is_some) {
            let mut needs = self.pending.needs();
            let mut packs: Vec<PackPrefix> = places.iter().flatten().map(|it| it.pack).collect();
            packs.dedup();
            packs.into_iter().for_each(|pack| needs.insert(pack));
            drop(needs);
            let mut places = places.into_iter();
            let mut claimed = self.pending.claimed();
            for (id, new) in ids.iter().zip(&mut new) {
                if *new && places.next().flatten().is_some() {
                    *new = false;
                    claimed.remove(id);
                }
            }
        }
        Ok(new)
    }

    /// Returns a framer for one thread, set as the repository is.
    pub fn framer(&self) -> Framer {
        self.contents.repository().framer()
    }

    /// Hands a frame of disk data over; waits while the medium is slower than we are.
    pub fn store(&self, frame: Frame) -> Result<(), RepositoryError> {
        Ok(self.data.send(frame)?)
    }

    /// Returns a writer of recipe nodes.
    pub fn node_writer(&self) -> NodeWriter<'_> {
        NodeWriter {
            intake: self,
            framer: self.framer(),
        }
    }

    /// Seals the last packs, waits until all are durable, and adds them to the index if it lets.
    ///
    /// # Durability
    ///
    /// On return everything that was stored is durable, and a manifest may refer to it.
    pub fn finish(self) -> Result<IntakeStats, RepositoryError> {
        // Both are joined before either failure counts, so that no thread outlives the run.
        let (data, nodes) = joined(self.data.finish(), self.nodes.finish())?;
        Ok(IntakeStats {
            data,
            nodes,
            index: self.contents.index().ingest(),
            needs: std::mem::take(&mut *self.pending.needs()),
        })
    }

    /// Returns why the packers stopped, after [`Intake::store`] failed.
    pub fn failure(self) -> RepositoryError {
        match joined(self.data.finish(), self.nodes.finish()) {
            Err(error) => error.into(),
            Ok(_) => PackError::Stopped.into(),
        }
    }
}

/// Puts together what two packers did. Of two failures the one that is not the other's consequence
/// counts.
fn joined(
    data: Result<PackerStats, PackError>,
    nodes: Result<PackerStats, PackError>,
) -> Result<(PackerStats, PackerStats), PackError> {
    let is_consequence = |error: &PackError| {
        let sticky = |error: &_| matches!(error, StorageError::PreviousFailure { .. });
        matches!(error, PackError::Stopped)
            || matches!(error, PackError::Storage(error) if sticky(error))
    };
    match (data, nodes) {
        (Ok(data), Ok(nodes)) => Ok((data, nodes)),
        (Err(error), Err(other)) if is_consequence(&error) => Err(other),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Stores recipe nodes; one thread's.
pub struct NodeWriter<'i> {
    intake: &'i Intake,
    framer: Framer,
}

impl NodeWriter<'_> {
    /// Hands over what is left.
    pub fn flush(&mut self) -> Result<(), RepositoryError> {
        match self.framer.flush() {
            Some(frame) => Ok(self.intake.nodes.send(frame)?),
            None => Ok(()),
        }
    }
}

impl NodeSink for NodeWriter<'_> {
    fn id_of(&self, encoded: &[u8]) -> NodeId {
        self.intake.contents.repository().keys().node_id(encoded)
    }

    fn put(&mut self, id: NodeId, encoded: Vec<u8>) -> Result<(), Cause> {
        if self.intake.claim(&[id.into()])?.first() == Some(&true)
            && let Some(frame) = self.framer.add(id.into(), &encoded)
        {
            self.intake.nodes.send(frame)?;
        }
        Ok(())
    }
}
