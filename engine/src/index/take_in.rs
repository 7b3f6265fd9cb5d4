//! Reads the footers of many packs at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{IndexError, PackFooters, Place};
use crate::id::{ContentId, PackId};

/// Threads that read footers: enough to keep a disk busy.
const THREADS: usize = 4;

/// The places in one pack, as its footer lists them.
pub(super) type Places = Vec<(ContentId, Place)>;

/// Reads the footers of `packs` in some order, and hands each to `each` until that breaks off or
/// fails. Holds at most a handful of footers at once.
pub(super) fn read_footers<F: PackFooters>(
    packs: &[PackId],
    footers: &F,
    mut each: impl FnMut(PackId, Result<Places, F::Error>) -> Result<ControlFlow<()>, IndexError>,
) -> Result<(), IndexError> {
    let next = AtomicUsize::new(0);
    let read = |send: crossbeam_channel::Sender<_>| {
        while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if send.send((*pack, footers.places(*pack))).is_err() {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        let (send, receive) = crossbeam_channel::bounded(1);
        for _ in 0..THREADS.min(packs.len()) {
            let send = send.clone();
            scope.spawn(|| read(send));
        }
        drop(send);
        for (pack, places) in receive {
            if each(pack, places)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}
