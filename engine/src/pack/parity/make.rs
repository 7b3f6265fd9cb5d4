//! Makes the parity of a pack that is there.

use super::blocks::{BlockChecks, Blocks};
use super::code::Encoder;
use crate::format::parity::{ParityDirectory, ParityHead, ParityLayout, encode_record};
use crate::id::{PackId, SessionId};
use crate::limits::PARITY_BLOCK_LEN;
use crate::pack::PackError;
use crate::storage::{Name, SharedStorage};

/// Makes the parity of a pack, in place of what parity it has. The pack must be whole, and durable:
/// parity without a pack is taken to be of one that was deleted.
///
/// # Durability
///
/// Durable on return.
pub fn make_parity(
    storage: &SharedStorage,
    session: SessionId,
    pack: PackId,
    layout: ParityLayout,
) -> Result<(), PackError> {
    let blocks = Blocks::new(storage, pack, layout);
    let mut checks = BlockChecks::new(pack);
    blocks.for_each(|_, block| {
        checks.update(block?);
        Ok(())
    })?;
    let directory = ParityDirectory {
        head: ParityHead { pack, layout },
        checks: checks.finish().1,
    };
    let mut upload = storage.upload(session)?;
    upload.write(&directory.encode())?;
    let mut encoder = Encoder::new(&layout);
    let mut buf = [0; PARITY_BLOCK_LEN];
    for group in 0..layout.groups() {
        for member in 0..layout.members() {
            match layout.member(group, member) {
                Some(block) => blocks.read(block, &mut buf)?,
                None => buf.fill(0),
            }
            encoder.add(&buf);
        }
        let mut records = Vec::new();
        for (spare, block) in (0..).zip(encoder.finish()) {
            let number = layout.spare_number(group, spare);
            records.extend(encode_record(pack, number, &block));
        }
        upload.write(&records)?;
    }
    upload.write(&directory.encode_mirrored())?;
    Ok(upload.replace(&Name::Parity(pack))?)
}
