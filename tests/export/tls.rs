//! TLS, with certificates of every kind.

use std::fs;
use std::path::Path;
use std::process::Command;

use cairn_engine::nbd::tls::ServerTls;
use cairn_engine::nbd::wire::{opt, rep};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::disks::MemoryDisk;
use crate::peer::Peer;
use crate::support::waiting::wait_for;
use crate::world::{Options, World, export};

const SIZE: usize = 3 << 20;

/// Makes an authority, and certificates of it for a server and a client, in a folder.
fn certificates(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder can be made");
    let key = || KeyPair::generate().expect("a key can be made");
    let params = |name: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = params("authority", &[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = key();
    let made = authority
        .self_signed(&authority_key)
        .expect("it can be signed");
    let issuer = Issuer::new(authority, authority_key);
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).expect("there is space");
    };
    write("ca-cert.pem", made.pem());
    for (name, names) in [
        ("server", &["localhost", "127.0.0.1"][..]),
        ("client", &["client"]),
    ] {
        let key = key();
        let made = params(name, names)
            .signed_by(&key, &issuer)
            .expect("it can be signed");
        write(&format!("{name}-cert.pem"), made.pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

fn world(is_tcp: bool, verify_peer: bool) -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    certificates(folder.path());
    let tls = ServerTls::load(folder.path(), verify_peer).expect("the certificates are good");
    let world = World::with(Options {
        tls: Some(tls),
        is_tcp,
        ..Options::of(vec![export(MemoryDisk::new(MemoryDisk::mixed(SIZE)), None)])
    });
    (world, folder)
}

#[test]
fn libnbd_and_qemu_read_under_tls() {
    for verify_peer in [false, true] {
        let (world, folder) = world(true, verify_peer);
        let address = world.address.clone().expect("it is on the network");
        let port = address.rsplit_once(':').expect("it has a port").1;
        let folder = folder.path().display();
        let uri = format!("nbds://localhost:{port}/vda?tls-certificates={folder}");
        let seen = world.tool("nbdinfo", &["--json", &uri]);
        let seen: serde_json::Value = serde_json::from_str(&seen).expect("JSON");
        assert_eq!(
            (&seen["TLS"], &seen["exports"][0]["export-size"]),
            (&true.into(), &SIZE.into())
        );
        world.tool("nbdcopy", &[&uri, "copy.raw"]);
        let copied = fs::read(world.path("copy.raw")).expect("it was copied");
        assert!(copied == MemoryDisk::mixed(SIZE));

        let creds = format!("tls-creds-x509,id=tls0,endpoint=client,dir={folder}");
        let image = format!(
            "driver=nbd,server.type=inet,server.host=localhost,server.port={port},\
             export=vda,tls-creds=tls0"
        );
        let args = [
            "convert",
            "--object",
            &creds,
            "--image-opts",
            &image,
            "-O",
            "raw",
            "qemu.raw",
        ];
        world.tool("qemu-img", &args);
        assert!(fs::read(world.path("qemu.raw")).expect("it was copied") == copied);
    }
}

#[test]
fn who_shows_no_certificate_is_refused_where_one_is_asked_for() {
    let (world, folder) = world(true, true);
    for name in ["client-cert.pem", "client-key.pem"] {
        fs::remove_file(folder.path().join(name)).expect("it is there");
    }
    let address = world.address.clone().expect("it is on the network");
    let port = address.rsplit_once(':').expect("it has a port").1;
    let folder = folder.path().display();
    let uri = format!("nbds://localhost:{port}/vda?tls-certificates={folder}");
    let ran = Command::new("nbdinfo").arg(&uri).output();
    let ran = ran.expect("nbdinfo can be run (package libnbd-bin)");
    assert!(!ran.status.success());
    wait_for("it was sent away", || {
        let events = world.events.lock().expect("nobody panicked");
        events.iter().any(|event| event.starts_with("Refused"))
    });
}

#[test]
fn nothing_but_tls_and_goodbye_goes_before_tls() {
    let (world, _folder) = world(false, false);
    let mut peer = Peer::new(&world);
    for option in [
        opt::LIST,
        opt::GO,
        opt::INFO,
        opt::STRUCTURED_REPLY,
        opt::SET_META_CONTEXT,
        99,
    ] {
        assert_eq!(peer.outcome(option, &[]), rep::ERR_TLS_REQD);
    }
    assert_eq!(peer.outcome(opt::STARTTLS, b"x"), rep::ERR_INVALID);
    assert_eq!(peer.outcome(opt::ABORT, &[]), rep::ACK);
    let mut old = Peer::new(&world);
    old.send_option(opt::EXPORT_NAME, b"vda");
    assert!(old.is_closed());
    // What is sent on before TLS is there is no option.
    let mut hasty = Peer::new(&world);
    hasty.agree(opt::STARTTLS);
    hasty.send_option(opt::LIST, &[]);
    let mut said = Vec::new();
    drop(std::io::Read::read_to_end(&mut hasty.stream, &mut said));
    let reply = rep::SERVER.to_be_bytes();
    assert!(
        !said.windows(4).any(|four| four == reply),
        "the list was told"
    );
}
