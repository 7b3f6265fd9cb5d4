//! `cairn key`: the passphrases of an encrypted repository.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use cairn_engine::crypto::Passphrase;
use cairn_engine::repository::{KeySlotInfo, Repository};

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::key::{KeyReport, KeySlot, KeysReport};
use crate::session;

const EXAMPLES: &str = "\
Examples:
  cairn key list
  cairn key add --label \"office safe\"
  cairn key passwd
  cairn key remove 3f2a9c1d

The passphrase that opens the repository comes from where it always does: --password-file or what
its help names. A new one comes from --new-password-file or a prompt. Removing a key keeps out who
learns its passphrase later, not who has copied the key's file and knows the passphrase already.";

/// Manage the passphrases of an encrypted repository
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What can be done with keys.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// List the keys
    List,
    /// Add a passphrase
    Add {
        /// What to call the key
        #[arg(long, default_value = "")]
        label: String,

        /// Read the new passphrase from the first line of FILE
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
    /// Remove a key; the last one stays
    Remove {
        /// Key to remove: its id or the first digits of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Change the passphrase that opened the repository
    Passwd {
        /// Read the new passphrase from the first line of FILE
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(args: &KeyArgs, context: &Context) -> Result<Outcome> {
    let (repository, current) = session::open_with_passphrase(context)?;
    let another = |file: Option<&Path>| -> Result<Passphrase> {
        Ok(session::passphrase(context.new_passphrase(file)?))
    };
    match &args.command {
        KeyCommand::List => {
            let opened = repository.slot_of(&current)?;
            let mut keys: Vec<KeySlot> = repository
                .key_slots()?
                .into_iter()
                .map(|KeySlotInfo { id, label, created }| KeySlot {
                    id,
                    label,
                    created,
                    current: id == opened,
                })
                .collect();
            keys.sort_by_key(|key| key.created);
            context.print(&KeysReport { keys })?;
        }
        KeyCommand::Add {
            label,
            new_password_file,
        } => {
            let passphrase = another(new_password_file.as_deref())?;
            let id = repository.add_key(&current, &passphrase, label)?;
            context.report(&KeyReport { done: "added", id })?;
        }
        KeyCommand::Remove { id } => {
            let id = find_slot(&repository, id)?;
            repository.remove_key(id)?;
            context.report(&KeyReport {
                done: "removed",
                id,
            })?;
        }
        KeyCommand::Passwd { new_password_file } => {
            let passphrase = another(new_password_file.as_deref())?;
            let id = repository.change_passphrase(&current, &passphrase)?;
            context.report(&KeyReport {
                done: "changed",
                id,
            })?;
        }
    }
    Ok(Outcome::Done)
}

/// Returns the one slot whose id begins with these digits.
fn find_slot(repository: &Repository, digits: &str) -> Result<cairn_engine::id::KeyId> {
    let slots = repository.key_slots()?;
    let mut found = slots
        .iter()
        .filter(|slot| slot.id.to_hex().starts_with(digits));
    match (digits.len() >= 4, found.next(), found.next()) {
        (true, Some(slot), None) => Ok(slot.id),
        (false, ..) => Err(CliError::Usage("give at least 4 digits of the key".to_owned()).into()),
        (_, None, _) => Err(CliError::Usage(format!("there is no key {digits}")).into()),
        _ => Err(CliError::Usage(format!("several keys begin with {digits}")).into()),
    }
}
