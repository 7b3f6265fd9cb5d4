//! `cairn init`: a new repository.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result as AnyResult;
use cairn_engine::chunker::ChunkerSettings;
use cairn_engine::compress::Compression;
use cairn_engine::limits::{
    CHUNK_AVG_DEFAULT, CHUNK_AVG_MAX, CHUNK_AVG_MIN, FRAME_LEN_DEFAULT, FRAME_LEN_RANGE,
    PACK_LEN_DEFAULT, PACK_LEN_RANGE,
};
use cairn_engine::repository::{InitOptions, Repository};
use cairn_engine::retention::Grace;
use cairn_engine::storage::{Folder, SharedStorage};

use crate::commands::verify::Percent;
use crate::context::Context;
use crate::exit::absent::Taken;
use crate::exit::{CliError, Outcome};
use crate::output::init::InitReport;
use crate::output::size;
use crate::session;

const EXAMPLES: &str = "\
Examples:
  cairn init -r /backup/repository
  cairn init -r /backup/repository --encrypt
  cairn init -r /backup/repository --chunk-size 64KiB --compression zstd:3 --grace 2w
  cairn init -r /backup/repository --parity 5%
  cairn init -r /backup/repository --shared group

None of this can be changed later. Smaller chunks find more that is equal, and cost more memory and
time: from about 10 TB of unique data on, 64KiB is the better size.";

/// Make a new repository
///
/// The folder must not exist, or be empty.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// Average size of chunks: a power of two from 4KiB to 1MiB
    #[arg(long, value_name = "SIZE", default_value_t = ChunkSize(CHUNK_AVG_DEFAULT))]
    pub chunk_size: ChunkSize,

    /// Compression of what is stored: `zstd:LEVEL` with levels -5 to 19, or `none`
    #[arg(long, value_name = "CODEC", default_value_t = Compression::Zstd { level: 1 })]
    pub compression: Compression,

    /// Plain size that frames are filled to: chunks are compressed and read by frames
    ///
    /// A read of a few bytes of a disk that is served decodes a whole frame. Larger frames store a
    /// little less, and make such reads slower in proportion.
    #[arg(long, value_name = "SIZE", default_value_t = FrameSize(FRAME_LEN_DEFAULT))]
    pub frame_size: FrameSize,

    /// Stored size at which packs, the files of a repository, are sealed
    ///
    /// Smaller ones mean more files, and less to be moved when something in them is forgotten.
    #[arg(long, value_name = "SIZE", default_value_t = PackSize(PACK_LEN_DEFAULT))]
    pub pack_size: PackSize,

    /// For how long forgotten snapshots rest, and can be brought back: such as 36h, 7d, 2w or 0
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub grace: Grace,

    /// Store so much parity with every pack, from which `cairn repair` heals damage
    ///
    /// In percent of the pack, a whole number [default: none]. A burst of damage up to that length
    /// heals without a second copy, and so do single blocks of 4 KiB, such as bad sectors.
    #[arg(long, value_name = "PERCENT")]
    pub parity: Option<ParityShare>,

    /// Let a group of users work with the repository: `group`
    ///
    /// As git has it: everything below the folder is the folder's group's, too. Without it, the
    /// mode of a folder that is there decides: one that is setgid is shared with its group. Encrypt
    /// what not all of them may read.
    #[arg(long, value_name = "WITH", value_parser = ["group"])]
    pub shared: Option<String>,

    /// Seal everything that is stored under a key that a passphrase opens
    #[arg(long)]
    pub encrypt: bool,
}

/// An average chunk size that chunking accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSize(pub u32);

impl std::fmt::Display for ChunkSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&size::exact(u64::from(self.0)).replace(' ', ""))
    }
}

impl FromStr for ChunkSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "a power of two from 4KiB to 1MiB is wanted".to_owned();
        let bytes = u32::try_from(size::parse(text)?).map_err(|_| refused())?;
        let accepted = (CHUNK_AVG_MIN..=CHUNK_AVG_MAX).contains(&bytes) && bytes.is_power_of_two();
        accepted.then_some(Self(bytes)).ok_or_else(refused)
    }
}

