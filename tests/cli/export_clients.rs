//! `cairn export` and the clients that are used with it: over the network, under TLS, and through
//! the death of the server.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::export::{Served, id};
use crate::world::{KIB, MIB, Ran, World, disk, text};

/// Makes an authority, and certificates of it for a server and a client, in `pki`; `bare` gets
/// what a client without a certificate has.
fn certificates(world: &World) {
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
        fs::write(world.path(name), text).expect("there is space");
    };
    for folder in ["pki", "bare"] {
        fs::create_dir(world.path(folder)).expect("a folder can be made");
        write(&format!("{folder}/ca-cert.pem"), made.pem());
    }
    for (name, names) in [
        ("server", &["localhost", "127.0.0.1"][..]),
        ("client", &["client"]),
    ] {
        let key = key();
        let made = params(name, names)
            .signed_by(&key, &issuer)
            .expect("it can be signed");
        write(&format!("pki/{name}-cert.pem"), made.pem());
        write(&format!("pki/{name}-key.pem"), key.serialize_pem());
    }
}

fn nbdinfo(uri: &str) -> Ran {
    Ran::of(Command::new("nbdinfo").args(["--json", uri]))
}

#[test]
fn nbdinfo_sees_the_same_on_the_network_and_under_tls() {
    let world = World::new();
    let bytes = disk(90, 5 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    certificates(&world);
    let (all, bare) = (world.path("pki"), world.path("bare"));
    let (all, bare) = (text(&all), text(&bare));
    let plain = ["web1", "--listen", "127.0.0.1:0"];
    let tls = [&plain[..], &["--tls-certificates", "pki"]].concat();
    let verified = [&tls[..], &["--tls-verify-peer"]].concat();
    for (args, is_tls, is_verified) in [
        (&plain[..], false, false),
        (&tls, true, false),
        (&verified, true, true),
    ] {
        let served = Served::start(&world, 1, args);
        let uri = &served.uris[0];
        let scheme = if is_tls { "nbds" } else { "nbd" };
        assert!(uri.starts_with(&format!("{scheme}://127.0.0.1:")), "{uri}");
        let with = |folder: &str| match is_tls {
            true => format!("{uri}?tls-certificates={folder}"),
            false => uri.clone(),
        };
        let seen = nbdinfo(&with(all));
        assert_eq!(seen.code, 0, "{seen:?}");
        let seen = seen.document();
        let export = &seen["exports"][0];
        assert_eq!(
            (
                &seen["TLS"],
                &export["export-size"],
                &export["is_read_only"]
            ),
            (&is_tls.into(), &bytes.len().into(), &true.into())
        );
        world.tool("nbdcopy", &[&with(all), "read.raw"]);
        assert!(fs::read(world.path("read.raw")).expect("it was copied") == bytes);
        let without = nbdinfo(&with(bare));
        assert_eq!(without.code == 0, !is_verified, "{without:?}");
        if is_tls {
            let unencrypted = nbdinfo(&uri.replace("nbds://", "nbd://"));
            assert_ne!(unencrypted.code, 0, "{unencrypted:?}");
        }
        assert_eq!(served.end("-TERM"), Some(0));
    }
}

#[test]
fn a_list_names_the_disks_of_all_snapshots() {
    let world = World::new();
    world.raw("a.raw", &disk(91, MIB));
    world.raw("b.raw", &disk(92, 2 * MIB));
    let first = id(&world.backup("a.raw"));
    let second = id(&world.backup("b.raw"));
    let args = [&first[..12], &second[..12], "--socket", "s"];
    let served = Served::start(&world, 2, &args);
    let socket = world.path("s");
    let list = format!("nbd+unix:///?socket={}", text(&socket));
    let listed = world.tool("nbdinfo", &["--json", "--list", &list]);
    let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
    let listed = listed["exports"].as_array().expect("a list");
    let mut seen: Vec<(String, u64)> = listed
        .iter()
        .map(|export| {
            let name = export["export-name"].as_str().expect("a name").to_owned();
            (name, export["export-size"].as_u64().expect("a number"))
        })
        .collect();
    seen.sort_unstable();
    let mut expected = vec![
        (format!("web1@{first}/vda"), MIB),
        (format!("web1@{second}/vda"), 2 * MIB),
    ];
    expected.sort_unstable();
    assert_eq!(seen, expected);
    // Neither is the default one, and a bare target would be ambiguous.
    for name in ["", "vda"] {
        let uri = list.replace("///?", &format!("///{name}?"));
        assert_ne!(nbdinfo(&uri).code, 0);
    }
    drop(served);
}

#[test]
fn what_nobody_hears_harms_nobody() {
    let world = World::new();
    let bytes = disk(93, 2 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    let mut command = world.command(["export", "web1", "--socket", "s", "--verbose"]);
    command.stderr(Stdio::piped());
    let mut served = Served::of(command, 1);
    drop(served.child.stderr.take());
    for _ in 0..8 {
        world.tool("nbdcopy", &[&served.uris[0], "read.raw"]);
    }
    assert!(fs::read(world.path("read.raw")).expect("it was copied") == bytes);
    assert_eq!(served.end("-TERM"), Some(0));
}

/// Bytes that one request writes at most.
const SLOT: usize = 64 * KIB as usize;
/// Requests in flight.
const DEPTH: usize = 48;

#[test]
fn a_guest_that_reconnects_does_not_notice_that_its_server_dies() {
    let world = World::new();
    let mut bytes = disk(94, 16 * MIB);
    world.raw("a.raw", &bytes);
    world.backup("a.raw");
    let args = ["web1", "--socket", "s", "--writable", "over"];
    let mut served = Served::start(&world, 1, &args);
    let socket = world.path("s");
    let image = format!(
        "driver=nbd,server.type=unix,server.path={},export=vda,reconnect-delay=60",
        text(&socket)
    );
    let log = File::create(world.path("guest.log")).expect("a file can be made");
    let mut guest = Command::new("qemu-io")
        .args(["--image-opts", &image])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("there are files left"))
        .stderr(log)
        .spawn()
        .expect("qemu-io can be run (package qemu-utils)");
    let mut input = guest.stdin.take().expect("it is a pipe");
    let mut random = fastrand::Rng::with_seed(94);
    for round in 0..24_u8 {
        // Requests in flight have no order: those of one round are disjoint.
        let slots = random.choose_multiple(0..bytes.len() / SLOT, DEPTH);
        for slot in slots {
            let start = slot * SLOT + random.usize(0..SLOT / 512 / 2) * 512;
            let len = random.usize(1..=SLOT / 512 / 2) * 512;
            let pattern = random.u8(1..);
            bytes[start..start + len].fill(pattern);
            writeln!(input, "aio_write -q -P {pattern} {start} {len}").expect("it reads");
        }
        if round % 4 == 1 {
            // sleeps: so that the moment of the end is another each time.
            thread::sleep(Duration::from_millis(random.u64(0..20)));
            // A crash most of the time, and an orderly end.
            let signal = if round % 8 == 5 { "-TERM" } else { "-KILL" };
            served.end(signal);
            served = Served::start(&world, 1, &args);
        }
        writeln!(input, "aio_flush").expect("it reads");
    }
    writeln!(input, "flush\nquit").expect("it reads");
    drop(input);
    let ended = guest.wait().expect("it is a child");
    let said = fs::read_to_string(world.path("guest.log")).expect("it is text");
    assert!(ended.success() && !said.contains("failed"), "{said}");
    assert_eq!(served.end("-KILL"), None);
    let served = Served::start(&world, 1, &args);
    world.tool("nbdcopy", &[&served.uris[0], "read.raw"]);
    assert!(fs::read(world.path("read.raw")).expect("it was copied") == bytes);
}
