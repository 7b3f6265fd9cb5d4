//! A bounded set of open files, so that reading a frame costs one system call.

use std::sync::{Arc, Mutex};

use super::Name;
use super::atomic::lock;

/// Most files kept open. Far below the usual limit of 1024 a process, and reads of one disk come in
/// runs from a few packs.
const OPEN_FILES_MAX: usize = 64;

/// Open files by name; the one used longest ago goes first.
pub(super) struct Handles<T> {
    /// In the order of their last use. So few that a search from the end beats any table.
    open: Mutex<Vec<(Name, Arc<T>)>>,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self {
            open: Mutex::new(Vec::with_capacity(OPEN_FILES_MAX)),
        }
    }

    /// Returns the open file of this name, or opens it. No lock is held while `open` runs; two
    /// threads may both open, and one of the two handles is dropped.
    pub(super) fn get<E>(
        &self,
        name: &Name,
        open: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some(found) = self.touch(name) {
            return Ok(found);
        }
        let opened = Arc::new(open()?);
        if let Some(found) = self.touch(name) {
            return Ok(found);
        }
        let mut files = lock(&self.open);
        let oldest = (files.len() >= OPEN_FILES_MAX).then(|| files.remove(0));
        files.push((*name, Arc::clone(&opened)));
        drop(files);
        drop(oldest);
        Ok(opened)
    }

    fn touch(&self, name: &Name) -> Option<Arc<T>> {
        let mut files = lock(&self.open);
        let at = files.iter().rposition(|(open, _)| open == name)?;
        let entry = files.remove(at);
        let file = Arc::clone(&entry.1);
        files.push(entry);
        Some(file)
    }

    /// Closes the file of this name.
    pub(super) fn forget(&self, name: &Name) {
        let mut files = lock(&self.open);
        let at = files.iter().rposition(|(open, _)| open == name);
        let closed = at.map(|at| files.remove(at));
        drop(files);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;

    fn name(n: usize) -> Name {
        Name::Pack(PackId::from_bytes(
            [u8::try_from(n).expect("a small number"); 32],
        ))
    }

    #[test]
    fn the_file_used_longest_ago_is_closed_first() {
        let handles = Handles::new();
        for n in 0..OPEN_FILES_MAX {
            assert_eq!(handles.get(&name(n), || Ok::<_, ()>(n)).as_deref(), Ok(&n));
        }
        assert!(handles.get(&name(0), || Err(())).is_ok());
        assert!(handles.get(&name(100), || Ok::<_, ()>(100)).is_ok());
        assert!(handles.get(&name(0), || Err(())).is_ok(), "used since");
        assert!(handles.get(&name(1), || Err(())).is_err(), "closed");
        assert_eq!(lock(&handles.open).len(), OPEN_FILES_MAX);
        handles.forget(&name(0));
        assert!(handles.get(&name(0), || Err(())).is_err(), "forgotten");
    }
}
