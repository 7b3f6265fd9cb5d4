//! Exit codes, and what an error means to whoever called.

pub mod absent;
mod class;
mod document;
#[cfg(feature = "libvirt")]
mod domain;
pub mod repair;
pub mod resolve;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Error;
use cairn_engine::analyze::AnalyzeError;
use cairn_engine::backup::BackupError;
#[cfg(feature = "libvirt")]
use cairn_engine::domain::define::DefineError;
#[cfg(feature = "libvirt")]
use cairn_engine::domain::in_place::InPlaceError;
use cairn_engine::format::FormatError;
use cairn_engine::gc::GcError;
use cairn_engine::guest::tree::GuestError;
use cairn_engine::image::ImageError;
use cairn_engine::pack::PackError;
use cairn_engine::recipe::RecipeError;
use cairn_engine::repository::RepositoryError;
use cairn_engine::repository::reference::ParseRefError;
use cairn_engine::restore::RestoreError;
use cairn_engine::source::SourceError;
use cairn_engine::stats::StatsError;
use cairn_engine::storage::{Name, StorageError};
use cairn_engine::target::TargetError;
use cairn_engine::verify::VerifyError;

use crate::context::has_printed;
use crate::mount::error::MountError;
use crate::output::terminal::say;

/// The exit codes, for `--help`.
pub const TABLE: &str = "\
Exit codes:
  0    done
  1    failed; nothing was published
  2    wrong usage
  3    finished, with problems that were reported
  10   there is no repository
  11   locked by another process, or pinned by a domain
  12   the repository's format, or a feature it needs, is not supported
  13   damage was found
  14   wrong passphrase
  130  interrupted";

/// How a command ended. The numbers are the exit codes, and part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Everything was done.
    Done = 0,
    /// Nothing was published.
    Failed = 1,
    /// The command line asks for something that makes no sense.
    Usage = 2,
    /// Done, but something that was reported was not as it should be.
    Problems = 3,
    /// There is no repository at that place.
    NoRepository = 10,
    /// Another process is in the way, or a domain that counts on a snapshot.
    Locked = 11,
    /// A newer format, or a feature that this version does not have.
    Unsupported = 12,
    /// Stored bytes are not what was stored.
    Damage = 13,
    /// No key slot opens with this passphrase.
    WrongPassword = 14,
    /// Someone asked to stop.
    Interrupted = 130,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

/// What only the command line can get wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An argument, or a combination of arguments, makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A command that needs a repository was given none.
    #[error("no repository is given")]
    NoRepositoryGiven,
    /// A passphrase is needed, and there is no way to ask for one.
    #[error("a passphrase is needed, and there is no terminal to ask for it")]
    NoPassphrase,
    /// The two passphrases typed differ.
    #[error("the two passphrases are not the same")]
    PassphrasesDiffer,
    /// Something is to go that was not named beyond doubt, and nobody is there to be asked.
    #[error("{0}, and there is no terminal to ask whether that is meant")]
    NotConfirmed(String),
    /// Whoever was asked does not want it.
    #[error("nothing was done")]
    Declined,
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
}

/// Prints an error with its causes, and a hint where there is one, and returns the exit code. Who
/// asked for JSON gets a document on stdout, too, unless there is one already that tells it.
pub fn report(error: &Error, is_json: bool) -> ExitCode {
    let outcome = outcome_of(error);
    let (message, hint) = (one_line(error), hint_for(error));
    say(&format!("cairn: {message}"));
    if let Some(hint) = &hint {
        say(&format!("hint: {hint}"));
    }
    if is_json && !has_printed() {
        let class = class::of(error, outcome);
        document::print(&document::Failure {
            class,
            message,
            hint,
        });
    }
    outcome.into()
}

