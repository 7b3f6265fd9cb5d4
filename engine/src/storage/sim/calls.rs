//! The calls of a file system, on the simulated disk.

use std::io;

use rustix::io::Errno;

use super::SimFs;
use super::disk::{Inode, Op};
use super::fault::{FaultKind, FaultOn};
use super::state::Held;
use crate::storage::fs::{Entry, FileSystem, LockMode, OpenFile, RenameMode};

impl FileSystem for SimFs {
    type File = SimFile;

    fn location(&self) -> String {
        "simulated disk".to_owned()
    }

    fn unsuitable(&self) -> io::Result<Option<&'static str>> {
        Ok(None)
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        let mut state = self.state();
        let drawn = [
            state.random.next().to_le_bytes(),
            state.random.next().to_le_bytes(),
        ];
        drop(state);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(drawn.as_flattened());
        Ok(bytes)
    }

    fn create_new(&self, path: &str) -> io::Result<SimFile> {
        self.change(Op::Create {
            path: path.to_owned(),
        })?;
        self.open_handle(|disk| disk.resolve(path))
    }

    fn open(&self, path: &str) -> io::Result<SimFile> {
        let inode = self.look(|disk| disk.resolve(path))?;
        self.open_handle(|_| Ok(inode))
    }

    fn is_named(&self, file: &SimFile, path: &str) -> io::Result<bool> {
        self.look(|disk| match disk.resolve(path) {
            Ok(inode) => Ok(inode == file.inode),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        })
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> io::Result<()> {
        self.change(Op::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            mode,
        })
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Op::Link {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        let folder = self.state().disk.resolve(path)?;
        self.change(Op::SyncFolder { folder })
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.look(|disk| disk.list(path))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.change(Op::MakeFolder {
            path: path.to_owned(),
        })
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.change(Op::RemoveFile {
            path: path.to_owned(),
        })
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        self.change(Op::RemoveFolder {
            path: path.to_owned(),
        })
    }
}

/// An open file of a [`SimFs`].
pub struct SimFile {
    pub(super) fs: SimFs,
    pub(super) inode: Inode,
    pub(super) handle: u64,
}

impl OpenFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.fs.change(Op::Append {
            file: self.inode,
            bytes: bytes.to_owned(),
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.fs.change(Op::SyncFile { file: self.inode })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut state = self.fs.state();
        let number = state.reads;
        state.reads += 1;
        match state.fault(self.fs.process, FaultOn::Reads, number)? {
            None => {}
            Some(FaultKind::Short) => return Err(short()),
            Some(_) => return Err(Errno::IO.into()),
        }
        let start = usize::try_from(offset).map_err(|_| short())?;
        let end = start.checked_add(buf.len()).ok_or_else(short)?;
        buf.copy_from_slice(
            state
                .disk
                .data(self.inode)?
                .get(start..end)
                .ok_or_else(short)?,
        );
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.fs.look(|disk| Ok(disk.data(self.inode)?.len() as u64))
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        let mut state = self.fs.state();
        if state.dead.contains(&self.fs.process) {
            return Err(Errno::SRCH.into());
        }
        let held = state.locks.entry(self.inode).or_default();
        let alone = mode == LockMode::Exclusive;
        let in_the_way = |other: &Held| {
            other.handle != self.handle && (alone || other.mode == LockMode::Exclusive)
        };
        if held.iter().any(in_the_way) {
            return Ok(false);
        }
        held.retain(|other| other.handle != self.handle);
        held.push(Held {
            handle: self.handle,
            process: self.fs.process,
            mode,
        });
        Ok(true)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.fs.state();
        if let Some(held) = state.locks.get_mut(&self.inode) {
            held.retain(|other| other.handle != self.handle);
        }
    }
}
