//! The NBD client where servers are slow, fail or go away.

use std::time::{Duration, Instant};

use cairn_engine::source::Source;

use crate::nbd_peers::{Peer, chain, raw};
use crate::qemu::{Folder, text};

#[test]
fn failures_of_the_disk_are_told_and_harm_no_other_read() {
    let folder = Folder::new();
    let failing = folder.path("failing");
    let trigger = format!("error-file={}", text(&failing));
    let args = [
        "--filter=error",
        "pattern",
        "8M",
        "error-pread=EIO",
        "error-pread-rate=100%",
    ];
    let peer = Peer::nbdkit(&[&args[..], &["error-rate=100%", &trigger]].concat());
    let source = peer.open("", None).expect("the export opens");
    raw(&failing, b"");
    let error = chain(
        &source
            .read_at(4096, &mut [0; 100])
            .expect_err("the disk fails"),
    );
    assert!(error.contains("EIO") && error.contains("4096"), "{error}");
    std::fs::remove_file(&failing).expect("the file can go");
    let mut word = [0; 8];
    source
        .read_at(4096, &mut word)
        .expect("the disk is well again");
    assert_eq!(u64::from_be_bytes(word), 4096);
}

#[test]
fn requests_are_in_flight_at_once() {
    let delay = Duration::from_millis(200);
    let args = [
        "--threads",
        "16",
        "--filter=delay",
        "pattern",
        "8M",
        "rdelay=200ms",
    ];
    let peer = Peer::nbdkit(&args);
    let source = peer.open("", None).expect("the export opens");
    let started = Instant::now();
    let mut bytes = vec![0; 8 << 20];
    source.read_at(0, &mut bytes).expect("the disk can be read");
    // Sixteen requests, that one after the other take 3.2 s.
    assert!(started.elapsed() < 8 * delay, "{:?}", started.elapsed());
    let mut small = vec![0; 16 * 512];
    let mut parts: Vec<_> = (0..).zip(small.chunks_mut(512)).collect();
    parts.iter_mut().for_each(|(place, _)| *place *= 400_000);
    let started = Instant::now();
    source.read_many(&mut parts).expect("the disk can be read");
    assert!(started.elapsed() < 8 * delay, "{:?}", started.elapsed());
}

#[test]
fn a_server_that_dies_is_a_clear_error() {
    let mut peer = Peer::nbdkit(&["--filter=delay", "pattern", "64M", "rdelay=10"]);
    let source = peer.open("", None).expect("the export opens");
    let error = std::thread::scope(|scope| {
        let read = scope.spawn(|| source.read_at(0, &mut vec![0; 8 << 20]));
        std::thread::sleep(Duration::from_millis(100));
        peer.kill();
        read.join().expect("no panic").expect_err("nobody answers")
    });
    assert!(
        chain(&error).contains("the server closed the connection"),
        "{}",
        chain(&error)
    );
    let error = source.read_at(0, &mut [0; 1]).expect_err("nobody is there");
    assert!(
        chain(&error).contains("closed the connection"),
        "{}",
        chain(&error)
    );
    let error = peer.open("", None).expect_err("nobody listens");
    assert!(
        chain(&error).contains("cannot connect to"),
        "{}",
        chain(&error)
    );
}
