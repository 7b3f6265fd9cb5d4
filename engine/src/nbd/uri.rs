//! NBD URIs, as `doc/uri.md` of the NetworkBlockDevice project specifies them.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use fluent_uri::pct_enc::EStr;

use super::wire::STRING_LEN_MAX;

/// The port that is the protocol's own.
const PORT: u16 = 10_809;
/// Longest text that is looked at: longer than any path and name together.
const URI_LEN_MAX: usize = 64 * 1024;
/// Longest path of a unix socket, by the system's limit.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine; a path that begins with a zero byte is an abstract name.
    Unix(PathBuf),
    /// A host of the network.
    Tcp {
        /// Name or address; an IPv6 address has no brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => {
                let name = path.to_string_lossy();
                match name.strip_prefix('\0') {
                    Some(name) => write!(f, "@{name}"),
                    None => f.write_str(&name),
                }
            }
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// What a URI says of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTls {
    /// Folder of certificates.
    pub certificates: PathBuf,
    /// What the server's certificate calls it.
    pub hostname: String,
}

/// An export of a server. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    text: String,
    address: Address,
    export: String,
    tls: Option<UriTls>,
}

/// A URI that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It is not a URI.
    #[error(
        "not an NBD URI; what is not a letter, a digit or one of `-._~/:?=&` is written as % and \
         two hex digits"
    )]
    Syntax,
    /// The scheme is another.
    #[error("NBD URI: `{scheme}` is not one of the schemes nbd, nbds, nbd+unix and nbds+unix")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// A part that means nothing here.
    #[error("NBD URI: {part}")]
    Part {
        /// What is wrong with it, as a sentence.
        part: &'static str,
    },
    /// The port is no number of a port.
    #[error("NBD URI: the port is not a number from 1 to 65535")]
    Port,
    /// A parameter is not known.
    #[error(
        "NBD URI: the parameter `{name}` is not known (known: socket, tls-certificates, \
         tls-hostname, tls-type, tls-verify-peer)"
    )]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A parameter stands twice.
    #[error("NBD URI: the parameter `{name}` is given twice")]
    Repeated {
        /// Its name.
        name: &'static str,
    },
    /// A parameter's value is not possible.
    #[error("NBD URI: the parameter `{name}` {fault}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What is wrong, as a predicate.
        fault: &'static str,
    },
}

impl Uri {
    /// Returns whether text is meant to be an NBD URI: by its scheme, and by nothing else.
    pub fn is_meant(text: &[u8]) -> bool {
        let start = text.get(..3).unwrap_or_default();
        let scheme_end = text.windows(3).position(|three| three == b"://");
        let scheme = scheme_end.and_then(|end| text.get(..end));
        start.eq_ignore_ascii_case(b"nbd")
            && scheme.is_some_and(|scheme| {
                let mut bytes = scheme.iter();
                bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
            })
    }

    /// Parses a URI.
    ///
    /// # Errors
    ///
    /// What it says that is not possible or not known.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_LEN_MAX {
            return Err(UriError::Syntax);
        }
        let uri = fluent_uri::Uri::parse(text).map_err(|_| UriError::Syntax)?;
        let scheme = uri.scheme().as_str().to_ascii_lowercase();
        let (is_unix, is_tls) = match scheme.as_str() {
            "nbd" => (false, false),
            "nbds" => (false, true),
            "nbd+unix" => (true, false),
            "nbds+unix" => (true, true),
            _ => return Err(UriError::Scheme { scheme }),
        };
        if !uri.has_authority() {
            return Err(part("the scheme is followed by `://`"));
        }
        if uri.has_fragment() {
            return Err(part(
                "`#` begins no part of it; within a name it is written %23",
            ));
        }
        let parameters = Parameters::parse(uri.query().map(EStr::as_str).unwrap_or_default())?;
        let named = parameters.tls;
        let host = host(&uri)?;
        let address = match (is_unix, parameters.socket) {
            (true, None) => {
                return Err(part("a unix socket is named after `?socket=`"));
            }
            (false, Some(_)) => {
                return Err(part(
                    "`socket` goes with the schemes nbd+unix and nbds+unix",
                ));
            }
            (true, Some(path)) if host.is_none() => Address::Unix(path),
            (true, Some(_)) => {
                return Err(part(
                    "a unix socket has no host: `://` is followed by a third slash, and then the \
                     export's name",
                ));
            }
            (false, None) => host.unwrap_or_else(|| Address::Tcp {
                host: "localhost".to_owned(),
                port: PORT,
            }),
        };
        let tls = match is_tls {
            true => Some(tls(named, &address)?),
            false if named.is_given() => {
                return Err(part("TLS goes with the schemes nbds and nbds+unix"));
            }
            false => None,
        };
        Ok(Self {
            text: text.to_owned(),
            address,
            export: export(uri.path().as_str())?,
            tls,
        })
    }

    /// Returns where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the export's name; empty is the server's default export.
    pub fn export(&self) -> &str {
        &self.export
    }

    /// Returns what is said of TLS, if the connection must be under TLS.
    pub fn tls(&self) -> Option<&UriTls> {
        self.tls.as_ref()
    }
}

/// The URI as it was given.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn part(part: &'static str) -> UriError {
    UriError::Part { part }
}

