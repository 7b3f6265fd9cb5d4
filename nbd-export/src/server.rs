//! A server: takes connections in, bounds what they may cost, and ends in good order.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use cairn_engine::nbd::tls::ServerTls;
use cairn_engine::nbd::transport::{Closer, Sender, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::disk::DiskError;
use crate::exports::Exports;
use crate::handshake::{Agreement, HandshakeError, Step, Tls, greet, haggle};
use crate::listen::Listener;
use crate::log::{Event, Log};
use crate::stop::Stop;
use crate::transmission::{Connection, Output, Pool, STACK_LEN};

/// How long clients may take to receive their last replies once the server is asked to end.
const GRACE: Duration = Duration::from_secs(10);
/// How long the server waits after a connection that it could not take in: what was short, files
/// or memory, will not be there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take over its handshake while all places are taken: others wait for it,
/// and an honest one takes milliseconds.
const HURRIED: Duration = Duration::from_secs(3);

/// How a server serves.
pub struct ServerOptions {
    /// Threads that read and decode, for all connections.
    pub workers: NonZeroUsize,
    /// Connections at once; more wait until one ends.
    pub connections_max: usize,
    /// How long a client may take until it agreed on an export.
    pub handshake_timeout: Duration,
    /// What TLS needs; clients must then use it.
    pub tls: Option<ServerTls>,
}

/// Why a server ended other than by being asked to, or not in good order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The system refuses what the server cannot do without.
    #[error("cannot {op}")]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// What clients wrote last may not be durable.
    #[error("cannot make the last writes to export `{export}` durable")]
    Flush {
        /// The export.
        export: String,
        /// Why.
        source: DiskError,
    },
}

/// A server of exports.
pub struct Server {
    exports: Exports,
    options: ServerOptions,
    log: Arc<Log>,
    pool: Arc<Pool>,
    clients: Mutex<Clients>,
    /// A client is gone.
    left: Condvar,
    /// Wakes the accepting thread.
    wake: Stop,
}

#[derive(Default)]
struct Clients {
    next: u64,
    present: HashMap<u64, Client>,
}

struct Client {
    closer: Closer,
    state: ClientState,
}

/// The place of a client; it is free again when this is dropped.
struct Place<'s> {
    server: &'s Server,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.server.leave(self.id);
    }
}

enum ClientState {
    Handshake { deadline: Instant },
    Transmission(Arc<Connection>),
}

impl Output for Sender {
    fn finish(&mut self) -> io::Result<()> {
        Sender::finish(self)
    }
}

impl Server {
    /// Makes a server; [`run`](Self::run) serves.
    pub fn new(exports: Exports, options: ServerOptions, log: Arc<Log>) -> io::Result<Self> {
        Ok(Self {
            pool: Pool::new(options.workers),
            exports,
            options,
            log,
            clients: Mutex::default(),
            left: Condvar::new(),
            wake: Stop::new()?,
        })
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until `stop` is asked. Then no more connections and no more requests are taken in,
    /// those that were are answered, connections are closed, and what clients wrote is made
    /// durable. Serves once.
    pub fn run(&self, listeners: Vec<Listener>, stop: &Stop) -> Result<(), ServeError> {
        thread::scope(|scope| {
            let started = self.start_workers(scope);
            let served = started.and_then(|()| self.accept_all(scope, &listeners, stop));
            drop(listeners);
            self.pool.stop();
            self.dismiss();
            self.pool.close();
            served
        })?;
        for export in self.exports.iter() {
            let flushed = export.disk.writer().map_or(Ok(()), |writer| writer.flush());
            flushed.map_err(|source| ServeError::Flush {
                export: export.name.clone(),
                source,
            })?;
        }
        Ok(())
    }

    fn start_workers<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<(), ServeError> {
        for number in 0..self.options.workers.get() {
            let worker = thread::Builder::new().name(format!("nbd-worker-{number}"));
            let spawned = worker.spawn_scoped(scope, || self.pool.work());
            spawned.map_err(|source| ServeError::Io {
                op: "start a thread",
                source,
            })?;
        }
        Ok(())
    }

    /// Takes connections in until `stop` is asked.
    fn accept_all<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        listeners: &[Listener],
        stop: &Stop,
    ) -> Result<(), ServeError> {
        loop {
            let (count, timeout) = self.expire();
            let is_full = count >= self.options.connections_max;
            let open = if is_full { &[] } else { listeners };
            let mut polled = vec![
                PollFd::new(stop, PollFlags::IN),
                PollFd::new(&self.wake, PollFlags::IN),
            ];
            polled.extend(
                open.iter()
                    .map(|listener| PollFd::new(listener, PollFlags::IN)),
            );
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            match poll(&mut polled, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled.map_err(|error| ServeError::Io {
                    op: "wait for connections",
                    source: error.into(),
                })?,
            };
            let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
            if is_ready(&polled[0]) {
                return Ok(());
            }
            if is_ready(&polled[1]) {
                self.wake.clear();
            }
            for (listener, _) in open
                .iter()
                .zip(&polled[2..])
                .filter(|(_, polled)| is_ready(polled))
            {
                self.accept(scope, listener);
            }
        }
    }

