//! Keyed identities and authenticated encryption of everything stored. Specified in
//! `docs/format.md`, "Keys" and "Sealing".
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod keys;
mod seal;
mod secret;
mod slots;

pub use keys::Keys;
pub use seal::{FileSeal, TAG_LEN};
pub use secret::{MasterKey, Passphrase};
pub use slots::{UnlockError, create_slot, unlock};
