//! A connection to a libvirt daemon, made anew when it is lost.

use std::sync::{Arc, Mutex, PoisonError};

use virt::connect::Connect;
use virt::sys;

use super::events::Events;
use super::xml::SecurityLabel;
use super::{Domain, LibvirtError, library};

/// Seconds between two questions whether the daemon is still there, and how many it may miss.
const KEEP_ALIVE: (i32, u32) = (5, 4);

/// How the daemon is reached, which decides how its guests' disks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// On this host.
    Local,
    /// By ssh: what it takes to reach the host by it.
    Ssh {
        /// The host.
        host: String,
        /// The user there, where one is named.
        user: Option<String>,
        /// The port, where one is named.
        port: Option<u16>,
    },
    /// By TLS.
    Tls {
        /// The host.
        host: String,
    },
    /// In a way that protects nothing, or that is not known.
    Refused {
        /// The scheme's part after `+`.
        transport: String,
    },
}

impl Transport {
    /// Returns how the daemon of a URI is reached.
    pub fn of(uri: &str) -> Self {
        transport(uri)
    }
}

/// A libvirt daemon. Cheap to clone; may be used by any thread.
#[derive(Clone)]
pub struct Connection {
    wanted: Option<String>,
    uri: String,
    connect: Arc<Mutex<Connect>>,
    /// After the connection, so that its end is seen to.
    _events: Arc<Events>,
}

impl Connection {
    /// Connects; without a URI to what the environment or libvirt's own settings name.
    pub fn open(uri: Option<&str>) -> Result<Self, LibvirtError> {
        library::load()?;
        let events = Arc::new(Events::start());
        let connect = connect(uri)?;
        let named = connect.uri();
        let named = named.map_err(|error| LibvirtError::of("name the connection", &error))?;
        Ok(Self {
            wanted: uri.map(str::to_owned),
            uri: named,
            connect: Arc::new(Mutex::new(connect)),
            _events: events,
        })
    }

    /// Returns the URI of the daemon, as libvirt resolved it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns how the daemon is reached.
    pub fn transport(&self) -> Transport {
        Transport::of(&self.uri)
    }

    /// Makes the connection anew, if it is gone.
    pub fn revive(&self) -> Result<(), LibvirtError> {
        let mut held = self.connect.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.is_alive().unwrap_or(false) {
            *held = connect(self.wanted.as_deref().or(Some(&self.uri)))?;
        }
        Ok(())
    }