/// A length at which packs can be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSize(pub u64);

impl std::fmt::Display for PackSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&size::exact(self.0).replace(' ', ""))
    }
}

impl FromStr for PackSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = Some(size::parse(text)?);
        let accepted = bytes.filter(|bytes| PACK_LEN_RANGE.contains(bytes));
        accepted
            .map(Self)
            .ok_or_else(|| "a size from 1MiB to 512MiB is wanted".to_owned())
    }
}

/// How much parity a pack can have, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityShare(pub u8);

impl FromStr for ParityShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share: Option<Percent> = text.parse().ok();
        let accepted = (1..=100).find(|percent| share == Some(Percent(f64::from(*percent))));
        let wanted = "a whole number from 1 to 100 is wanted";
        accepted.map(Self).ok_or_else(|| wanted.to_owned())
    }
}

/// A length that frames can be filled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSize(pub u32);

impl std::fmt::Display for FrameSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&size::exact(u64::from(self.0)).replace(' ', ""))
    }
}

impl FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = u32::try_from(size::parse(text)?).ok();
        let accepted = bytes.filter(|bytes| FRAME_LEN_RANGE.contains(bytes));
        accepted
            .map(Self)
            .ok_or_else(|| "a size from 16KiB to 1MiB is wanted".to_owned())
    }
}

/// Runs the command.
pub fn run(args: &InitArgs, context: &Context) -> AnyResult<Outcome> {
    let settings = InitOptions {
        chunker: ChunkerSettings::new(args.chunk_size.0)?,
        compression: args.compression,
        frame_len: args.frame_size.0,
        pack_len: args.pack_size.0,
        grace_seconds: Some(args.grace.seconds()),
        parity_percent: args.parity.map(|share| share.0),
    };
    if !args.encrypt && context.is_passphrase_given() {
        let text = "a passphrase is given, but not --encrypt: nothing would be encrypted";
        return Err(CliError::Usage(text.to_owned()).into());
    }
    let passphrase = match args.encrypt {
        true => Some(session::passphrase(context.first_passphrase()?)),
        false => None,
    };
    let place = context.repository()?;
    let made = match args.shared {
        Some(_) => Folder::create_shared_at(&place),
        None => Folder::create_at(&place),
    };
    let storage: SharedStorage = Arc::new(made.map_err(|error| Taken::look(&place, error))?);
    let options = session::open_options(context)?;
    let repository = Repository::init(storage, &settings, passphrase.as_ref(), &options)?;
    context.report(&InitReport {
        repository_id: repository.config().repository_id,
        location: repository.storage().location(),
        chunk_size: u64::from(args.chunk_size.0),
        compression: args.compression.to_string(),
        grace_seconds: args.grace.seconds(),
        parity_percent: args.parity.map(|share| share.0),
        encrypted: args.encrypt,
    })?;
    if args.encrypt {
        context.remark("keep the passphrase safe: without it nothing can ever be restored");
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_is_a_whole_percentage() {
        for (text, percent) in [("5%", 5), ("5", 5), ("1 %", 1), ("100%", 100)] {
            assert_eq!(text.parse(), Ok(ParityShare(percent)));
        }
        for text in ["0", "0.5%", "2.5", "101", "-1", "x", "", "%"] {
            assert!(text.parse::<ParityShare>().is_err(), "{text}");
        }
    }

    #[test]
    fn chunk_sizes_are_powers_of_two_within_bounds() {
        assert_eq!("16KiB".parse(), Ok(ChunkSize(16 * 1024)));
        assert_eq!("1MiB".parse(), Ok(ChunkSize(1024 * 1024)));
        assert_eq!(
            ChunkSize(16 * 1024).to_string().parse(),
            Ok(ChunkSize(16 * 1024))
        );
        for text in ["2KiB", "2MiB", "20KiB", "0", "8GiB", "x"] {
            assert!(text.parse::<ChunkSize>().is_err(), "{text}");
        }
    }
}
