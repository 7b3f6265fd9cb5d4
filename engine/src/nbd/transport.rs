//! Streams that carry the protocol: unix sockets and TCP, plain or under TLS.
//!
//! The handshake reads and writes a [`Stream`] from one thread. The transmission phase splits it
//! into a [`Receiver`] and a [`Sender`] that two threads use at once; neither waits for the other.
//! Under TLS they share one session behind a lock that is held for computing only: the receiver
//! reads ciphertext from the socket without it, and never writes, since all that a session has to
//! say by itself after its handshake (tickets, key updates) may go with the next bytes sent.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::Connection;

use super::tls::{self, ClientTls, ServerTls, TlsError};

/// Ciphertext that is read from a socket at once, in bytes: a few records.
const CIPHERTEXT_LEN: usize = 64 * 1024;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Of this machine.
    Unix(UnixStream),
    /// Of the network.
    Tcp(TcpStream),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
        })
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(socket) => {
                socket.set_read_timeout(timeout)?;
                socket.set_write_timeout(timeout)
            }
            Self::Tcp(socket) => {
                socket.set_read_timeout(timeout)?;
                socket.set_write_timeout(timeout)
            }
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.shutdown(how),
            Self::Tcp(socket) => socket.shutdown(how),
        }
    }
}

/// What a socket says when its timeout has passed, in the word that means it.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match *self {
            Socket::Unix(socket) => Read::read(&mut &*socket, buf),
            Socket::Tcp(socket) => Read::read(&mut &*socket, buf),
        }
        .map_err(timed_out)
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match *self {
            Socket::Unix(socket) => Write::write_vectored(&mut &*socket, parts),
            Socket::Tcp(socket) => Write::write_vectored(&mut &*socket, parts),
        }
        .map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection to a peer.
#[derive(Debug)]
pub struct Stream {
    receiver: Receiver,
    sender: Sender,
}

impl Stream {
    /// Takes a connected socket. One of the network is set to send at once, and to find out when
    /// its peer is gone.
    pub fn plain(socket: Socket) -> Self {
        if let Socket::Tcp(socket) = &socket {
            // Hints: a socket that does not take them works all the same.
            drop(socket.set_nodelay(true));
            let _: rustix::io::Result<()> =
                rustix::net::sockopt::set_socket_keepalive(socket, true);
        }
        let socket = Arc::new(socket);
        Self {
            receiver: Receiver(Receiving::Plain(Arc::clone(&socket))),
            sender: Sender(Sending::Plain(socket)),
        }
    }

    /// Goes over to TLS as the client, and checks that the server is the one that certificates
    /// call `server_name`.
    ///
    /// Nothing of what the server sent before may wait in a buffer of the caller's: it would be
    /// taken for what the session protects.
    ///
    /// # Errors
    ///
    /// Why the handshake failed; the connection cannot be used any more.
    ///
    /// # Panics
    ///
    /// Panics if the stream is under TLS already.
    pub fn into_tls_client(self, config: &ClientTls, server_name: &str) -> Result<Self, TlsError> {
        let connection = config.connect(server_name)?;
        self.into_tls(connection.into())
            .map_err(|error| tls::handshake_failed(server_name, error))
    }

    /// Goes over to TLS as the server; the same holds as for
    /// [`into_tls_client`](Self::into_tls_client).
    ///
    /// # Errors
    ///
    /// Why the handshake failed; the connection cannot be used any more.
    ///
    /// # Panics
    ///
    /// Panics if the stream is under TLS already.
    pub fn into_tls_server(self, config: &ServerTls) -> Result<Self, TlsError> {
        let connection = config.accept()?;
        self.into_tls(connection.into())
            .map_err(TlsError::Handshake)
    }

    fn into_tls(self, mut connection: Connection) -> io::Result<Self> {
        let Sending::Plain(socket) = self.sender.0 else {
            panic!("TLS within TLS is not part of the protocol");
        };
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut &*socket)?;
        }
        let session = Arc::new(Session {
            socket,
            connection: Mutex::new(connection),
        });
        Ok(Self {
            receiver: Receiver(Receiving::Tls {
                session: Arc::clone(&session),
                ciphertext: Ciphertext::default(),
            }),
            sender: Sender(Sending::Tls(session)),
        })
    }

    /// Returns whether the stream is under TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.sender.0, Sending::Tls(_))
    }

    /// Sets how long one read from or write to the socket may take, also after
    /// [`split`](Self::split); then it fails with [`io::ErrorKind::TimedOut`].
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.sender.socket().set_timeout(timeout)
    }

    /// Sets how long one read from the socket may take, as [`set_timeout`](Self::set_timeout) does.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self.sender.socket() {
            Socket::Unix(socket) => socket.set_read_timeout(timeout),
            Socket::Tcp(socket) => socket.set_read_timeout(timeout),
        }
    }

    /// Returns what ends the connection from any thread.
    pub fn closer(&self) -> io::Result<Closer> {
        self.sender.socket().try_clone().map(Closer)
    }

    /// Splits the stream into halves that two threads can use at once.
    pub fn split(self) -> (Receiver, Sender) {
        (self.receiver, self.sender)
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receiver.read(buf)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.sender.write(buf)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.sender.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sender.flush()
    }
}

