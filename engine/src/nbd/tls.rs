//! Certificates of both sides, from a folder with QEMU's file names: `ca-cert.pem`, `ca-crl.pem`
//! (only if there are revoked ones), and `client-cert.pem` with `client-key.pem` or
//! `server-cert.pem` with `server-key.pem`.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, InvalidDnsNameError, PrivateKeyDer, ServerName,
};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
};

/// A TLS failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file of certificates or keys cannot be read.
    #[error("cannot read {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file holds nothing of what its name says.
    #[error("{path} holds no certificate in PEM", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificates or keys cannot be used together.
    #[error("the certificates in {dir} cannot be used", dir = dir.display())]
    Certificates {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate authority or its list of revoked certificates cannot be used.
    #[error("the certificate authority in {dir} cannot be used", dir = dir.display())]
    Authority {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
    /// The server's name is neither a host name nor an address.
    #[error("`{name}` is not a name that a certificate can have")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// The server's certificate says nowhere whom it is for in the way that counts.
    #[error(
        "the server's certificate has no subjectAltName, and its common name does not count: \
         reissue it for `{name}` (openssl: `-addext subjectAltName={kind}:{name}`; certtool: \
         `{field} = \"{name}\"` in the template)",
        kind = alt_name_kind(name).0,
        field = alt_name_kind(name).1
    )]
    NoSubjectAltName {
        /// The name that was looked for.
        name: String,
        /// The failed handshake.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// Returns what openssl and certtool call the kind of a name.
fn alt_name_kind(name: &str) -> (&'static str, &'static str) {
    match name.parse::<std::net::IpAddr>() {
        Ok(_) => ("IP", "ip_address"),
        Err(_) => ("DNS", "dns_name"),
    }
}

/// What a client presents, and whom it believes.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Loads `ca-cert.pem` from a folder, and `client-cert.pem` with `client-key.pem` where they
    /// are.
    ///
    /// # Errors
    ///
    /// A file that is missing or wrong.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let wrong = |source| certificates(dir, source);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(dir)?, provider())
            .with_crls(revoked(dir)?)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|source| authority(dir, source))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_webpki_verifier(verifier);
        let config = match dir.join("client-cert.pem").exists() {
            true => {
                let (chain, key) = identity(dir, "client")?;
                config.with_client_auth_cert(chain, key).map_err(wrong)?
            }
            false => config.with_no_client_auth(),
        };
        Ok(Self(Arc::new(config)))
    }

    /// Begins a session with the server that certificates call `name`.
    pub(super) fn connect(&self, name: &str) -> Result<ClientConnection, TlsError> {
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|source| TlsError::Name {
                name: name.to_owned(),
                source,
            })?;
        ClientConnection::new(Arc::clone(&self.0), server_name)
            .map_err(|source| TlsError::Handshake(io::Error::other(source)))
    }
}

/// What a server presents, and whose clients it lets in.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// Loads `server-cert.pem` and `server-key.pem` from a folder. With `verify_peer`, clients
    /// need a certificate of the authority in `ca-cert.pem`; else everyone is let in.
    ///
    /// # Errors
    ///
    /// A file that is missing or wrong.
    pub fn load(dir: &Path, verify_peer: bool) -> Result<Self, TlsError> {
        let wrong = |source| certificates(dir, source);
        let (chain, key) = identity(dir, "server")?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let config = match verify_peer {
            true => config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots(dir)?, provider())
                    .with_crls(revoked(dir)?)
                    .only_check_end_entity_revocation()
                    .allow_unknown_revocation_status()
                    .build()
                    .map_err(|source| authority(dir, source))?,
            ),
            false => config.with_no_client_auth(),
        };
        let config = config.with_single_cert(chain, key).map_err(wrong)?;
        Ok(Self(Arc::new(config)))
    }

    /// Begins a session with a client.
    pub(super) fn accept(&self) -> Result<ServerConnection, TlsError> {
        ServerConnection::new(Arc::clone(&self.0))
            .map_err(|source| TlsError::Handshake(io::Error::other(source)))
    }
}

/// Tells a certificate without subjectAltName from what else can fail a client's handshake.
pub(super) fn handshake_failed(name: &str, source: io::Error) -> TlsError {
    let cause = source.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) if presented.is_empty() => TlsError::NoSubjectAltName {
            name: name.to_owned(),
            source,
        },
        _ => TlsError::Handshake(source),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(dir: &Path, source: rustls::Error) -> TlsError {
    let dir = dir.to_path_buf();
    TlsError::Certificates { dir, source }
}

fn authority(dir: &Path, source: VerifierBuilderError) -> TlsError {
    let dir = dir.to_path_buf();
    TlsError::Authority { dir, source }
}

/// Reads every item of a kind from a PEM file; there is at least one.
fn items<T: PemObject + Debug>(path: PathBuf) -> Result<Vec<T>, TlsError> {
    let read = T::pem_file_iter(&path).and_then(Iterator::collect);
    match read {
        Ok(items) if Vec::is_empty(&items) => Err(TlsError::Empty { path }),
        Ok(items) => Ok(items),
        Err(source) => Err(TlsError::File { path, source }),
    }
}

fn roots(dir: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in items::<CertificateDer<'static>>(dir.join("ca-cert.pem"))? {
        roots
            .add(certificate)
            .map_err(|source| certificates(dir, source))?;
    }
    Ok(Arc::new(roots))
}

fn revoked(dir: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let path = dir.join("ca-crl.pem");
    match path.exists() {
        true => items(path),
        false => Ok(Vec::new()),
    }
}

/// A certificate with those between it and the authority, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(dir: &Path, role: &str) -> Result<Identity, TlsError> {
    let chain = items(dir.join(format!("{role}-cert.pem")))?;
    let path = dir.join(format!("{role}-key.pem"));
    match PrivateKeyDer::from_pem_file(&path) {
        Ok(key) => Ok((chain, key)),
        Err(source) => Err(TlsError::File { path, source }),
    }
}
