//! Exit codes and hints for what concerns libvirt's domains.

use cairn_engine::domain::DomainError;
use cairn_engine::domain::define::DefineError;
use cairn_engine::domain::memory::MemoryError;
use cairn_engine::domain::prove::ProveError;
use cairn_engine::source::libvirt::{LibvirtError, Reason};

use super::{Cause, Outcome};

/// Returns the cause that an error only passes on.
pub(super) fn passed_on(cause: Cause<'_>) -> Option<Cause<'_>> {
    if let Some(MemoryError::Define(inner)) = cause.downcast_ref() {
        return Some(inner);
    }
    if let Some(DefineError::Domain(inner)) = cause.downcast_ref() {
        return Some(inner);
    }
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
    if let Some(error) = cause.downcast_ref() {
        return memory_outcome(error);
    }
    if let Some(DefineError::NotStarted { .. }) = cause.downcast_ref() {
        return Some(Outcome::Problems);
    }
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

fn memory_outcome(error: &MemoryError) -> Option<Outcome> {
    match error {
        MemoryError::NoMemory | MemoryError::OtherDomain { .. } => Some(Outcome::Usage),
        // All is there but the guest's going on.
        MemoryError::NotStarted { .. } => Some(Outcome::Problems),
        _ => None,
    }
}

fn memory_hint(error: &MemoryError) -> Option<&'static str> {
    match error {
        MemoryError::NoMemory => Some("--define NAME restores it without"),
        MemoryError::OtherDomain { .. } => {
            Some("--define NAME --new-ids restores its disks as another domain, which boots anew")
        }
        MemoryError::NotStarted { .. } => Some(
            "its memory fits a machine and a processor like those that it was saved on alone; \
             `virsh start` boots it anew",
        ),
        _ => None,
    }
}

/// Returns what to do about an error, where that is known.
pub(super) fn hint(cause: Cause<'_>) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<LibvirtError>() {
        let hint = match error.reason {
            Reason::Disconnected => "is libvirtd (or virtqemud) running? --connect names another",
            Reason::NotInstalled => {
                "domains need libvirt 6.0 or newer on this machine too: install its client library \
                 (libvirt0, libvirt-libs); --disk backs up plain images without it"
            }
            Reason::NoDomain => "`virsh list --all` lists domains; --disk backs up plain images",
            Reason::Denied => "run as root, or as a user in the group libvirt",
            _ => return None,
        };
        return Some(hint.to_owned());
    }
    if let Some(error) = cause.downcast_ref() {
        return memory_hint(error).map(str::to_owned);
    }
    if let Some(ProveError::NoRoom { .. }) = cause.downcast_ref() {
        return Some("make room, or name another folder with --dir".to_owned());
    }
    let hint = match cause.downcast_ref()? {
        DomainError::HalfRestored { domain } => {
            return Some(format!("`cairn recover {domain}` finishes it"));
        }
        DomainError::Overlay { .. } => {
            "`cairn recover` commits it back once that is out of the way; until then do not delete \
             the overlay"
        }
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
        DomainError::RunFolderDenied { folder, user, .. } => {
            return Some(run_folder_hint(folder, *user));
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the lines that let QEMU make its socket under AppArmor and SELinux.
fn run_folder_hint(folder: &std::path::Path, user: Option<u32>) -> String {
    let parent = folder.parent().unwrap_or(folder).display();
    let whose = match user {
        Some(user) => format!(
            "libvirt says that QEMU runs as user {user}, and the socket's folder was that user's. \
             If `ps -o user= -C qemu-system-x86_64` tells another, name it in the domain, with \
             numbers: <seclabel type='static' model='dac' relabel='yes'>\
             <label>+UID:+GID</label></seclabel>"
        ),
        None => "libvirt does not say which user QEMU runs as: set `user` and `group` in \
                 /etc/libvirt/qemu.conf and start libvirtd and the domain anew"
            .to_owned(),
    };
    format!(
        "AppArmor: add `{parent}/**/nbd.sock rwk,` to \
         /etc/apparmor.d/local/abstractions/libvirt-qemu and start the domain anew. \
         SELinux: `semanage fcontext -a -t qemu_var_run_t \
         '{parent}(/.*)?'` and `restorecon -Rv {parent}`. Else QEMU's user has no way into \
         {parent}: every folder on the way needs the right x for others. {whose}"
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cairn_engine::domain::in_place::InPlaceError;

    use super::super::{hint_for, outcome_of};
    use super::*;

    fn told(error: impl std::error::Error + Send + Sync + 'static) -> (Outcome, String) {
        let error = anyhow::Error::new(error);
        (outcome_of(&error), hint_for(&error).unwrap_or_default())
    }

    #[test]
    fn errors_of_domains_have_their_codes_and_hints() {
        let name = || "web1".to_owned();
        let (code, hint) = told(DomainError::HalfRestored { domain: name() });
        assert_eq!(
            (code, &*hint),
            (Outcome::Failed, "`cairn recover web1` finishes it")
        );
        let overlay = || DomainError::Overlay {
            target: "vda".to_owned(),
            path: PathBuf::from("/o"),
            reason: "no space".to_owned(),
        };
        let (code, hint) = told(overlay());
        assert!(
            code == Outcome::Failed && hint.contains("cairn recover"),
            "{hint}"
        );
        assert_eq!(told(InPlaceError::Domain(overlay())).1, hint);
        let busy = || DomainError::Busy { domain: name() };
        let (code, hint) = told(DefineError::Domain(busy()));
        assert!(
            code == Outcome::Locked && hint.contains("cairn cancel"),
            "{hint}"
        );
        let denied = |user| DomainError::RunFolderDenied {
            folder: PathBuf::from("/run/cairn/0"),
            user,
            message: "no".to_owned(),
        };
        let hint = told(denied(Some(107))).1;
        assert!(
            hint.contains("user 107") && hint.contains("`/run/cairn/**/nbd.sock rwk,`"),
            "{hint}"
        );
        assert!(told(denied(None)).1.contains("/etc/libvirt/qemu.conf"));
        let (code, hint) = told(MemoryError::NoMemory);
        assert!(
            code == Outcome::Usage && hint.contains("--define"),
            "{hint}"
        );
        let (code, hint) = told(MemoryError::OtherDomain { name: name() });
        assert!(
            code == Outcome::Usage && hint.contains("--new-ids"),
            "{hint}"
        );
        let (code, hint) = told(MemoryError::NotStarted {
            name: name(),
            source: LibvirtError {
                call: "restore",
                reason: Reason::Other,
                message: "no".to_owned(),
            },
        });
        assert!(
            code == Outcome::Problems && hint.contains("virsh start"),
            "{hint}"
        );
        let define = MemoryError::Define(DefineError::NotOff { name: name() });
        assert_eq!(told(define).1, "shut it down first");
        let define = MemoryError::Define(DefineError::Domain(busy()));
        assert_eq!(told(define).0, Outcome::Locked);
    }
}
