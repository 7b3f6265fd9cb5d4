//! Rebuilds a damaged pack from its parity.

use std::collections::HashMap;

use super::blocks::Blocks;
use super::code::Decoder;
use super::inspect::ParityFile;
use crate::format::parity::{ParityLayout, block_check};
use crate::id::{PackId, SessionId};
use crate::limits::PARITY_BLOCK_LEN;
use crate::pack::PackError;
use crate::storage::{Name, SharedStorage, StorageError, Upload};

/// What became of the attempt to rebuild a pack.
pub enum Rebuild {
    /// It is whole, and has no name yet.
    Done(Rebuilt),
    /// It cannot be rebuilt, for this reason.
    Not(String),
}

/// A pack that was rebuilt: its bytes have the hash that is its name.
pub struct Rebuilt {
    pack: PackId,
    session: SessionId,
    blocks: u32,
    upload: Box<dyn Upload>,
}

impl Rebuilt {
    /// Returns how many blocks were computed from parity.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Puts the pack in the damaged one's place, which is kept below `damaged/`. At every moment
    /// one of the two has the name.
    ///
    /// # Durability
    ///
    /// Durable on return.
    pub fn publish(self, storage: &SharedStorage) -> Result<(), PackError> {
        let name = Name::Pack(self.pack);
        match storage.keep_aside(self.session, &name) {
            Ok(()) | Err(StorageError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.upload.replace(&name)?)
    }
}

/// Computes what is damaged of a pack from its parity. The pack itself is not touched.
///
/// # Errors
///
/// That something could not be written, or that this process lacks something: what cannot be read
/// of the pack is damaged.
pub fn rebuild_pack(
    storage: &SharedStorage,
    session: SessionId,
    pack: PackId,
) -> Result<Rebuild, PackError> {
    let parity = ParityFile { storage, pack };
    let directory = match parity.directory()? {
        Ok(directory) => directory,
        Err(why) => return Ok(Rebuild::Not(why)),
    };
    let layout = directory.head.layout;
    let work = Work {
        storage,
        session,
        pack,
        layout,
        blocks: Blocks::new(storage, pack, layout),
        parity,
    };
    let damage = work.find(&directory.checks)?;
    if let Some(why) = work.beyond(&damage)? {
        return Ok(Rebuild::Not(why));
    }
    let computed = match work.compute(&damage)? {
        Some(computed) => computed,
        None => return Ok(Rebuild::Not("it changed while it was read".to_owned())),
    };
    work.put_together(&damage, &computed)
}

/// A pack that is being rebuilt.
struct Work<'w> {
    storage: &'w SharedStorage,
    session: SessionId,
    pack: PackId,
    layout: ParityLayout,
    blocks: Blocks<'w>,
    parity: ParityFile<'w>,
}

/// Which blocks of a pack are damaged.
struct Damage {
    is_bad: Vec<bool>,
    /// How many are, of each group.
    of_group: Vec<u32>,
}

/// Blocks that were computed. They are in a file, since they may be as many as the pack has.
struct Computed {
    file: Box<dyn Upload>,
    /// Where each begins.
    places: HashMap<u32, u64>,
}

impl Work<'_> {
    fn find(&self, checks: &[u64]) -> Result<Damage, PackError> {
        let mut damage = Damage {
            is_bad: vec![false; checks.len()],
            of_group: vec![0; self.layout.groups() as usize],
        };
        self.blocks.for_each(|number, block| {
            let is_whole = match block {
                Ok(block) => {
                    block_check(self.pack, number.into(), block) == checks[number as usize]
                }
                Err(error) if error.is_shortage() => return Err(error.into()),
                Err(_) => false,
            };
            if !is_whole {
                damage.is_bad[number as usize] = true;
                damage.of_group[(number % self.layout.groups()) as usize] += 1;
            }
            Ok(())
        })?;
        Ok(damage)
    }

    /// Returns the groups that lost something.
    fn hurt<'d>(&self, damage: &'d Damage) -> impl Iterator<Item = (u32, u32)> + use<'d> {
        let groups = (0..self.layout.groups()).zip(damage.of_group.iter().copied());
        groups.filter(|(_, bad)| *bad > 0)
    }

    /// Returns why there is too little parity, if that is so.
    fn beyond(&self, damage: &Damage) -> Result<Option<String>, PackError> {
        for (group, bad) in self.hurt(damage) {
            let spares = self.parity.spares(&self.layout, group)?;
            let left = spares.iter().flatten().count();
            if bad as usize > left {
                let all: u32 = damage.of_group.iter().sum();
                return Ok(Some(format!(
                    "{all} of its {} blocks are damaged, more than its parity makes up for: \
                     {bad} in one group, for which {left} parity blocks are left",
                    self.layout.blocks()
                )));
            }
        }
        Ok(None)
    }

    /// Computes the damaged blocks; `None` where one that was whole is not any more.
    fn compute(&self, damage: &Damage) -> Result<Option<Computed>, PackError> {
        let mut computed = Computed {
            file: self.storage.upload(self.session)?,
            places: HashMap::new(),
        };
        let mut decoder = Decoder::new(&self.layout);
        let mut buf = [0; PARITY_BLOCK_LEN];
        let mut end = 0;
        for (group, _) in self.hurt(damage) {
            for member in 0..self.layout.members() {
                let Some(block) = self.layout.member(group, member) else {
                    decoder.member(member, &[0; PARITY_BLOCK_LEN]);
                    continue;
                };
                if damage.is_bad[block as usize] {
                    continue;
                }
                match self.blocks.read(block, &mut buf) {
                    Ok(()) => decoder.member(member, &buf),
                    Err(error) if error.is_shortage() => return Err(error.into()),
                    Err(_) => return Ok(None),
                }
            }
            let spares = self.parity.spares(&self.layout, group)?;
            for (number, spare) in (0..).zip(&spares) {
                if let Some(spare) = spare {
                    decoder.spare(number, spare);
                }
            }
            for (member, bytes) in decoder.finish() {
                let block = self.layout.member(group, member);
                computed.places.extend(block.map(|block| (block, end)));
                computed.file.write(&bytes)?;
                end += PARITY_BLOCK_LEN as u64;
            }
        }
        Ok(Some(computed))
    }

    /// Writes the pack anew, and looks whether it is the one that it was.
    fn put_together(&self, damage: &Damage, computed: &Computed) -> Result<Rebuild, PackError> {
        let mut upload = self.storage.upload(self.session)?;
        let mut hasher = blake3::Hasher::new();
        let mut buf = [0; PARITY_BLOCK_LEN];
        let mut is_readable = true;
        self.blocks.for_each(|number, block| {
            let bytes = match (computed.places.get(&number), block) {
                (Some(place), _) => {
                    computed.file.read_at(*place, &mut buf)?;
                    &buf
                }
                (None, Ok(block)) => block,
                (None, Err(error)) if error.is_shortage() => return Err(error.into()),
                (None, Err(_)) => {
                    is_readable = false;
                    return Ok(());
                }
            };
            let bytes = &bytes[..self.layout.block_len(number)];
            hasher.update(bytes);
            Ok(upload.write(bytes)?)
        })?;
        if !is_readable || hasher.finalize() != *self.pack.as_bytes() {
            let why = "what its parity gives does not have the hash that is its name";
            return Ok(Rebuild::Not(why.to_owned()));
        }
        Ok(Rebuild::Done(Rebuilt {
            pack: self.pack,
            session: self.session,
            blocks: damage.of_group.iter().sum(),
            upload,
        }))
    }
}
