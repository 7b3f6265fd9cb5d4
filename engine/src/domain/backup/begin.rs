//! The moment at which a job begins: the guest held still, the hooks, and what is read meanwhile.

use jiff::Timestamp;

use super::extras::Extras;
use super::view::Run;
use crate::domain::DomainError;
use crate::domain::freeze::{self, Freeze, Held, Stillness};
use crate::domain::hook::{self, Phase};
use crate::domain::run_folder::RunFolder;
use crate::format::domain::Consistency;
use crate::source::libvirt::LibvirtError;
use crate::source::libvirt::xml::SecurityLabel;

/// What a moment gave.
pub(super) struct Moment {
    pub(super) consistency: Consistency,
    pub(super) extras: Extras,
    pub(super) time: Timestamp,
    pub(super) frozen_ms: Option<u64>,
    pub(super) warnings: Vec<String>,
}

/// Holds the guest still as the user wants it, lets `begin` begin the job, and lets the guest go
/// on, whatever comes of it.
pub(super) fn at_one_moment(
    run: &Run<'_>,
    folder: &mut RunFolder,
    begin: impl FnMut() -> Result<(), LibvirtError>,
) -> Result<Moment, DomainError> {
    at_one_moment_as(run.options.freeze, run, folder, begin)
}

/// Does the same, and holds the guest still in a way that need not be the one that the user wants.
pub(super) fn at_one_moment_as(
    freeze: Freeze,
    run: &Run<'_>,
    folder: &mut RunFolder,
    mut begin: impl FnMut() -> Result<(), LibvirtError>,
) -> Result<Moment, DomainError> {
    let options = run.options;
    let mut warnings = Vec::new();
    let held = freeze::choose(run.domain, freeze, run.state)?;
    if held.is_none() && freeze == Freeze::Auto && run.description.has_agent {
        warnings
            .push("the guest agent does not answer: the file systems are not frozen".to_owned());
    }
    hook::run(&options.hooks, Phase::BeforeFreeze, run.told)?;
    let still = match held {
        Some(held) => match hold_still(run, folder, held) {
            Ok(still) => Some(still),
            Err(error) if freeze == Freeze::Auto => {
                warnings.push(format!("{error}: the backup is as after a power cut"));
                None
            }
            Err(error) => return Err(error),
        },
        None => None,
    };
    hook::run(&options.hooks, Phase::BeforeJob, run.told)?;
    begin().map_err(|error| explain(error, folder, run.description.label))?;
    let time = Timestamp::now();
    let mut extras = Extras::read(run);
    let mut consistency = match held {
        Some(Held::Frozen) if still.is_some() => Consistency::Agent,
        Some(Held::Suspended) if still.is_some() => Consistency::Suspend,
        _ => Consistency::Crash,
    };
    let let_go = still.map(Stillness::end);
    if let_go.is_some_and(|let_go| !let_go.was_still) {
        consistency = Consistency::Crash;
        warnings.push("the guest was let go before the job began: as after a power cut".to_owned());
    }
    folder.update(|record| record.frozen = None)?;
    warnings.extend(extras.read_late(run));
    hook::run(&options.hooks, Phase::AfterFreeze, run.told)?;
    let window = let_go.map(|let_go| let_go.window.as_millis());
    Ok(Moment {
        consistency,
        extras,
        time,
        frozen_ms: window.map(|window| u64::try_from(window).unwrap_or(u64::MAX)),
        warnings,
    })
}

fn hold_still(run: &Run<'_>, folder: &mut RunFolder, held: Held) -> Result<Stillness, DomainError> {
    folder.update(|record| record.frozen = Some(held.name().to_owned()))?;
    Stillness::begin(&run.options.guard, run.domain, held)
}

/// Tells a refused socket from all else: what to do about it is known.
fn explain(error: LibvirtError, folder: &RunFolder, label: Option<SecurityLabel>) -> DomainError {
    let message = &error.message;
    let is_denied = message.contains("Permission denied") || message.contains("socket");
    match is_denied && message.contains(&*folder.path().to_string_lossy()) {
        true => DomainError::RunFolderDenied {
            folder: folder.path().to_owned(),
            user: label.map(|label| label.uid),
            message: error.message,
        },
        false => error.into(),
    }
}
