//! What a storage promises to whoever builds on it.

use std::sync::Arc;

use super::{Area, Name, StorageError};
use crate::id::SessionId;

/// An object found by [`Storage::list`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its stored length in bytes.
    pub len: u64,
}

/// What [`Storage::put`] does with an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leaves it and fails with [`StorageError::Exists`].
    Refuse,
    /// Replaces it, atomically.
    Replace,
}

/// A place that keeps objects. Shared by threads; every method may be called at once.
pub trait Storage: Send + Sync {
    /// Returns a name for people: the folder or the bucket.
    fn location(&self) -> String;

    /// Reads a whole object of at most `limit` bytes; a longer one is
    /// [`StorageError::TooLong`].
    fn read(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StorageError>;

    /// Fills `buf` with an object's bytes from `offset`. An object that ends before `buf` is full
    /// is [`StorageError::ShortRead`].
    fn read_at(&self, name: &Name, offset: u64, buf: &mut [u8]) -> Result<(), StorageError>;

    /// Returns an object's stored length.
    fn len(&self, name: &Name) -> Result<u64, StorageError>;

    /// Lists the objects of an area, in the order of their names. Files that Cairn would not have
    /// put there are left out.
    fn list(&self, area: Area) -> Result<Vec<Listed>, StorageError>;

    /// Stores a small object.
    ///
    /// # Durability
    ///
    /// Durable on return. Others see either nothing (or the old object) or all of it.
    ///
    /// # Errors
    ///
    /// [`StorageError::PreviousFailure`] if the session has ended, or if this storage has failed
    /// before in a way that leaves it open what is durable. After any other error the object may
    /// still be there, but never in part; only [`StorageError::Exists`] says for certain that
    /// nothing was done.
    fn put(
        &self,
        session: SessionId,
        name: &Name,
        bytes: &[u8],
        existing: Existing,
    ) -> Result<(), StorageError>;

    /// Begins an object of unknown name and length, such as a pack.
    fn upload(&self, session: SessionId) -> Result<Box<dyn Upload>, StorageError>;

    /// Makes sure that a power cut cannot take back an object of this name that another process
    /// published, nor bring back one that was deleted. Must come before anything is built on
    /// another's object.
    fn settle(&self, name: &Name) -> Result<(), StorageError>;

    /// Deletes an object. One that is not there is no error.
    ///
    /// # Durability
    ///
    /// A power cut may bring the object back, whole, until it is settled ([`Storage::settle`]).
    fn delete(&self, name: &Name) -> Result<(), StorageError>;

    /// Takes an object out of its area, to where nobody reads it: whoever wants to look at it finds
    /// it below `damaged/`, under the last part of its name. One of that name that was set aside
    /// before is replaced.
    ///
    /// # Durability
    ///
    /// Durable on return.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] of an object that is not there.
    fn set_aside(&self, name: &Name) -> Result<(), StorageError>;

    /// Gives an object that is damaged a second name there as well, before it is replaced
    /// ([`Upload::replace`]).
    ///
    /// # Durability
    ///
    /// Durable on return.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] of an object that is not there.
    fn keep_aside(&self, session: SessionId, name: &Name) -> Result<(), StorageError>;

    /// Opens a session: visible to others from the moment this returns until it and all its uploads
    /// are dropped, or its process ends, however it ends.
    ///
    /// `document` is what others read of it (see `format::session`).
    ///
    /// # Errors
    ///
    /// [`StorageError::Unwritable`] where nothing can be written: who only reads can go on without.
    fn open_session(&self, document: &[u8]) -> Result<Box<dyn Session>, StorageError>;

    /// Returns the sessions that are visible now, with whether someone is still at work there.
    fn sessions(&self) -> Result<Vec<SeenSession>, StorageError>;

    /// Takes the lock that one collection at a time holds, until it is dropped or its process ends.
    ///
    /// # Errors
    ///
    /// [`StorageError::Locked`] while another holds it: nobody waits for it.
    fn lock_collection(&self) -> Result<CollectionLock, StorageError>;

    /// Keeps some space back, where there is none kept yet: whoever frees space needs a little.
    ///
    /// # Durability
    ///
    /// None: what a power cut takes away is kept back again another time.
    fn keep_reserve(&self) -> Result<(), StorageError>;

    /// Gives up the space that is kept back; returns whether there was any.
    fn release_reserve(&self) -> Result<bool, StorageError>;

    /// Removes what dead sessions left: their session files and unfinished uploads. Returns how
    /// many there were. Never touches a session that is alive. What this user may not touch stays,
    /// for somebody who may.
    fn clear_dead_sessions(&self) -> Result<usize, StorageError>;
}

/// A session of this process. Dropping it ends it.
pub trait Session: Send + Sync {
    /// Returns the session's id, which names its unfinished files.
    fn id(&self) -> SessionId;
}

/// Held by the one collection at work.
pub struct CollectionLock {
    _held: Box<dyn Send + Sync>,
}

impl CollectionLock {
    /// Keeps what holds the lock.
    pub(super) fn new(held: impl Send + Sync + 'static) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

/// A session found by [`Storage::sessions`].
#[derive(Debug, Clone)]
pub struct SeenSession {
    /// Its id.
    pub id: SessionId,
    /// Whether its process is still at work.
    pub alive: bool,
    /// What it says of itself.
    pub document: Vec<u8>,
}

/// An object that is being written. Dropping it leaves nothing under any name.
pub trait Upload: Send {
    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// After an error every later call fails with [`StorageError::PreviousFailure`].
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// Fills `buf` with bytes that were written, from `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError>;

    /// Publishes the object in place of the one that has its name, where there is one. Others see
    /// either of them, whole.
    ///
    /// # Durability
    ///
    /// Durable on return.
    fn replace(self: Box<Self>, name: &Name) -> Result<(), StorageError>;

    /// Publishes the object. One of that name that is there already is kept, and is no error: names
    /// of packs are hashes of their bytes.
    ///
    /// # Durability
    ///
    /// Durable on return. After an error the object may be there, whole, but nothing may be built
    /// on it; a next try writes the bytes anew.
    fn finish(self: Box<Self>, name: &Name) -> Result<(), StorageError>;
}

/// A shared storage.
pub type SharedStorage = Arc<dyn Storage>;
