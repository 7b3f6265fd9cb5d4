//! The NBD client where servers are slow, fail or go away.

use cairn_engine::source::Source;

use crate::nbd_peers::{Peer, chain, raw};
use crate::qemu::{Folder, text};
use crate::support::waiting::wait_for;

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
fn a_server_that_dies_is_a_clear_error() {
    let folder = Folder::new();
    let log = folder.path("log");
    let args = ["--filter=log", "--filter=delay", "pattern", "64M"];
    let logged = format!("logfile={}", text(&log));
    let mut peer = Peer::nbdkit(&[&args[..], &["rdelay=600", &logged]].concat());
    let source = peer.open("", None).expect("the export opens");
    let error = std::thread::scope(|scope| {
        let read = scope.spawn(|| source.read_at(0, &mut vec![0; 8 << 20]));
        wait_for("a read", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            said.contains(" Read ")
        });
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
