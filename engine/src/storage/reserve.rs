//! Space that the local kind keeps back: on a full medium even freeing space needs some, for a
//! session, a note and a plan.

use std::io;

use super::StorageError;
use super::fs::{FileSystem, OpenFile};

const RESERVE: &str = "gc/reserve";
/// Sessions, notes and plans of any but the largest repositories are shorter.
const RESERVE_LEN: usize = 256 * 1024;

/// Makes the file, if it is not there.
pub(super) fn keep<F: FileSystem>(fs: &F) -> Result<(), StorageError> {
    let failed = |err| StorageError::from_io("write", RESERVE, err);
    let mut file = match fs.create_new(RESERVE) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(failed)?,
    };
    // Bytes that no file system makes smaller.
    let mut bytes = vec![0; RESERVE_LEN];
    let drawn = fs.draw().map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&drawn);
    hasher.finalize_xof().fill(&mut bytes);
    file.append(&bytes).map_err(|err| {
        drop(fs.remove_file(RESERVE));
        failed(err)
    })
}

/// Removes the file; returns whether it was there.
pub(super) fn release<F: FileSystem>(fs: &F) -> Result<bool, StorageError> {
    match fs.remove_file(RESERVE) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(StorageError::from_io("remove", RESERVE, err)),
    }
}