    /// Sends clients away that take too long over their handshake: that is less while all places
    /// are taken. Returns how many are there, and when to look again.
    fn expire(&self) -> (usize, Option<Duration>) {
        let now = Instant::now();
        let clients = self.clients();
        let is_full = clients.present.len() >= self.options.connections_max;
        let hurry = match is_full {
            true => self.options.handshake_timeout.saturating_sub(HURRIED),
            false => Duration::ZERO,
        };
        let mut next: Option<Duration> = None;
        for client in clients.present.values() {
            let ClientState::Handshake { deadline } = client.state else {
                continue;
            };
            let left = deadline
                .saturating_duration_since(now)
                .saturating_sub(hurry);
            if left.is_zero() {
                // Its thread finds the connection closed; look whether it is gone in a while.
                client.closer.close();
            }
            let left = left.max(ACCEPT_PAUSE);
            next = Some(next.map_or(left, |next| next.min(left)));
        }
        (clients.present.len(), next)
    }

    fn accept<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, listener: &Listener) {
        let taken = listener.accept().and_then(|(socket, peer)| {
            let stream = Stream::plain(socket);
            let place = self.enter(stream.closer()?);
            let client = thread::Builder::new()
                .name("nbd-reader".to_owned())
                .stack_size(STACK_LEN);
            let spawned = client.spawn_scoped(scope, move || {
                let place = place;
                let peer = match peer {
                    Some(address) => address.to_string(),
                    None => format!("client {}", place.id),
                };
                // A panic was printed where it happened, and the others go on.
                drop(catch_unwind(AssertUnwindSafe(|| {
                    self.attend(place.id, stream, &peer);
                })));
            });
            spawned.map(drop)
        });
        if let Err(error) = taken {
            let is_gone = matches!(
                error.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::Interrupted
            );
            if !is_gone {
                (self.log)(&Event::AcceptFailed { error: &error });
                // What a client that leaves gives back may be what is short.
                let waited = self.left.wait_timeout(self.clients(), ACCEPT_PAUSE);
                drop(waited.map_err(PoisonError::into_inner));
            }
        }
    }

    fn enter(&self, closer: Closer) -> Place<'_> {
        let deadline = Instant::now() + self.options.handshake_timeout;
        let mut clients = self.clients();
        let id = clients.next;
        clients.next += 1;
        let state = ClientState::Handshake { deadline };
        clients.present.insert(id, Client { closer, state });
        Place { server: self, id }
    }

    fn leave(&self, id: u64) {
        let mut clients = self.clients();
        let was_full = clients.present.len() >= self.options.connections_max;
        clients.present.remove(&id);
        drop(clients);
        self.left.notify_all();
        if was_full {
            self.wake.stop();
        }
    }

    /// Does all that one client wants.
    fn attend(&self, id: u64, stream: Stream, peer: &str) {
        let (agreement, stream) = match self.agree(stream) {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return,
            Err(error) => {
                let error = &error;
                return (self.log)(&Event::Refused { peer, error });
            }
        };
        let export = Arc::clone(&agreement.export);
        let Ok(closer) = stream.closer() else {
            return;
        };
        let (receiver, sender) = stream.split();
        let close = Box::new(move || closer.close());
        let (pool, log) = (Arc::clone(&self.pool), Arc::clone(&self.log));
        let connection = Connection::new(agreement, Box::new(sender), close, pool, log);
        if let Some(client) = self.clients().present.get_mut(&id) {
            client.state = ClientState::Transmission(Arc::clone(&connection));
        }
        let export = &*export.name;
        (self.log)(&Event::Opened { export, peer });
        let served = connection.serve(receiver);
        let error = served.as_ref().err();
        (self.log)(&Event::Closed {
            export,
            peer,
            error,
        });
    }

    /// Shakes hands.
    fn agree(&self, mut stream: Stream) -> Result<Option<(Agreement, Stream)>, HandshakeError> {
        let greeting = greet(&mut stream)?;
        let tls = match self.options.tls {
            Some(_) => Tls::Required,
            None => Tls::Off,
        };
        let mut step = haggle(&mut stream, &self.exports, greeting, tls)?;
        if let (Step::StartTls, Some(config)) = (&step, &self.options.tls) {
            stream = stream.into_tls_server(config)?;
            step = haggle(&mut stream, &self.exports, greeting, Tls::On)?;
        }
        match step {
            Step::Transmit(agreement) => Ok(Some((agreement, stream))),
            Step::StartTls | Step::End => Ok(None),
        }
    }

    /// Lets clients go: those in the handshake at once, the others when they are answered.
    fn dismiss(&self) {
        let deadline = Instant::now() + GRACE;
        let mut clients = self.clients();
        while !clients.present.is_empty() {
            let is_over = Instant::now() >= deadline;
            for client in clients.present.values() {
                let is_done = match &client.state {
                    ClientState::Handshake { .. } => true,
                    ClientState::Transmission(connection) => connection.is_idle(),
                };
                if is_done || is_over {
                    client.closer.close();
                }
            }
            // A connection says when it is gone, but not when it is idle.
            clients = match self.left.wait_timeout(clients, Duration::from_millis(5)) {
                Ok((clients, _)) => clients,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
