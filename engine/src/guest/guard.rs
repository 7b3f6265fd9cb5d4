//! Readers of other people's making may panic over what a hostile guest wrote. A panic becomes an
//! error here, and goes no further.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::tree::{DirEntry, FileId, FileSystem, GuestError, Stat};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a panic of this thread would become an error, and so need not be shown.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs a reader; a panic is damage to `what`.
pub(crate) fn guarded<T>(
    what: &'static str,
    run: impl FnOnce() -> Result<T, GuestError>,
) -> Result<T, GuestError> {
    let before = GUARDED.replace(true);
    // Readers hold only what they have read; one that panicked finds the same bytes again.
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    result.unwrap_or_else(|_| {
        Err(GuestError::Damaged {
            what,
            source: "its reader gave up".into(),
        })
    })
}

/// Runs what a reader calls back, which is none of its own and must not be taken for it.
fn unguarded<T>(run: impl FnOnce() -> T) -> T {
    let before = GUARDED.replace(false);
    let result = run();
    GUARDED.set(before);
    result
}

/// A file system whose reader may panic.
pub(crate) struct Guarded(pub Box<dyn FileSystem>);

impl FileSystem for Guarded {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn caveats(&self) -> &[String] {
        self.0.caveats()
    }

    fn root(&self) -> FileId {
        self.0.root()
    }

    fn stat(&self, file: FileId) -> Result<Stat, GuestError> {
        guarded(self.kind(), || self.0.stat(file))
    }

    fn read_folder(
        &self,
        folder: FileId,
        sink: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), GuestError> {
        let sink = &mut |entry| unguarded(|| sink(entry));
        guarded(self.kind(), || self.0.read_folder(folder, sink))
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<FileId, GuestError> {
        guarded(self.kind(), || self.0.lookup(folder, name))
    }

    fn read_link(&self, link: FileId) -> Result<Vec<u8>, GuestError> {
        guarded(self.kind(), || self.0.read_link(link))
    }

    fn read_file(
        &self,
        file: FileId,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        let sink = &mut |at, bytes: &[u8]| unguarded(|| sink(at, bytes));
        guarded(self.kind(), || self.0.read_file(file, sink))
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, GuestError> {
        guarded(self.kind(), || self.0.xattrs(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_damage() {
        let result: Result<(), _> = guarded("test", || panic!("as a reader may"));
        assert!(matches!(result, Err(GuestError::Damaged { .. })));
        assert!(!is_guarded());
    }
}