/// Prints what is wrong with a command line, or the help that it asks for, and returns the exit
/// code.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    let is_json = std::env::args_os().any(|arg| arg == "--json");
    // Who reads neither stdout nor stderr wants no words.
    drop(error.print());
    if is_json && error.use_stderr() {
        document::print(&document::Failure {
            class: "usage",
            message: document::message_of(error),
            hint: None,
        });
    }
    match error.use_stderr() {
        true => Outcome::Usage.into(),
        false => Outcome::Done.into(),
    }
}

/// Joins an error and its causes; a cause that only repeats what was said is left out.
pub fn one_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

/// Returns the errors from the outermost to the first cause. An engine's error that only passes
/// another on does not name it as its source, so it is opened here.
fn causes(error: &Error) -> impl Iterator<Item = Cause<'_>> {
    error.chain().map(innermost)
}

fn innermost(mut cause: Cause<'_>) -> Cause<'_> {
    while let Some(inner) = passed_on(cause) {
        cause = inner;
    }
    cause
}

fn passed_on(cause: Cause<'_>) -> Option<Cause<'_>> {
    #[cfg(feature = "libvirt")]
    if let Some(inner) = domain::passed_on(cause) {
        return Some(inner);
    }
    if let Some(inner) = repair::passed_on(cause) {
        return Some(inner);
    }
    if let Some(shared) = cause.downcast_ref::<Arc<PackError>>() {
        return Some(&**shared);
    }
    if let Some(shared) = cause.downcast_ref::<Arc<RepositoryError>>() {
        return Some(&**shared);
    }
    // An I/O error that carries another does not name it as its source either.
    if let Some(inner) = cause.downcast_ref().and_then(std::io::Error::get_ref) {
        return Some(inner);
    }
    #[cfg(feature = "libvirt")]
    match cause.downcast_ref() {
        Some(DefineError::Libvirt(inner)) => return Some(inner),
        Some(DefineError::Rewrite(inner)) => return Some(inner),
        Some(DefineError::Target(inner)) => return Some(inner),
        Some(DefineError::Source(inner)) => return Some(inner),
        _ => {}
    }
    #[cfg(feature = "libvirt")]
    match cause.downcast_ref() {
        Some(InPlaceError::Libvirt(inner)) => return Some(inner),
        Some(InPlaceError::Domain(inner)) => return Some(inner),
        Some(InPlaceError::Source(inner)) => return Some(inner),
        Some(InPlaceError::Image(inner)) => return Some(inner),
        Some(InPlaceError::Target(inner)) => return Some(inner),
        _ => {}
    }
    if let Some(GcError::Repository(inner)) = cause.downcast_ref() {
        return Some(inner);
    }
    let repository: Option<&RepositoryError> = match cause.downcast_ref() {
        Some(BackupError::Repository(inner)) => Some(inner),
        _ => match cause.downcast_ref() {
            Some(RestoreError::Repository(inner)) => Some(inner),
            Some(RestoreError::Target(inner)) => return Some(inner),
            _ => match (cause.downcast_ref(), cause.downcast_ref()) {
                (Some(VerifyError::Repository(inner)), _)
                | (_, Some(StatsError::Repository(inner))) => Some(inner),
                _ => None,
            },
        },
    };
    if let Some(inner) = repository {
        return Some(inner);
    }
    match cause.downcast_ref() {
        Some(RepositoryError::Storage(inner)) => return Some(inner),
        Some(RepositoryError::Pack(inner)) => return Some(inner),
        Some(RepositoryError::Index(inner)) => return Some(inner),
        _ => {}
    }
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(PackError::Storage(inner)), _) => Some(inner),
        (_, Some(AnalyzeError::Source(inner))) => Some(inner),
        _ => None,
    }
}

/// Returns the exit code of the first error in the chain that has one of its own.
fn outcome_of(error: &Error) -> Outcome {
    causes(error)
        .find_map(outcome_of_cause)
        .unwrap_or(Outcome::Failed)
}

