//! TLS against servers of others, with certificates as their manuals have them made.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_engine::source::{NbdSource, SourceError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use crate::nbd_peers::{Peer, chain, raw, read_all, uri};
use crate::qemu::{Folder, MIB, mixed_bytes, text};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key can be made");
    CertifiedIssuer::self_signed(params, key).expect("the authority signs itself")
}

/// Makes a folder with QEMU's file names: for each role its certificate, for the names given.
fn certificates(folder: &Folder, name: &str, by: &Authority, roles: &[(&str, &[&str])]) -> PathBuf {
    let dir = folder.path(name);
    fs::create_dir(&dir).expect("the folder is new");
    fs::write(dir.join("ca-cert.pem"), by.pem()).expect("can be written");
    for (role, names) in roles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(names).expect("the names are names");
        // QEMU wants the second one, though no suite of today uses it.
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let certificate = params.signed_by(&key, by).expect("the authority signs");
        let path = |what: &str| dir.join(format!("{role}-{what}.pem"));
        fs::write(path("cert"), certificate.pem()).expect("can be written");
        fs::write(path("key"), key.serialize_pem()).expect("can be written");
    }
    dir
}

fn open(peer: &Peer, export: &str, dir: &Path, name: &str) -> Result<NbdSource, SourceError> {
    let (socket, dir) = (peer.socket(), text(dir));
    let socket = text(&socket);
    let parameters = format!("socket={socket}&tls-certificates={dir}&tls-hostname={name}");
    NbdSource::open(&uri(&format!("nbds+unix:///{export}?{parameters}")), None)
}

fn qemu(image: &Path, dir: &Path, verify_peer: &str) -> Peer {
    let dir = text(dir);
    let object =
        format!("tls-creds-x509,id=tls0,endpoint=server,dir={dir},verify-peer={verify_peer}");
    let args = [
        "-f",
        "raw",
        "-e",
        "8",
        "--object",
        &object,
        "--tls-creds",
        "tls0",
    ];
    Peer::qemu(&args, image)
}

#[test]
fn qemu_and_nbdkit_are_read_under_tls() {
    let folder = Folder::new();
    let image = folder.path("disk.raw");
    let bytes = mixed_bytes(70 * MIB, &mut fastrand::Rng::with_seed(1));
    raw(&image, &bytes);
    let ours = authority();
    let server = certificates(&folder, "server", &ours, &[("server", &["disk.example"])]);
    let known = certificates(&folder, "known", &ours, &[("client", &[])]);
    let unknown = certificates(&folder, "unknown", &ours, &[]);
    let stranger = certificates(&folder, "stranger", &authority(), &[("client", &[])]);

    let dir = format!("--tls-certificates={}", text(&server));
    let nbdkit = |more: &[&str]| {
        let args = ["--tls=require", &dir, "file", text(&image)];
        Peer::nbdkit(&[more, &args[..]].concat())
    };
    for (peer, export, asks) in [
        (qemu(&image, &server, "yes"), "vda", true),
        (qemu(&image, &server, "no"), "vda", false),
        (nbdkit(&["--tls-verify-peer"]), "", true),
        (nbdkit(&[]), "", false),
    ] {
        let source = open(&peer, export, &known, "disk.example");
        let source = source.unwrap_or_else(|error| panic!("{export}: {}", chain(&error)));
        assert!(read_all(&source) == bytes);
        drop(source);
        let without = open(&peer, export, &unknown, "disk.example");
        assert_eq!(without.is_err(), asks, "{export}: no certificate");
        let wrong = open(&peer, export, &known, "other.example").expect_err("another name");
        assert!(chain(&wrong).contains("certificate"), "{}", chain(&wrong));
        let wrong = open(&peer, export, &stranger, "disk.example").expect_err("unknown issuer");
        let wrong = chain(&wrong);
        assert!(wrong.contains("invalid peer certificate"), "{wrong}");
        let plain = peer.open(export, None).expect_err("the server wants TLS");
        assert!(
            chain(&plain).contains("use the scheme nbds"),
            "{}",
            chain(&plain)
        );
    }
}

#[test]
fn a_certificate_without_san_says_how_to_reissue_it() {
    let folder = Folder::new();
    let image = folder.path("disk.raw");
    raw(&image, &[0; 65536]);
    let server = certificates(&folder, "server", &authority(), &[("server", &[])]);
    let peer = qemu(&image, &server, "no");
    let error = open(&peer, "vda", &server, "disk.example").expect_err("no name to check");
    let error = chain(&error);
    assert!(
        error.contains("-addext subjectAltName=DNS:disk.example"),
        "{error}"
    );
    assert!(error.contains("certtool"), "{error}");
}

#[test]
fn a_server_without_tls_is_not_talked_to_in_the_clear() {
    let folder = Folder::new();
    let dir = certificates(&folder, "client", &authority(), &[]);
    for args in [
        &["memory", "1M"][..],
        &["--oldstyle", "memory", "1M"],
        &["--mask-handshake=0", "memory", "1M"],
    ] {
        let peer = Peer::nbdkit(args);
        let error = open(&peer, "", &dir, "disk.example").expect_err("there is no TLS");
        let error = chain(&error);
        assert!(error.contains("does not offer TLS"), "{args:?}: {error}");
    }
}

#[test]
fn tls_goes_over_tcp_and_checks_the_host() {
    let folder = Folder::new();
    let image = folder.path("disk.raw");
    let bytes = mixed_bytes(5 * MIB, &mut fastrand::Rng::with_seed(2));
    raw(&image, &bytes);
    let ours = authority();
    let server = certificates(&folder, "server", &ours, &[("server", &["127.0.0.1"])]);
    let known = certificates(&folder, "known", &ours, &[("client", &[])]);
    let dir = format!("--tls-certificates={}", text(&server));
    let args = [
        "--tls=require",
        "--tls-verify-peer",
        &dir,
        "file",
        text(&image),
    ];
    let (_peer, port) = Peer::nbdkit_tcp(&args);
    let open = |host: &str, more: &str| {
        let known = text(&known);
        let uri = format!("nbds://{host}:{port}/?tls-certificates={known}{more}");
        NbdSource::open(&self::uri(&uri), None)
    };
    let source = open("127.0.0.1", "").unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(read_all(&source) == bytes);
    let named = open("localhost", "&tls-hostname=127.0.0.1");
    assert!(read_all(&named.unwrap_or_else(|error| panic!("{}", chain(&error)))) == bytes);
    let wrong = open("localhost", "").expect_err("the certificate is for another name");
    assert!(chain(&wrong).contains("certificate"), "{}", chain(&wrong));
}
