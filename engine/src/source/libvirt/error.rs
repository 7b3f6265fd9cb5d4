//! What libvirt refuses, and why.

use virt::error::Error;
use virt::sys;

/// A call that libvirt refused, or that did not reach it.
#[derive(Debug, thiserror::Error)]
#[error("libvirt cannot {call}: {message}")]
pub struct LibvirtError {
    /// What was asked for, as a verb phrase: `begin a backup job`.
    pub call: &'static str,
    /// The reason, as far as something depends on it.
    pub reason: Reason,
    /// libvirt's own words.
    pub message: String,
}

/// Why a call failed, as far as something depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The connection is gone, or could not be made.
    Disconnected,
    /// libvirt's client library is not on this machine, or is too old.
    NotInstalled,
    /// There is no such domain.
    NoDomain,
    /// There is no such checkpoint.
    NoCheckpoint,
    /// A checkpoint's bitmap is missing or broken.
    CheckpointInconsistent,
    /// No backup job is at work.
    NoBackup,
    /// The guest agent does not answer.
    AgentSilent,
    /// The domain has no guest agent, or not what was asked of it.
    Unsupported,
    /// The state of the domain does not allow it: it is off, or another job is at work.
    Invalid,
    /// Another job holds the domain.
    Busy,
    /// The driver cannot do this at all.
    NoSupport,
    /// Who asks may not.
    Denied,
    /// Something else; the message tells.
    Other,
}

impl LibvirtError {
    /// Takes over what libvirt said about a call.
    pub(super) fn of(call: &'static str, error: &Error) -> Self {
        Self {
            call,
            reason: match error.domain().to_raw() {
                // What the connection itself says: the socket is closed, nobody listens.
                sys::VIR_FROM_RPC => Reason::Disconnected,
                _ => reason(error.code().to_raw()),
            },
            message: error.message().to_owned(),
        }
    }

    /// Takes over what libvirt said last on this thread.
    pub(super) fn last(call: &'static str) -> Self {
        Self::of(call, &Error::last_error())
    }

    /// Refuses what libvirt could not be asked.
    pub(super) fn invalid(call: &'static str, message: &str) -> Self {
        Self {
            call,
            reason: Reason::Other,
            message: message.to_owned(),
        }
    }

    /// Returns whether the connection is gone: a new one may serve.
    pub fn is_disconnected(&self) -> bool {
        self.reason == Reason::Disconnected
    }
}

fn reason(code: sys::virErrorNumber) -> Reason {
    match code {
        sys::VIR_ERR_RPC | sys::VIR_ERR_INVALID_CONN | sys::VIR_ERR_NO_CONNECT => {
            Reason::Disconnected
        }
        sys::VIR_ERR_NO_DOMAIN => Reason::NoDomain,
        sys::VIR_ERR_NO_DOMAIN_CHECKPOINT => Reason::NoCheckpoint,
        sys::VIR_ERR_CHECKPOINT_INCONSISTENT => Reason::CheckpointInconsistent,
        sys::VIR_ERR_NO_DOMAIN_BACKUP => Reason::NoBackup,
        sys::VIR_ERR_AGENT_UNRESPONSIVE
        | sys::VIR_ERR_AGENT_UNSYNCED
        | sys::VIR_ERR_AGENT_COMMAND_TIMEOUT => Reason::AgentSilent,
        sys::VIR_ERR_ARGUMENT_UNSUPPORTED
        | sys::VIR_ERR_OPERATION_UNSUPPORTED
        | sys::VIR_ERR_CONFIG_UNSUPPORTED => Reason::Unsupported,
        sys::VIR_ERR_OPERATION_INVALID => Reason::Invalid,
        sys::VIR_ERR_OPERATION_TIMEOUT => Reason::Busy,
        sys::VIR_ERR_NO_SUPPORT => Reason::NoSupport,
        sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_ACCESS_DENIED
        | sys::VIR_ERR_OPERATION_DENIED => Reason::Denied,
        _ => Reason::Other,
    }
}