fn outcome_of_cause(cause: Cause<'_>) -> Option<Outcome> {
    if is_cancelled(cause) {
        return Some(Outcome::Interrupted);
    }
    #[cfg(feature = "libvirt")]
    if let Some(outcome) = domain::outcome(cause) {
        return Some(outcome);
    }
    let own = absent::outcome(cause).or_else(|| repair::outcome(cause));
    if let Some(outcome) = own.or_else(|| resolve::outcome(cause)) {
        return Some(outcome);
    }
    if let Some(CliError::Declined) = cause.downcast_ref() {
        return Some(Outcome::Interrupted);
    }
    if cause.is::<CliError>() || cause.is::<ParseRefError>() {
        return Some(Outcome::Usage);
    }
    if let Some(error) = cause.downcast_ref() {
        return mount_outcome(error);
    }
    if cause.downcast_ref().is_some_and(TargetError::is_in_use) {
        return Some(Outcome::Locked);
    }
    if let Some(SourceError::Spec { .. }) = cause.downcast_ref() {
        return Some(Outcome::Usage);
    }
    if let Some(SourceError::InUse { .. }) = cause.downcast_ref() {
        return Some(Outcome::Locked);
    }
    if cause.is::<SourceError>() {
        // A source is not the repository: a fault of an image is a failed backup, not damage.
        return Some(Outcome::Failed);
    }
    if let Some(BackupError::NoParent { .. } | BackupError::Manifest(_)) = cause.downcast_ref() {
        return Some(Outcome::Usage);
    }
    if let Some(error) = cause.downcast_ref::<GcError>() {
        return error.is_damage().then_some(Outcome::Damage);
    }
    if let Some(error) = cause.downcast_ref::<RecipeError>() {
        return error.is_damage().then_some(Outcome::Damage);
    }
    if let Some(error) = cause.downcast_ref::<ImageError>() {
        return error.is_damage().then_some(Outcome::Damage);
    }
    if let Some(error) = cause.downcast_ref() {
        return repository_outcome(error);
    }
    if let Some(error) = cause.downcast_ref::<PackError>() {
        return error.is_damage().then_some(Outcome::Damage);
    }
    if let Some(error) = cause.downcast_ref() {
        return storage_outcome(error);
    }
    cause.downcast_ref().map(format_outcome)
}

fn is_cancelled(cause: Cause<'_>) -> bool {
    matches!(cause.downcast_ref(), Some(BackupError::Cancelled))
        || matches!(cause.downcast_ref(), Some(RestoreError::Cancelled))
        || matches!(cause.downcast_ref(), Some(VerifyError::Cancelled))
        || matches!(cause.downcast_ref(), Some(AnalyzeError::Cancelled))
        || matches!(cause.downcast_ref(), Some(GcError::Cancelled))
        || matches!(cause.downcast_ref(), Some(StatsError::Cancelled))
        || matches!(cause.downcast_ref(), Some(SourceError::Cancelled))
        || is_cancelled_domain(cause)
}

#[cfg(feature = "libvirt")]
fn is_cancelled_domain(cause: Cause<'_>) -> bool {
    matches!(cause.downcast_ref(), Some(InPlaceError::Cancelled))
}

#[cfg(not(feature = "libvirt"))]
fn is_cancelled_domain(_: Cause<'_>) -> bool {
    false
}

fn mount_outcome(error: &MountError) -> Option<Outcome> {
    match error {
        MountError::NotRoot => Some(Outcome::Usage),
        MountError::Busy { .. } | MountError::Mounted { .. } => Some(Outcome::Locked),
        MountError::Interrupted => Some(Outcome::Interrupted),
        _ => None,
    }
}

fn repository_outcome(error: &RepositoryError) -> Option<Outcome> {
    match error {
        RepositoryError::NoRepository { .. } => Some(Outcome::NoRepository),
        RepositoryError::Pinned { .. } => Some(Outcome::Locked),
        RepositoryError::Protected(_) => Some(Outcome::Usage),
        RepositoryError::WrongPassphrase | RepositoryError::NotEncrypted => {
            Some(Outcome::WrongPassword)
        }
        error if error.is_unsupported() => Some(Outcome::Unsupported),
        error if error.is_damage() => Some(Outcome::Damage),
        _ => None,
    }
}