/// Ends a connection from any thread.
#[derive(Debug)]
pub struct Closer(Socket);

impl Closer {
    /// Shuts the socket down both ways: reads that wait wake up and find its end, writes fail.
    pub fn close(&self) {
        // One that its peer has ended already is as closed as can be.
        drop(self.0.shutdown(Shutdown::Both));
    }
}

/// A TLS session over a socket.
#[derive(Debug)]
struct Session {
    socket: Arc<Socket>,
    /// Held for computing, never while the socket is waited for.
    connection: Mutex<Connection>,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A session that a panic left in the middle fails its next record, nothing worse.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The half of a stream that reads.
#[derive(Debug)]
pub struct Receiver(Receiving);

#[derive(Debug)]
enum Receiving {
    Plain(Arc<Socket>),
    Tls {
        session: Arc<Session>,
        ciphertext: Ciphertext,
    },
}

impl Read for Receiver {
    /// Reads what there is, and waits if there is nothing. A peer that ends a TLS stream without
    /// saying so is an error, since the end might be anyone's doing.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Receiving::Plain(socket) => (&**socket).read(buf),
            Receiving::Tls {
                session,
                ciphertext,
            } => ciphertext.read(session, buf),
        }
    }
}

/// Bytes from the socket that the session has not taken yet.
#[derive(Debug, Default)]
struct Ciphertext {
    bytes: Vec<u8>,
    taken: usize,
    is_ended: bool,
}

impl Ciphertext {
    fn read(&mut self, session: &Session, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(read) = self.decrypt(&mut session.lock(), buf)? {
                return Ok(read);
            }
            self.bytes.resize(CIPHERTEXT_LEN, 0);
            self.taken = 0;
            let read = (&*session.socket).read(&mut self.bytes);
            self.bytes.truncate(read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(read) => self.is_ended = read == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns how much plaintext there was, or nothing if more ciphertext is needed.
    fn decrypt(
        &mut self,
        connection: &mut Connection,
        buf: &mut [u8],
    ) -> io::Result<Option<usize>> {
        loop {
            match connection.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(Some),
            }
            let mut rest = self.bytes.get(self.taken..).unwrap_or_default();
            if rest.is_empty() && !self.is_ended {
                return Ok(None);
            }
            let taken = connection.read_tls(&mut rest)?;
            self.taken = self.taken.saturating_add(taken);
            connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

/// The half of a stream that writes.
#[derive(Debug)]
pub struct Sender(Sending);

#[derive(Debug)]
enum Sending {
    Plain(Arc<Socket>),
    Tls(Arc<Session>),
}

impl Sender {
    fn socket(&self) -> &Socket {
        match &self.0 {
            Sending::Plain(socket) => socket,
            Sending::Tls(session) => &session.socket,
        }
    }

    /// Writes all parts, one after the other, in as few calls as the socket takes them.
    pub fn write_all_parts(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut parts = parts.to_vec();
        let mut parts = parts.as_mut_slice();
        // Parts that are empty would look like a write that nothing came of.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come. The other half can still be read.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Sending::Tls(session) = &self.0 {
            let mut connection = session.lock();
            connection.send_close_notify();
            session.send(connection)?;
        }
        self.socket().shutdown(Shutdown::Write)
    }
}

impl Session {
    /// Sends what the connection has ready. Only the one sender comes here, so that the order of
    /// records is that of their encryption.
    fn send(&self, mut connection: MutexGuard<'_, Connection>) -> io::Result<()> {
        let mut records = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut records)?;
        }
        drop(connection);
        (&*self.socket).write_all(&records)
    }
}

impl Write for Sender {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Sending::Plain(socket) => (&**socket).write_vectored(parts),
            Sending::Tls(session) => {
                let mut connection = session.lock();
                let written = connection.writer().write_vectored(parts)?;
                session.send(connection)?;
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
