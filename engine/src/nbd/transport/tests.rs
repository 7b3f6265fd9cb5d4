#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are its own"
)]

use std::path::{Path, PathBuf};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

/// A folder with QEMU's file names, removed at the end.
struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Makes an authority, a server's certificate for `names`, and a client's.
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca-cert.pem"), authority.pem()).unwrap();
        let made = Self(dir);
        made.issue("server", names, &authority);
        made.issue("client", &[], &authority);
        made
    }

    fn issue(&self, role: &str, names: &[&str], authority: &CertifiedIssuer<'_, KeyPair>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        let path = |what: &str| -> PathBuf { self.path().join(format!("{role}-{what}.pem")) };
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn plain_pair() -> (Stream, Stream) {
    let (one, other) = UnixStream::pair().unwrap();
    (
        Stream::plain(Socket::Unix(one)),
        Stream::plain(Socket::Unix(other)),
    )
}

fn tls_pair(
    client: &ClientTls,
    server: &ServerTls,
    name: &str,
) -> (Result<Stream, TlsError>, Result<Stream, TlsError>) {
    let (one, other) = plain_pair();
    thread::scope(|scope| {
        let accepted = scope.spawn(|| other.into_tls_server(server));
        let connected = one.into_tls_client(client, name);
        (connected, accepted.join().unwrap())
    })
}

/// Sends much both ways at once, and checks that all of it arrives.
fn exchange(one: Stream, other: Stream) {
    const LEN: usize = 9 << 20;
    let bytes: Vec<u8> = (0..LEN).map(|place| (place % 251) as u8).collect();
    let bytes = &bytes;
    thread::scope(|scope| {
        for stream in [one, other] {
            let (mut receiver, mut sender) = stream.split();
            scope.spawn(move || {
                let (head, tail) = bytes.split_at(29);
                let parts = [IoSlice::new(&[]), IoSlice::new(head), IoSlice::new(tail)];
                sender.write_all_parts(&parts).unwrap();
                sender.finish().unwrap();
            });
            scope.spawn(move || {
                let mut got = Vec::new();
                receiver.read_to_end(&mut got).unwrap();
                assert!(got == *bytes, "{} bytes arrived", got.len());
            });
        }
    });
}

#[test]
fn both_ways_at_once() {
    let (one, other) = plain_pair();
    exchange(one, other);
    let certificates = Certificates::new(&["disk.example"]);
    let client = ClientTls::load(certificates.path()).unwrap();
    for verify_peer in [false, true] {
        let server = ServerTls::load(certificates.path(), verify_peer).unwrap();
        let (one, other) = tls_pair(&client, &server, "disk.example");
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.is_tls() && other.is_tls());
        exchange(one, other);
    }
}

#[test]
fn who_cannot_prove_a_name_is_refused() {
    let certificates = Certificates::new(&["disk.example"]);
    let client = ClientTls::load(certificates.path()).unwrap();
    let server = ServerTls::load(certificates.path(), false).unwrap();
    let (refused, _) = tls_pair(&client, &server, "other.example");
    assert!(matches!(refused, Err(TlsError::Handshake(_))));
    let stranger = ClientTls::load(Certificates::new(&[]).path()).unwrap();
    let (refused, _) = tls_pair(&stranger, &server, "disk.example");
    assert!(matches!(refused, Err(TlsError::Handshake(_))));
    let server = ServerTls::load(certificates.path(), true).unwrap();
    let (_, refused) = tls_pair(&stranger, &server, "disk.example");
    assert!(matches!(refused, Err(TlsError::Handshake(_))));
}

#[test]
fn a_certificate_without_san_says_how_to_reissue_it() {
    let certificates = Certificates::new(&[]);
    let client = ClientTls::load(certificates.path()).unwrap();
    let server = ServerTls::load(certificates.path(), false).unwrap();
    let (refused, _) = tls_pair(&client, &server, "disk.example");
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("-addext subjectAltName=DNS:disk.example"),
        "{text}"
    );
    assert!(text.contains("dns_name = \"disk.example\""), "{text}");
    let (refused, _) = tls_pair(&client, &server, "::1");
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("subjectAltName=IP:::1"), "{text}");
}

#[test]
fn an_end_that_the_peer_did_not_tell_is_an_error() {
    let certificates = Certificates::new(&["disk.example"]);
    let client = ClientTls::load(certificates.path()).unwrap();
    let server = ServerTls::load(certificates.path(), false).unwrap();
    let (one, other) = tls_pair(&client, &server, "disk.example");
    drop(other.unwrap());
    let error = one.unwrap().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_reader_that_waits_is_woken() {
    let (one, _other) = plain_pair();
    one.set_timeout(Some(Duration::from_millis(20))).unwrap();
    let closer = one.closer().unwrap();
    let (mut receiver, sender) = one.split();
    let error = receiver.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    sender.socket().set_timeout(None).unwrap();
    thread::scope(|scope| {
        let read = scope.spawn(move || receiver.read(&mut [0]));
        closer.close();
        assert_eq!(read.join().unwrap().unwrap(), 0);
    });
}

#[test]
fn files_that_are_missing_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = ClientTls::load(dir.path()).unwrap_err().to_string();
    assert!(text.contains("ca-cert.pem"), "{text}");
    let text = ServerTls::load(dir.path(), false).unwrap_err().to_string();
    assert!(text.contains("server-cert.pem"), "{text}");
    std::fs::write(dir.path().join("ca-cert.pem"), "nothing").unwrap();
    let error = ClientTls::load(dir.path()).unwrap_err();
    assert!(matches!(error, TlsError::Empty { .. }), "{error}");
}