fn storage_outcome(error: &StorageError) -> Option<Outcome> {
    Some(match error {
        StorageError::NotFound(Name::Config) => Outcome::NoRepository,
        StorageError::Locked { .. } => Outcome::Locked,
        StorageError::Unsuitable { .. } => Outcome::Unsupported,
        StorageError::ShortRead { .. } | StorageError::TooLong { .. } => Outcome::Damage,
        _ => return None,
    })
}

fn format_outcome(error: &FormatError) -> Outcome {
    match error {
        FormatError::UnsupportedVersion { .. } | FormatError::UnsupportedFeature { .. } => {
            Outcome::Unsupported
        }
        _ => Outcome::Damage,
    }
}

/// Returns what to do about an error, where that is known.
fn hint_for(error: &Error) -> Option<String> {
    causes(error).find_map(hint_for_cause)
}

fn hint_for_cause(cause: Cause<'_>) -> Option<String> {
    if let Some(hint) = absent::hint(cause).or_else(|| resolve::hint(cause)) {
        return Some(hint);
    }
    #[cfg(feature = "libvirt")]
    if let Some(hint) = domain::hint(cause) {
        return Some(hint);
    }
    let hint = (cause.downcast_ref().and_then(usage_hint))
        .or_else(|| cause.downcast_ref().and_then(repository_hint))
        .or_else(|| cause.downcast_ref().and_then(storage_hint))
        .or_else(|| cause.downcast_ref().and_then(gc_hint))
        .or_else(|| repair::hint(cause))
        .or_else(|| cause.downcast_ref().and_then(source_hint))
        .or_else(|| cause.downcast_ref().and_then(backup_hint))
        .or_else(|| cause.downcast_ref().and_then(mount_hint))
        .or_else(|| cause.downcast_ref().and_then(target_hint))
        .or_else(|| cause.downcast_ref().and_then(guest_hint))
        .or_else(|| repair::damage_hint(cause))
        .or_else(|| domain_hint(cause));
    hint.map(str::to_owned)
}

fn usage_hint(error: &CliError) -> Option<&'static str> {
    match error {
        CliError::NoRepositoryGiven => Some("give -r REPO, or set CAIRN_REPOSITORY"),
        CliError::NotConfirmed(_) => Some("--yes says so; --dry-run shows what would happen"),
        CliError::NoPassphrase => {
            Some("give --password-file FILE, or set CAIRN_PASSWORD or CAIRN_PASSWORD_COMMAND")
        }
        _ => None,
    }
}

fn repository_hint(error: &RepositoryError) -> Option<&'static str> {
    match error {
        RepositoryError::NoRepository { .. } => {
            Some("look at how it is spelt, and whether its disk is mounted")
        }
        RepositoryError::NoPrivateFolder { .. } => {
            Some("set XDG_CACHE_HOME or TMPDIR to a folder that can be written")
        }
        RepositoryError::Protected(_) => Some("`cairn unprotect` ends that"),
        RepositoryError::NotEncrypted => Some(
            "do not trust it if you encrypted it; else leave CAIRN_PASSWORD and \
             --password-file out",
        ),
        RepositoryError::Downgraded { .. } => {
            Some("do not trust it: all that is stored there would be stored in the clear")
        }
        RepositoryError::ConfigForged
        | RepositoryError::Document {
            object: Name::Config,
            source: FormatError::Malformed { .. } | FormatError::BadDocument { .. },
        } => Some("restore `config` from a copy before you go on"),
        error if error.is_unsupported() => Some("a newer cairn made it: use that one"),
        error if error.is_damage() => Some(repair::DAMAGE_HINT),
        _ => None,
    }
}

