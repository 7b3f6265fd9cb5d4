//! Two threads that turn frames into published packs: one appends, one makes durable.
//!
//! They are apart so that frames keep flowing while the last pack is fsynced. Channels are short:
//! a slow medium holds up those who bring frames, and memory stays bounded.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Frame, PackContext, PackError, PackWriter, SealedPack};
use crate::format::pack::{Footer, PackKind};
use crate::id::PackId;
use crate::limits::MIB;
use crate::threads::Joined;

/// Plain bytes of frames that may wait to be appended.
const BYTES_WAITING_MAX: u64 = 4 * MIB;
/// Packs that may wait to be made durable.
const PACKS_WAITING_MAX: usize = 2;

/// Told of each pack once it is durable.
pub trait PackSink: Send + Sync {
    /// Takes note of a published pack.
    fn published(&self, pack: PackId, footer: &Footer) -> Result<(), PackError>;
}

/// What a packer wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackerStats {
    /// Packs published, in order.
    pub packs: Vec<PackId>,
    /// Their stored length in bytes, and that of their parity.
    pub stored_bytes: u64,
}

/// Writes the frames of one kind into packs. Dropping it without [`Packer::finish`] publishes what
/// it was given, where it still can: content that no snapshot refers to yet, which the next run
/// finds.
pub struct Packer {
    frames: Option<Sender<Frame>>,
    appender: Option<Joined<Result<(), PackError>>>,
    publisher: Option<Joined<Result<PackerStats, PackError>>>,
}

impl Packer {
    /// Starts the threads.
    pub fn start(
        context: PackContext,
        kind: PackKind,
        sink: Arc<dyn PackSink>,
    ) -> std::io::Result<Self> {
        let (frame_sender, frames) = bounded(frames_waiting(context.frame_len));
        let (sealed_sender, sealed) = bounded(PACKS_WAITING_MAX);
        // Dropped at a failure, it ends the first thread before it waits for it.
        let mut packer = Self {
            frames: Some(frame_sender),
            appender: None,
            publisher: None,
        };
        packer.appender = Some(Joined::start("pack-append", move || {
            append(&context, kind, &frames, &sealed_sender)
        })?);
        packer.publisher = Some(Joined::start("pack-publish", move || {
            publish(&sealed, &*sink)
        })?);
        Ok(packer)
    }

    /// Hands a frame over; waits while too many wait.
    ///
    /// # Errors
    ///
    /// [`PackError::Stopped`] once a thread has failed; [`Packer::finish`] then says why.
    pub fn send(&self, frame: Frame) -> Result<(), PackError> {
        let frames = self.frames.as_ref().ok_or(PackError::Stopped)?;
        frames.send(frame).map_err(|_| PackError::Stopped)
    }

    /// Seals what is left and waits until every pack is durable.
    ///
    /// # Errors
    ///
    /// The first failure of either thread.
    pub fn finish(mut self) -> Result<PackerStats, PackError> {
        self.frames = None;
        let appended = join(self.appender.take());
        let published = join(self.publisher.take());
        match (appended, published) {
            (Some(Err(PackError::Stopped)) | Some(Ok(())) | None, Some(published)) => published,
            (Some(Err(error)), _) => Err(error),
            (_, None) => Err(PackError::Stopped),
        }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // The run failed elsewhere, and reports that: a failure here changes nothing for it.
        self.frames = None;
        drop(self.appender.take());
        drop(self.publisher.take());
    }
}

/// Returns how many frames may wait: a few even where they are large, and not many small ones.
fn frames_waiting(frame_len: u32) -> usize {
    let frames = BYTES_WAITING_MAX / u64::from(frame_len.max(1));
    usize::try_from(frames.clamp(2, 64)).expect("a small number")
}

fn join<T: Send + 'static>(thread: Option<Joined<T>>) -> Option<T> {
    thread.map(|thread| match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn append(
    context: &PackContext,
    kind: PackKind,
    frames: &Receiver<Frame>,
    sealed: &Sender<SealedPack>,
) -> Result<(), PackError> {
    let mut open: Option<PackWriter> = None;
    for frame in frames {
        if open
            .as_ref()
            .is_some_and(|writer| writer.is_full(frame.entries.len()))
            && let Some(writer) = open.take()
        {
            sealed
                .send(writer.seal()?)
                .map_err(|_| PackError::Stopped)?;
        }
        let mut writer = match open.take() {
            Some(writer) => writer,
            None => PackWriter::begin(context, kind)?,
        };
        writer.add(frame)?;
        open = Some(writer);
    }
    if let Some(writer) = open {
        sealed
            .send(writer.seal()?)
            .map_err(|_| PackError::Stopped)?;
    }
    Ok(())
}

fn publish(sealed: &Receiver<SealedPack>, sink: &dyn PackSink) -> Result<PackerStats, PackError> {
    let mut stats = PackerStats::default();
    for pack in sealed {
        let stored_len = pack.stored_len() + pack.parity_len();
        let (id, footer) = pack.publish()?;
        sink.published(id, &footer)?;
        stats.packs.push(id);
        stats.stored_bytes += stored_len;
    }
    Ok(stats)
}