/// Returns what a connection under TLS needs.
fn tls(named: NamedTls, address: &Address) -> Result<UriTls, UriError> {
    let certificates = named.certificates.ok_or_else(|| {
        part(
            "TLS needs `tls-certificates=` and the folder with ca-cert.pem, and client-cert.pem \
             and client-key.pem if the server asks who we are",
        )
    })?;
    let hostname = named.hostname.unwrap_or_else(|| match address {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Tcp { host, .. } => host.clone(),
    });
    Ok(UriTls {
        certificates,
        hostname,
    })
}

/// Returns the host and port, if there are any.
fn host(uri: &fluent_uri::Uri<&str>) -> Result<Option<Address>, UriError> {
    let Some(authority) = uri.authority() else {
        return Ok(None);
    };
    if authority.has_userinfo() {
        return Err(part(
            "a user's name goes with TLS-PSK, which is not supported",
        ));
    }
    let port = authority.port_to_u16().map_err(|_| UriError::Port)?;
    let host = authority.host();
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => (address.parse::<Ipv6Addr>().ok())
            .ok_or_else(|| part("what stands in brackets is not an IPv6 address"))?
            .to_string(),
        None => {
            (decode(host).and_then(|name| String::from_utf8(name).ok())).ok_or(UriError::Syntax)?
        }
    };
    match (host.is_empty(), port) {
        (_, Some(0)) => Err(UriError::Port),
        (true, None) => Ok(None),
        (true, Some(_)) => Err(part("a port needs a host before it")),
        (false, port) => Ok(Some(Address::Tcp {
            host,
            port: port.unwrap_or(PORT),
        })),
    }
}

fn export(path: &str) -> Result<String, UriError> {
    let name = path.strip_prefix('/').unwrap_or(path);
    let name = decode(name)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| part("the export's name is not UTF-8"))?;
    if name.contains('\0') {
        return Err(part("the export's name holds a zero byte"));
    }
    if name.len() > STRING_LEN_MAX {
        return Err(part("the export's name is longer than 4096 bytes"));
    }
    Ok(name)
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                *hex::decode(digits).ok()?.first()?
            }
            _ => byte,
        });
    }
    Some(decoded)
}

/// What stands after the question mark.
#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    tls: NamedTls,
}

/// What the parameters say of TLS.
#[derive(Default)]
struct NamedTls {
    certificates: Option<PathBuf>,
    hostname: Option<String>,
    has_other: bool,
}

impl NamedTls {
    fn is_given(&self) -> bool {
        self.certificates.is_some() || self.hostname.is_some() || self.has_other
    }
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, UriError> {
        let mut parameters = Self::default();
        let mut seen = Vec::new();
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = decode(value).ok_or(UriError::Syntax)?;
            let name = parameters.take(name, value)?;
            if seen.contains(&name) {
                return Err(UriError::Repeated { name });
            }
            seen.push(name);
        }
        Ok(parameters)
    }

    /// Takes one parameter in, and returns its name.
    fn take(&mut self, name: &str, value: Vec<u8>) -> Result<&'static str, UriError> {
        match name {
            "socket" => {
                let name = "socket";
                self.socket = Some(socket(name, value)?);
                Ok(name)
            }
            "tls-certificates" => {
                let name = "tls-certificates";
                self.tls.certificates = Some(path(name, value)?);
                Ok(name)
            }
            "tls-hostname" => {
                let name = "tls-hostname";
                let hostname = String::from_utf8(value)
                    .ok()
                    .filter(|host| !host.is_empty());
                let fault = "is not a name";
                self.tls.hostname = Some(hostname.ok_or(UriError::Value { name, fault })?);
                Ok(name)
            }
            "tls-type" => {
                let name = "tls-type";
                let fault = "can only be x509";
                self.tls.has_other = true;
                match value.as_slice() {
                    b"x509" => Ok(name),
                    _ => Err(UriError::Value { name, fault }),
                }
            }
            "tls-verify-peer" => {
                let name = "tls-verify-peer";
                let fault = "can only be 1: who the server is will always be verified";
                self.tls.has_other = true;
                match value.as_slice() {
                    b"1" => Ok(name),
                    _ => Err(UriError::Value { name, fault }),
                }
            }
            _ => Err(UriError::UnknownParameter {
                name: name.chars().take(64).collect(),
            }),
        }
    }
}

fn socket(name: &'static str, value: Vec<u8>) -> Result<PathBuf, UriError> {
    let fault = if value.is_empty() {
        "is empty"
    } else if value.len() > SOCKET_PATH_LEN_MAX {
        "is longer than 107 bytes, which is the system's limit"
    } else if value.iter().skip(1).any(|byte| *byte == 0) {
        "holds a zero byte"
    } else {
        return Ok(PathBuf::from(OsString::from_vec(value)));
    };
    Err(UriError::Value { name, fault })
}

fn path(name: &'static str, value: Vec<u8>) -> Result<PathBuf, UriError> {
    let fault = if value.is_empty() {
        "is empty"
    } else if value.contains(&0) {
        "holds a zero byte"
    } else {
        return Ok(PathBuf::from(OsString::from_vec(value)));
    };
    Err(UriError::Value { name, fault })
}