fn storage_hint(error: &StorageError) -> Option<&'static str> {
    match error {
        StorageError::Locked { .. } => Some("another cairn is at work there; try again later"),
        StorageError::NoSpace { .. } => Some(
            "make room and try again, by other means or by `cairn prune` and then \
                 `cairn gc --grace 0`; what is stored already is used",
        ),
        StorageError::NotEmpty { .. } => Some("a repository needs a folder of its own"),
        error @ StorageError::Unwritable { .. } if error.is_denied() => Some(
            "its owner can give you the right to write; restore, ls, get, find, export, mount, \
             verify, stats and diff need none",
        ),
        error if error.is_denied() => Some(
            "that says nothing about what is stored. A repository that several users work with is \
             made by `cairn init --shared group`; `docs/format.md` says how to share this one",
        ),
        StorageError::Unwritable { .. } => Some(
            "a failing disk makes the kernel do that (`dmesg` tells): restore, ls, get, find, \
             export, mount, verify, stats and diff work all the same; to write, mount it writable",
        ),
        _ => None,
    }
}

fn gc_hint(error: &GcError) -> Option<&'static str> {
    match error {
        GcError::Missing(_) => Some(
            "`cairn verify` names them, and whom they hurt. `--despite-missing` goes on without \
             them: nothing that is there and needed is deleted",
        ),
        error if error.is_damage() => {
            Some("nothing was deleted. `cairn verify` names what is damaged, and whom it hurts")
        }
        _ => None,
    }
}

fn source_hint(error: &SourceError) -> Option<&'static str> {
    match error {
        SourceError::NotAllowed {
            role: "data file", ..
        } => Some("add `,data-file=allow` to let the image name it"),
        SourceError::NotAllowed { .. } => Some("add `,backing=allow` to let the image name it"),
        SourceError::InUse { .. } => Some(
            "stop who has it open. `cairn backup VM` without --disk backs up a running domain of \
             libvirt; with --disk, `--if-written mark` reads the image all the same",
        ),
        SourceError::Bitmap { .. } => {
            Some("leave `,bitmap=` out to read everything; only what is new is stored all the same")
        }
        _ => None,
    }
}

fn backup_hint(error: &BackupError) -> Option<&'static str> {
    match error {
        BackupError::Written { .. } => Some(
            "stop who writes, read a snapshot of the storage, or back the libvirt domain up \
             without --disk; `--if-written mark` publishes it all the same, with a mark",
        ),
        _ => None,
    }
}

fn mount_hint(error: &MountError) -> Option<&'static str> {
    match error {
        MountError::NotRoot => Some("`cairn ls` and `cairn get` read single files without root"),
        MountError::Busy { .. } => Some("`cairn umount --lazy` unmounts what is in use"),
        MountError::Mounted { .. } => Some("`cairn umount` unmounts it"),
        _ => None,
    }
}

fn target_hint(error: &TargetError) -> Option<&'static str> {
    match error {
        TargetError::Exists { .. } | TargetError::WouldOverwriteDevice { .. } => {
            Some("--force overwrites it")
        }
        _ => None,
    }
}

fn guest_hint(error: &GuestError) -> Option<&'static str> {
    match error {
        GuestError::NoFileSystem { hint, .. } => *hint,
        GuestError::Unsupported { .. } => {
            Some("export the snapshot over NBD and let the kernel read it")
        }
        _ => None,
    }
}

#[cfg(feature = "libvirt")]
fn domain_hint(cause: Cause<'_>) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref() {
        return in_place_hint(error);
    }
    match cause.downcast_ref()? {
        DefineError::UuidTaken { .. } => {
            Some("--new-ids gives the restored domain a UUID and MAC addresses of its own")
        }
        DefineError::NameTaken { is_same: true, .. } => Some(
            "--in-place sets its disks back; --force defines it anew where it is off; \
             --new-ids with another name makes a second one",
        ),
        DefineError::NameTaken { is_same: false, .. } => Some("give another name"),
        DefineError::NoDomain => Some("--domain-xml FILE gives it one"),
        DefineError::NotOff { .. } => Some("shut it down first"),
        _ => None,
    }
}

