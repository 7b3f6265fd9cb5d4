//! Exit codes and hints for what concerns libvirt's domains.

use cairn_engine::domain::DomainError;
use cairn_engine::domain::prove::ProveError;
use cairn_engine::source::libvirt::{LibvirtError, Reason};

use super::{Cause, Outcome};

/// Returns the cause that an error only passes on.
pub(super) fn passed_on(cause: Cause<'_>) -> Option<Cause<'_>> {
    match cause.downcast_ref() {
        Some(ProveError::Libvirt(inner)) => return Some(inner),
        Some(ProveError::Rewrite(inner)) => return Some(inner),
        Some(ProveError::Files(inner)) => return Some(inner),
        _ => {}
    }
    match cause.downcast_ref()? {
        DomainError::Libvirt(inner) => Some(inner),
        DomainError::Repository(inner) => Some(inner),
        DomainError::Backup(inner) => Some(inner),
        _ => None,
    }
}

/// Returns the exit code of an error that has one of its own.
pub(super) fn outcome(cause: Cause<'_>) -> Option<Outcome> {
    match cause.downcast_ref() {
        Some(ProveError::Cancelled) => return Some(Outcome::Interrupted),
        Some(ProveError::NotLocal { .. }) => return Some(Outcome::Usage),
        _ => {}
    }
    match cause.downcast_ref()? {
        DomainError::Cancelled => Some(Outcome::Interrupted),
        DomainError::Busy { .. } | DomainError::ForeignJob { .. } => Some(Outcome::Locked),
        DomainError::NoSuchDisk { .. }
        | DomainError::Transport { .. }
        | DomainError::NoTls { .. } => Some(Outcome::Usage),
        _ => None,
    }
}

/// Returns what to do about an error, where that is known.
pub(super) fn hint(cause: Cause<'_>) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<LibvirtError>() {
        let hint = match error.reason {
            Reason::Disconnected => "is libvirtd (or virtqemud) running? --connect names another",
            Reason::NoDomain => "`virsh list --all` lists domains; --disk backs up plain images",
            Reason::Denied => "run as root, or as a user in the group libvirt",
            _ => return None,
        };
        return Some(hint.to_owned());
    }
    if let Some(ProveError::NoRoom { .. }) = cause.downcast_ref() {
        return Some("make room, or name another folder with --dir".to_owned());
    }
    let hint = match cause.downcast_ref()? {
        DomainError::Busy { .. } => "`cairn cancel` ends it",
        DomainError::ForeignJob { .. } => "`virsh domjobabort` ends it, if it is yours to end",
        DomainError::NotIncremental { .. } => "leave --incremental out to read the disk whole",
        DomainError::NoScratch { .. } => {
            "make room, put scratch elsewhere with --scratch-dir, or want less with --scratch-min"
        }
        DomainError::NoTls { .. } => {
            "name a port that QEMU may listen on, and this side's certificates: --nbd-port PORT \
             --tls-certificates DIR"
        }
        DomainError::Remote { .. } => {
            "`ssh -o BatchMode=yes HOST true` must work, as the user that the URI names"
        }
        DomainError::ScratchInMemory { .. } => "--scratch-dir names a folder on a disk",
        DomainError::NotFrozen { .. } => {
            "--freeze auto goes on without the agent, --freeze suspend stops the guest instead"
        }
        DomainError::RunFolderDenied { folder, .. } => return Some(run_folder_hint(folder)),
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the lines that let QEMU make its socket under AppArmor and SELinux.
fn run_folder_hint(folder: &std::path::Path) -> String {
    let parent = folder.parent().unwrap_or(folder).display();
    format!(
        "AppArmor: add `{parent}/** rwk,` to /etc/apparmor.d/local/abstractions/libvirt-qemu and \
         start the domain anew. SELinux: `semanage fcontext -a -t qemu_var_run_t \
         '{parent}(/.*)?'` and `restorecon -Rv {parent}`. Else QEMU's user has no way into \
         {parent}: every folder on the way needs the right x for others"
    )
}
