//! Waiting for the writers that may have built on what is condemned.

use std::time::{Duration, Instant};

use crossbeam_channel::after;

use crate::format::plan::Plan;
use crate::format::session::{SessionDocument, SessionKind};
use crate::id::SessionId;
use crate::repository::{Repository, host_name};
use crate::storage::SeenSession;

use super::{GcError, GcEvent, GcOptions, Waiting};

/// How often it is looked whether writers have ended.
const LOOK: Duration = Duration::from_millis(200);

/// Returns the plan with the writers that it waits for. A plan without them was left by a
/// collection that died in the moment between: whoever is at work now may have been then.
pub(super) fn with_writers(repository: &Repository, mut plan: Plan) -> Result<Plan, GcError> {
    if plan.waiting_for.is_none() {
        let session = repository.open_writer("gc")?;
        plan.waiting_for = Some(writers(repository, &[session.id()])?);
        repository.put_plan(session.id(), &plan)?;
    }
    Ok(plan)
}

/// Returns the sessions of writers at work, but for `own`, in the order of their ids. One that
/// cannot be understood may be a writer's.
fn writer_sessions(
    repository: &Repository,
    own: &[SessionId],
) -> Result<impl Iterator<Item = SeenSession>, GcError> {
    let sessions = repository.storage().sessions()?.into_iter();
    Ok(sessions.filter(|session| {
        session.alive
            && !own.contains(&session.id)
            && SessionDocument::decode(&session.document)
                .map_or(true, |document| document.kind == SessionKind::Writer)
    }))
}

/// Returns the writers at work, but for `own`, ascending.
pub(super) fn writers(
    repository: &Repository,
    own: &[SessionId],
) -> Result<Vec<SessionId>, GcError> {
    Ok(writer_sessions(repository, own)?
        .map(|session| session.id)
        .collect())
}

/// Returns the writers at work, but for `own`, with what is known of them.
pub(crate) fn writers_at_work(
    repository: &Repository,
    own: &[SessionId],
) -> Result<Vec<Waiting>, GcError> {
    Ok(writer_sessions(repository, own)?
        .map(|session| describe(&session))
        .collect())
}

/// Waits until the writers of a plan have ended. Returns those that have not when the time is over.
pub(super) fn wait(
    repository: &Repository,
    plan: &Plan,
    options: &GcOptions<'_>,
) -> Result<Vec<Waiting>, GcError> {
    let started = Instant::now();
    let mut told = Vec::new();
    loop {
        let awaited = plan.waiting_for.as_deref().unwrap_or_default();
        let sessions = repository.storage().sessions()?;
        let waiting: Vec<Waiting> = sessions
            .iter()
            .filter(|session| session.alive && awaited.contains(&session.id))
            .map(describe)
            .collect();
        let is_over = options.wait.is_some_and(|wait| started.elapsed() >= wait);
        if waiting.is_empty() || is_over {
            return Ok(waiting);
        }
        if waiting != told {
            (options.observe)(GcEvent::Waiting(&waiting));
            told = waiting;
        }
        if options.cancel.is_cancelled() {
            return Err(GcError::Cancelled);
        }
        // Nobody sends: the message is the time that has passed.
        let _passed = after(LOOK).recv();
    }
}

fn describe(session: &SeenSession) -> Waiting {
    let document = SessionDocument::decode(&session.document).ok();
    let local = document
        .as_ref()
        .filter(|document| document.host == host_name());
    Waiting {
        session: session.id,
        is_stopped: local.is_some_and(|document| is_stopped(document.pid)),
        command: document.as_ref().map(|document| document.command.clone()),
        host: document.as_ref().map(|document| document.host.clone()),
        pid: document.as_ref().map(|document| document.pid),
        started: document.as_ref().map(|document| document.started),
    }
}

/// Returns whether a process of this host is stopped, by a signal or a debugger.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything, brackets too.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't'))
}
