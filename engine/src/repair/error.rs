//! Why a repair stopped.

use std::io;

use crate::gc::{GcError, Waiting};
use crate::pack::PackError;
use crate::pool::NoThread;
use crate::recipe::RecipeError;
use crate::repository::RepositoryError;
use crate::verify::VerifyError;

/// A repair that stopped. Nothing was deleted, and no pack was set aside out of which something
/// whole was not moved before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Writers are at work, and may be building on what is damaged.
    #[error("{}", at_work(.0))]
    Writers(Vec<Waiting>),
    /// Sessions could not be looked at.
    #[error(transparent)]
    Sessions(#[from] GcError),
    /// What is lost could not be looked for.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A recipe could not be rebuilt.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A thread could not be started.
    #[error(transparent)]
    NoThread(#[from] NoThread),
    /// The threads that write packs could not be started.
    #[error("cannot start a thread")]
    NoPacker(#[source] io::Error),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl From<PackError> for RepairError {
    fn from(error: PackError) -> Self {
        RepositoryError::from(error).into()
    }
}

fn at_work(writers: &[Waiting]) -> String {
    let writers: Vec<String> = writers.iter().map(Waiting::to_string).collect();
    format!("writers are at work: {}", writers.join(", "))
}
