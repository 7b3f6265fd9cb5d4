//! The sockets that a server listens on.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use cairn_engine::nbd::transport::Socket;
use rustix::fs::{CWD, renameat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process serves there, whether it has time at the moment or not.
    #[error("somebody listens on {path} already")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// What stands there is not a socket.
    #[error("{path} is there, and is not a socket")]
    NotASocket {
        /// What stands there.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {place}")]
    Io {
        /// The path or the address.
        place: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A socket that the process was started with is not one to listen on.
    #[error("file descriptor {fd} from the environment is not a listening socket")]
    Inherited {
        /// Its number.
        fd: usize,
        /// The system's reason.
        source: io::Error,
    },
}

/// A socket that connections come from.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// The file of a unix socket that was made here, and which file it was.
    file: Option<(PathBuf, (u64, u64))>,
    is_inherited: bool,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on a unix socket that only the owner may use, or whom `mode` lets.
    ///
    /// The file appears when connections can be made. One that nobody listens on any more is
    /// replaced. It is removed when the listener is dropped.
    pub fn unix(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io {
            place: path.display().to_string(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let path = path.to_owned();
                return Err(ListenError::NotASocket { path });
            }
            Ok(_) if is_served(path).map_err(failed)? => {
                let path = path.to_owned();
                return Err(ListenError::InUse { path });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let hidden = HiddenFolder::beside(path).map_err(failed)?;
        let (listener, identity) = hidden.listen(path, mode).map_err(failed)?;
        Ok(Self {
            kind: Kind::Unix(listener),
            file: Some((path.to_owned(), identity)),
            is_inherited: false,
        })
    }

    /// Listens on an address of the network, `HOST:PORT`.
    pub fn tcp(address: &str) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io {
            place: address.to_owned(),
            source,
        };
        let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
        let kind = Kind::Tcp(listener);
        Ok(Self {
            kind,
            file: None,
            is_inherited: false,
        })
    }

    /// Returns the sockets that the process was started with, by systemd or by a client that
    /// starts its server itself.
    pub fn inherited() -> Result<Vec<Self>, ListenError> {
        let mut given = listenfd::ListenFd::from_env();
        let mut listeners = Vec::new();
        for number in 0..given.len() {
            let kind = match given.take_unix_listener(number) {
                Ok(listener) => listener.map(Kind::Unix),
                Err(_) => given
                    .take_tcp_listener(number)
                    .map_err(|source| ListenError::Inherited {
                        fd: number + 3,
                        source,
                    })?
                    .map(Kind::Tcp),
            };
            listeners.extend(kind.map(|kind| Self {
                kind,
                file: None,
                is_inherited: true,
            }));
        }
        Ok(listeners)
    }

    /// Returns whether the socket was made by whoever started the process.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Returns the address on the network, with the port that the system chose where it was to.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    /// Returns the path of a unix socket, if it has one.
    pub fn path(&self) -> Option<PathBuf> {
        match (&self.file, &self.kind) {
            (Some((path, _)), _) => Some(path.clone()),
            (None, Kind::Unix(listener)) => {
                let address = listener.local_addr().ok()?;
                address.as_pathname().map(Path::to_owned)
            }
            (None, Kind::Tcp(_)) => None,
        }
    }

    /// Returns the next connection, and where on the network it comes from; fails if there is none
    /// at the moment.
    pub(crate) fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match &self.kind {
            Kind::Unix(listener) => {
                listener.set_nonblocking(true)?;
                let (socket, _) = listener.accept()?;
                socket.set_nonblocking(false)?;
                Ok((Socket::Unix(socket), None))
            }
            Kind::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let (socket, peer) = listener.accept()?;
                socket.set_nonblocking(false)?;
                Ok((Socket::Tcp(socket), Some(peer)))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(listener) => listener.as_fd(),
            Kind::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, made)) = &self.file
            && fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == *made)
        {
            // A file that stays is replaced by the next server.
            drop(fs::remove_file(path));
        }
    }
}

/// Returns whether somebody listens on a socket; fails where that cannot be told.
fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        // A server whose queue is full is one too.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A folder that nobody else can enter, where a socket gets its mode before anybody finds it. It
/// goes when it is dropped.
struct HiddenFolder(PathBuf);

impl HiddenFolder {
    fn beside(path: &Path) -> io::Result<Self> {
        loop {
            // Short, as the path of a socket must be.
            let mut random = [0; 3];
            getrandom::fill(&mut random).map_err(|err| io::Error::other(err.to_string()))?;
            let folder = path.with_file_name(format!(".{}", hex::encode(random)));
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(folder)),
            }
        }
    }

    /// Makes a socket, gives it its mode and its name, and returns which file it is.
    fn listen(&self, path: &Path, mode: u32) -> io::Result<(UnixListener, (u64, u64))> {
        let hidden = self.socket();
        let listener = UnixListener::bind(&hidden)?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
        let found = fs::symlink_metadata(&hidden)?;
        renameat(CWD, &hidden, CWD, path)?;
        Ok((listener, identity(&found)))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for HiddenFolder {
    fn drop(&mut self) {
        drop(fs::remove_file(self.socket()));
        drop(fs::remove_dir(&self.0));
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_replaced_only_if_nobody_listens_and_removed_only_by_its_owner() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("socket");
        let first = Listener::unix(&path, 0o660).expect("nothing stands there");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        let second = Listener::unix(&path, 0o600);
        assert!(
            matches!(second, Err(ListenError::InUse { .. })),
            "{second:?}"
        );

        // One that is too busy to take anybody in is a server all the same.
        let busy = folder.path().join("busy");
        let listening = UnixListener::bind(&busy).expect("nothing stands there");
        rustix::net::listen(&listening, 0).expect("its queue can be made short");
        let waiting = std::os::unix::net::UnixStream::connect(&busy).expect("the queue has room");
        let refused = Listener::unix(&busy, 0o600);
        assert!(
            matches!(refused, Err(ListenError::InUse { .. })),
            "{refused:?}"
        );
        drop((listening, waiting));
        // Nor is one that is not a server for streams nobody's.
        let other = folder.path().join("other");
        let datagrams = std::os::unix::net::UnixDatagram::bind(&other).expect("it is new");
        let refused = Listener::unix(&other, 0o600);
        assert!(
            matches!(refused, Err(ListenError::Io { .. })),
            "{refused:?}"
        );
        drop(datagrams);
        fs::remove_file(&other).expect("it is left alone");
        drop(Listener::unix(&busy, 0o600).expect("nobody listens any more"));

        // What a killed server leaves behind.
        std::mem::forget(UnixListener::bind(folder.path().join("stale")).map(drop));
        let stale = Listener::unix(&folder.path().join("stale"), 0o600);
        drop(stale.expect("nobody listens there"));
        assert!(!folder.path().join("stale").exists());

        fs::remove_file(&path).expect("it is there");
        let other = UnixListener::bind(&path).expect("nothing stands there");
        drop(first);
        assert!(path.exists(), "another server's socket was removed");
        drop(other);

        let file = folder.path().join("file");
        fs::write(&file, "precious").expect("a file can be written");
        let refused = Listener::unix(&file, 0o600);
        assert!(matches!(refused, Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read(&file).expect("it is there"), b"precious");
        let left = fs::read_dir(folder.path()).expect("it is there").count();
        assert_eq!(left, 2, "files are left behind");
    }
}