#[cfg(feature = "libvirt")]
fn in_place_hint(error: &InPlaceError) -> Option<&'static str> {
    match error {
        InPlaceError::NotOff { .. } => {
            Some("shut it down first, or make a second one with --define NAME --new-ids")
        }
        InPlaceError::SavedMemory { .. } => {
            Some("start it and shut it down, or drop the memory with `virsh managedsave-remove`")
        }
        InPlaceError::Larger { .. } => {
            Some("restore it to another file with --to: cutting a disk could lose data")
        }
        InPlaceError::HalfDone(_) => Some("run the same command again: it finishes what was begun"),
        _ => None,
    }
}

#[cfg(not(feature = "libvirt"))]
fn domain_hint(_: Cause<'_>) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use cairn_engine::id::SnapshotId;
    use cairn_engine::repository::reference::ResolveError;

    use super::*;

    fn outcome(error: impl std::error::Error + Send + Sync + 'static) -> Outcome {
        outcome_of(&Error::new(error).context("while doing something"))
    }

    #[test]
    fn errors_have_their_codes() {
        let unsupported = FormatError::UnsupportedVersion {
            what: "pack",
            found: 2,
            supported: 1,
        };
        assert_eq!(outcome(unsupported), Outcome::Unsupported);
        assert_eq!(
            outcome(FormatError::ChecksumMismatch { what: "footer" }),
            Outcome::Damage
        );
        assert_eq!(
            outcome(StorageError::NotFound(Name::Config)),
            Outcome::NoRepository
        );
        assert_eq!(
            outcome(StorageError::NotFound(Name::GcPlan)),
            Outcome::Failed
        );
        assert_eq!(
            outcome(StorageError::Locked { object: "l".into() }),
            Outcome::Locked
        );
        assert_eq!(
            outcome(RepositoryError::WrongPassphrase),
            Outcome::WrongPassword
        );
        assert_eq!(outcome(CliError::Usage("x".into())), Outcome::Usage);
        let pinned = RepositoryError::Pinned {
            snapshot: SnapshotId::from_bytes([1; 32]),
            pin: "a domain".to_owned(),
        };
        assert_eq!(outcome(pinned), Outcome::Locked);
        assert_eq!(outcome(BackupError::Cancelled), Outcome::Interrupted);
        assert_eq!(outcome(io::Error::other("x")), Outcome::Failed);
    }

    #[test]
    fn the_table_lists_every_code() {
        for outcome in [
            Outcome::Done,
            Outcome::Failed,
            Outcome::Usage,
            Outcome::Problems,
            Outcome::NoRepository,
            Outcome::Locked,
            Outcome::Unsupported,
            Outcome::Damage,
            Outcome::WrongPassword,
            Outcome::Interrupted,
        ] {
            let code = format!("  {} ", outcome as u8);
            assert!(TABLE.lines().any(|line| line.starts_with(&code)), "{code}");
        }
    }

    #[test]
    fn causes_follow_on_one_line() {
        let source = io::Error::other("no such device");
        let cause = StorageError::Io {
            op: "read",
            object: "config".into(),
            source,
        };
        let error = Error::new(cause).context("cannot open the repository");
        let line = "cannot open the repository: cannot read config: no such device";
        assert_eq!(one_line(&error), line);
    }

    #[test]
    fn hints_name_a_way_out() {
        let error = Error::new(ResolveError::NoSuch {
            reference: "x".into(),
        });
        assert!(hint_for(&error).is_some_and(|hint| hint.contains("cairn snapshots")));
        assert_eq!(hint_for(&Error::new(io::Error::other("x"))), None);
    }
}
