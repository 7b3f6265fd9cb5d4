//! From a URI to a connection that has chosen its export.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::error::ClientError;
use super::handshake::{Agreed, Wanted, greet, negotiate, start_tls};
use crate::nbd::tls::ClientTls;
use crate::nbd::transport::{Socket, Stream};
use crate::nbd::uri::{Address, Uri};
use crate::progress::Cancel;
use crate::threads::Joined;

/// How often those who wait for a server look whether they shall stop.
pub(super) const CANCEL_TICK: Duration = Duration::from_millis(100);

/// A server's address, with all that it takes to connect as often as needed.
#[derive(Debug)]
pub(super) struct Server {
    uri: Uri,
    tls: Option<ClientTls>,
}

impl Server {
    pub(super) fn new(uri: &Uri) -> Result<Self, ClientError> {
        let tls = uri.tls().map(|tls| ClientTls::load(&tls.certificates));
        Ok(Self {
            uri: uri.clone(),
            tls: tls.transpose()?,
        })
    }

    /// Connects and agrees on an export, all of it within `timeout`.
    ///
    /// Names are looked up and connections made by calls that nothing ends early: a thread of its
    /// own makes them, and is left behind where they take too long. It may be at it when the
    /// process ends: all that it touches is its own, a socket and a TLS session.
    pub(super) fn open(
        self: &Arc<Self>,
        contexts: &[String],
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<(Stream, Agreed), ClientError> {
        let (done, opened) = bounded(1);
        let (server, contexts) = (Arc::clone(self), contexts.to_vec());
        let connecting = Joined::start("nbd-connect", move || {
            drop(done.send(server.open_here(&contexts, timeout)));
        })?;
        let started = Instant::now();
        loop {
            if cancel.is_cancelled() {
                connecting.let_run_on();
                return Err(ClientError::Cancelled);
            }
            let left = timeout.saturating_sub(started.elapsed());
            match opened.recv_timeout(left.min(CANCEL_TICK)) {
                Ok(opened) => return opened,
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(RecvTimeoutError::Timeout) => {
                    connecting.let_run_on();
                    let seconds = timeout.as_secs();
                    return Err(ClientError::TimedOut { seconds });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ClientError::Gone),
            }
        }
    }

    /// Connects and agrees on an export. No step takes longer than `timeout`.
    ///
    /// A server that breaks the connection when it is asked for more than an export by its name
    /// is asked for no more than that on a second one.
    fn open_here(
        &self,
        contexts: &[String],
        timeout: Duration,
    ) -> Result<(Stream, Agreed), ClientError> {
        let wanted = Wanted {
            export: self.uri.export(),
            contexts,
            is_least: false,
        };
        match self.attempt(&wanted, timeout) {
            Err((ClientError::Gone, true)) => {
                let least = Wanted {
                    is_least: true,
                    ..wanted
                };
                self.attempt(&least, timeout)
            }
            attempt => attempt,
        }
        .map_err(|(error, _)| match error {
            ClientError::Io(error) if error.kind() == ErrorKind::TimedOut => {
                let seconds = timeout.as_secs();
                ClientError::TimedOut { seconds }
            }
            error => error,
        })
    }

    /// Connects once. A failure tells whether the server had greeted.
    fn attempt(
        &self,
        wanted: &Wanted<'_>,
        timeout: Duration,
    ) -> Result<(Stream, Agreed), (ClientError, bool)> {
        let before = |error| (error, false);
        let after = |error| (error, true);
        let connected = connect(self.uri.address(), timeout);
        let socket = connected.map_err(|source| {
            let address = self.uri.address().to_string();
            before(ClientError::Connect { address, source })
        })?;
        let mut stream = Stream::plain(socket);
        let set = stream.set_timeout(Some(timeout));
        set.map_err(|error| before(error.into()))?;
        let greeting = greet(&mut stream).map_err(before)?;
        if let (Some(config), Some(tls)) = (&self.tls, self.uri.tls()) {
            start_tls(&mut stream, &greeting).map_err(before)?;
            stream = stream
                .into_tls_client(config, &tls.hostname)
                .map_err(|error| before(error.into()))?;
        }
        let agreed = negotiate(&mut stream, greeting, wanted).map_err(after)?;
        Ok((stream, agreed))
    }
}

fn connect(address: &Address, timeout: Duration) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => connect_unix(path, timeout.div_f32(2.0)).map(Socket::Unix),
        Address::Tcp { host, port } => {
            let mut failure = io::Error::from(ErrorKind::AddrNotAvailable);
            let addresses: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
            // Each gets its share, so that one that leads nowhere leaves time for the others.
            let shares = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
            let share = timeout.checked_div(shares.saturating_add(1));
            for address in addresses {
                match TcpStream::connect_timeout(&address, share.unwrap_or(timeout)) {
                    Ok(socket) => return Ok(Socket::Tcp(socket)),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        }
    }
}

/// Connects to a socket of this machine. A server whose queue is full would have us wait for ever.
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = match path.as_os_str().as_bytes().split_first() {
        Some((0, name)) => SocketAddrUnix::new_abstract_name(name)?,
        _ => SocketAddrUnix::new(OsStr::new(path))?,
    };
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok(UnixStream::from(socket)),
        Err(rustix::io::Errno::AGAIN) => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}