    pub(super) fn raw(&self) -> Connect {
        let held = self.connect.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// Finds a domain by its name, its UUID or, if it runs, its id.
    pub fn domain(&self, name: &str) -> Result<Domain, LibvirtError> {
        let connect = self.raw();
        let mut found = connect.lookup_domain_by_name(name);
        if found.is_err() {
            found = connect.lookup_domain_by_uuid_string(name).or(found);
        }
        let found = found.map_err(|error| LibvirtError::of("find the domain", &error))?;
        Domain::new(self.clone(), found)
    }

    /// Returns all domains, those that do not run included.
    pub fn domains(&self) -> Result<Vec<Domain>, LibvirtError> {
        let all = self.raw().list_all_domains(0);
        let all = all.map_err(|error| LibvirtError::of("list domains", &error))?;
        let owned = all.into_iter();
        owned
            .map(|domain| Domain::new(self.clone(), domain))
            .collect()
    }

    /// Defines a domain, or replaces the definition of the one with its UUID.
    pub fn define(&self, xml: &str) -> Result<Domain, LibvirtError> {
        let defined = self.raw().define_domain_xml(xml);
        let defined = defined.map_err(|error| LibvirtError::of("define the domain", &error))?;
        Domain::new(self.clone(), defined)
    }

    /// Starts a domain that is gone when it stops.
    pub fn create_transient(&self, xml: &str) -> Result<Domain, LibvirtError> {
        let created = self.raw().create_domain_xml(xml, sys::VIR_DOMAIN_NONE);
        let created = created.map_err(|error| LibvirtError::of("start the domain", &error))?;
        Domain::new(self.clone(), created)
    }

    /// Starts a domain from its saved memory, with `xml` in place of the definition in the file.
    pub fn restore_saved(&self, file: &str, xml: &str) -> Result<(), LibvirtError> {
        let restored = self.raw().restore_domain_flags(file, Some(xml), 0);
        restored
            .map(drop)
            .map_err(|error| LibvirtError::of("start the domain from its memory", &error))
    }

    /// Returns the host's capabilities as XML.
    pub fn capabilities(&self) -> Result<String, LibvirtError> {
        let capabilities = self.raw().capabilities();
        capabilities.map_err(|error| LibvirtError::of("tell its capabilities", &error))
    }

    /// Returns the user that QEMU runs as where a domain names none, if the host tells.
    pub fn qemu_user(&self) -> Result<Option<SecurityLabel>, LibvirtError> {
        let read = SecurityLabel::of_host(&self.capabilities()?);
        read.map_err(|_| LibvirtError::invalid("read its capabilities", "they are not XML"))
    }

    /// Returns the folder of a storage pool that keeps files.
    pub fn pool_xml(&self, name: &str) -> Result<String, LibvirtError> {
        let xml = (self.raw().lookup_storage_pool_by_name(name)).and_then(|pool| pool.xml_desc(0));
        xml.map_err(|error| LibvirtError::of("find the storage pool", &error))
    }

    /// Lets a storage pool see what is in it now.
    pub fn refresh_pool(&self, name: &str) -> Result<(), LibvirtError> {
        let pool = self.raw().lookup_storage_pool_by_name(name);
        let refreshed = pool.and_then(|pool| pool.refresh(0));
        refreshed
            .map(drop)
            .map_err(|error| LibvirtError::of("refresh the storage pool", &error))
    }
}

fn connect(uri: Option<&str>) -> Result<Connect, LibvirtError> {
    let connect = Connect::open(uri).map_err(|error| LibvirtError {
        reason: super::Reason::Disconnected,
        ..LibvirtError::of("connect", &error)
    })?;
    // A driver inside this process has no wire to keep alive.
    drop(connect.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1));
    Ok(connect)
}

fn transport(uri: &str) -> Transport {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Transport::Local;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, authority),
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && port.parse::<u16>().is_ok() => {
            (host, port.parse().ok())
        }
        _ => (place, None),
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    match (
        scheme.split_once('+').map(|(_, transport)| transport),
        host.is_empty(),
    ) {
        (None | Some("unix"), true) => Transport::Local,
        (Some("ssh" | "libssh" | "libssh2"), _) => Transport::Ssh { host, user, port },
        // libvirt's default for another host is TLS.
        (None | Some("tls"), _) => Transport::Tls { host },
        (Some(other), _) => Transport::Refused {
            transport: other.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_tell_how_the_daemon_is_reached() {
        let ssh = |host: &str, user: Option<&str>, port| Transport::Ssh {
            host: host.to_owned(),
            user: user.map(str::to_owned),
            port,
        };
        for (uri, expected) in [
            ("qemu:///system", Transport::Local),
            ("qemu:///system?socket=/run/x", Transport::Local),
            ("qemu+unix:///system", Transport::Local),
            ("qemu+ssh://h/system", ssh("h", None, None)),
            (
                "qemu+ssh://u@h:22/system?keyfile=/k",
                ssh("h", Some("u"), Some(22)),
            ),
            (
                "qemu+ssh://root@[::1]:2222/system",
                ssh("::1", Some("root"), Some(2222)),
            ),
            (
                "qemu+tls://h/system",
                Transport::Tls {
                    host: "h".to_owned(),
                },
            ),
            (
                "qemu://h/system",
                Transport::Tls {
                    host: "h".to_owned(),
                },
            ),
            (
                "qemu+tcp://h/system",
                Transport::Refused {
                    transport: "tcp".to_owned(),
                },
            ),
        ] {
            assert_eq!(transport(uri), expected, "{uri}");
        }
    }
}
