//! The NBD client against servers of others: all of them give the same bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use cairn_engine::extent::ExtentStatus;
use cairn_engine::limits::BLOCK_LEN;
use cairn_engine::nbd::client::handshake::Replies;
use cairn_engine::nbd::client::{Client, ClientOptions};
use cairn_engine::source::{NbdSource, Source};

use crate::nbd_peers::{Peer, chain, qemu_replies, raw, read_all, uri};
use crate::qemu::{Folder, MIB, io, mixed_bytes, run, text};

fn disk(seed: u64, len: u64) -> Vec<u8> {
    mixed_bytes(len, &mut fastrand::Rng::with_seed(seed))
}

fn replies(peer: &Peer, export: &str) -> Replies {
    let options = ClientOptions::default();
    let client = Client::connect(&peer.uri(export), &[], &options).expect("the server answers");
    client.replies()
}

/// Asserts that zeros are told only where they are, and returns how many bytes are.
fn zeros_told(source: &dyn Source, bytes: &[u8]) -> u64 {
    let mut told = 0;
    let mut at = 0;
    for extent in source.extents(0..source.size()).expect("extents come") {
        assert_eq!(extent.offset, at);
        at = extent.range().end;
        if extent.status == ExtentStatus::Zero {
            let range = extent.offset as usize..at as usize;
            assert!(bytes[range].iter().all(|byte| *byte == 0), "{extent:?}");
            told += extent.len;
        }
    }
    assert_eq!(at, source.size());
    told
}

#[test]
fn qemu_gives_compressed_images_over_several_connections() {
    let folder = Folder::new();
    let (plain, packed) = (folder.path("disk.raw"), folder.path("disk.qcow2"));
    let mut bytes = disk(1, 80 * MIB);
    bytes[20 << 20..40 << 20].fill(0);
    raw(&plain, &bytes);
    let convert = ["convert", "-c", "-O", "qcow2", text(&plain), text(&packed)];
    run("qemu-img", &convert);
    let peer = Peer::qemu(&["-f", "qcow2", "-e", "8"], &packed);
    assert_eq!(replies(&peer, "vda"), qemu_replies());
    let client = Client::connect(&peer.uri("vda"), &[], &ClientOptions::default());
    assert_eq!(client.expect("connects").connections(), 4);
    let source = peer.open("vda", None).expect("the export opens");
    assert!(read_all(&source) == bytes);
    assert!(zeros_told(&source, &bytes) >= 20 * MIB);
    drop((source, peer));

    // One that takes a single connection says so.
    let peer = Peer::qemu(&["-f", "qcow2", "-e", "1"], &packed);
    let source = peer.open("vda", None).expect("the export opens");
    assert!(read_all(&source) == bytes);
}

#[test]
fn nbdkit_gives_the_same_bytes_whatever_it_hides() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    // An odd length: nothing at all is aligned at the end.
    let bytes = disk(2, 5 * MIB + 4321);
    raw(&path, &bytes);
    let file = text(&path);
    for (args, expected) in [
        (vec!["file", file], Replies::Structured),
        (vec!["--no-sr", "file", file], Replies::Simple),
        (
            vec!["--mask-handshake=1", "file", file],
            Replies::Structured,
        ),
        (vec!["--mask-handshake=0", "file", file], Replies::Simple),
        (vec!["--mask-handshake=2", "file", file], Replies::Simple),
        (vec!["--oldstyle", "file", file], Replies::Simple),
    ] {
        let peer = Peer::nbdkit(&args);
        assert_eq!(replies(&peer, ""), expected, "{args:?}");
        let source = peer
            .open("", None)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(source.size(), bytes.len() as u64, "{args:?}");
        assert!(read_all(&source) == bytes, "{args:?}");
        let zeros = zeros_told(&source, &bytes);
        assert!(expected == Replies::Structured || zeros == 0, "{args:?}");
        assert!(source.has_unchanged());
    }
}

#[test]
fn a_server_that_breaks_off_at_an_option_is_asked_the_old_way() {
    // One that ends the connection at every option but the export's name.
    let folder = Folder::new();
    let socket = folder.path("socket");
    let listener = UnixListener::bind(&socket).expect("the socket is free");
    let bytes = disk(3, 2 * MIB);
    let served = bytes.clone();
    let server = std::thread::spawn(move || {
        for turn in 0..2 {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            if turn == 0 {
                let mut taken = [0; 12];
                stream.write_all(b"NBDMAGICIHAVEOPT\0\x01").expect("greets");
                stream
                    .read_exact(&mut taken)
                    .expect("flags, and half an option");
                continue;
            }
            let data = nbd::server::handshake(&stream, |name| {
                assert_eq!(name, "old");
                Ok(nbd::server::Export {
                    size: served.len() as u64,
                    readonly: true,
                    resizeable: false,
                    rotational: false,
                    send_trim: false,
                    send_flush: false,
                    data: (),
                })
            });
            data.expect("shakes hands");
            let disk = std::io::Cursor::new(served.clone());
            // Ends with the connection.
            drop(nbd::server::transmission(&stream, disk));
        }
    });
    let uri = uri(&format!("nbd+unix:///old?socket={}", text(&socket)));
    let source = cairn_engine::source::NbdSource::open(&uri, None)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(read_all(&source) == bytes);
    drop(source);
    server.join().expect("the server is content");
}

#[test]
fn block_sizes_are_kept() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    let bytes = disk(4, 3 * MIB);
    raw(&path, &bytes);
    let peer = Peer::nbdkit(&[
        "--filter=blocksize-policy",
        "file",
        text(&path),
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=64K",
        "blocksize-error-policy=error",
    ]);
    let source = peer.open("", None).expect("the export opens");
    assert!(read_all(&source) == bytes);
    let extents = source.extents(5000..6000).expect("extents come");
    assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), 1000);
}

#[test]
fn status_may_be_told_of_every_byte() {
    // The filter moves what the plugin tells in pages to where no sector begins.
    let args = [
        "--filter=offset",
        "data",
        "@65535 1 @1200000 0",
        "offset=1",
        "range=1047552",
    ];
    let peer = Peer::nbdkit(&args);
    let source = peer.open("", None).expect("the export opens");
    let bytes = read_all(&source);
    assert_eq!(bytes[65534], 1);
    assert!(zeros_told(&source, &bytes) > 0);
}

#[test]
fn a_bitmap_tells_what_changed() {
    let folder = Folder::new();
    let (plain, image) = (folder.path("disk.raw"), folder.path("disk.qcow2"));
    raw(&plain, &disk(5, 20 * MIB));
    run(
        "qemu-img",
        &["convert", "-O", "qcow2", text(&plain), text(&image)],
    );
    run("qemu-img", &["bitmap", "--add", text(&image), "b0"]);
    let commands = ["write -P 1 1M 64k", "write -z 3M 128k", "write -P 2 19M 1"];
    io(&image, "qcow2", &commands.map(str::to_owned));
    let peer = Peer::qemu(&["-f", "qcow2", "-B", "b0"], &image);
    for name in ["b0", "qemu:dirty-bitmap:b0"] {
        let source = peer.open("vda", Some(name)).expect("the bitmap is there");
        let mut told = Vec::new();
        for extent in source.extents(0..source.size()).expect("extents come") {
            if extent.status != ExtentStatus::Unchanged {
                told.push((extent.offset, extent.len, extent.status));
            }
        }
        let expected = [
            (MIB, BLOCK_LEN, ExtentStatus::Data),
            (3 * MIB, 2 * BLOCK_LEN, ExtentStatus::Zero),
            (19 * MIB, BLOCK_LEN, ExtentStatus::Data),
        ];
        assert_eq!(told, expected);
    }
    let error = chain(&peer.open("vda", Some("b1")).expect_err("there is no b1"));
    assert!(error.contains("`qemu:dirty-bitmap:b1`"), "{error}");
    assert!(error.contains("`qemu:dirty-bitmap:b0`"), "{error}");
    let error = chain(&peer.open("sda", None).expect_err("there is no sda"));
    assert!(
        error.contains("`sda`") && error.contains("`vda`"),
        "{error}"
    );
}

#[test]
fn a_server_without_contexts_has_no_bitmap() {
    let peer = Peer::nbdkit(&["--no-sr", "memory", "1M"]);
    let error = chain(&peer.open("", Some("b0")).expect_err("there is none"));
    assert!(error.contains("`qemu:dirty-bitmap:b0`"), "{error}");
}

#[test]
fn tcp_carries_the_same() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    let bytes = disk(6, 3 * MIB);
    raw(&path, &bytes);
    let (_peer, port) = Peer::nbdkit_tcp(&["file", text(&path)]);
    for host in ["127.0.0.1", "localhost"] {
        let source = NbdSource::open(&uri(&format!("nbd://{host}:{port}")), None);
        let source = source.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(read_all(&source) == bytes);
    }
}

#[test]
fn a_running_qemu_exports_the_same_with_its_bitmap() {
    let folder = Folder::new();
    let (plain, image) = (folder.path("disk.raw"), folder.path("disk.qcow2"));
    let mut bytes = disk(7, 12 * MIB);
    raw(&plain, &bytes);
    let convert = ["convert", "-O", "qcow2", text(&plain), text(&image)];
    run("qemu-img", &convert);
    run("qemu-img", &["bitmap", "--add", text(&image), "b0"]);
    io(&image, "qcow2", &["write -P 7 5M 64k".to_owned()]);
    bytes[5 << 20..][..64 << 10].fill(7);
    let peer = Peer::block_export(&image, "b0");
    assert_eq!(replies(&peer, "vda"), qemu_replies());
    let source = peer.open("vda", Some("b0"));
    let source = source.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(read_all(&source) == bytes);
    let extents = source.extents(0..source.size()).expect("extents come");
    let told: Vec<_> = (extents.iter())
        .filter(|extent| extent.status != ExtentStatus::Unchanged)
        .map(|extent| (extent.offset, extent.len, extent.status))
        .collect();
    assert_eq!(told, [(5 * MIB, BLOCK_LEN, ExtentStatus::Data)]);
    let whole = peer.open("vda", None).expect("the export opens");
    zeros_told(&whole, &bytes);
}

#[test]
fn a_server_that_fails_to_tell_is_read_whole_and_that_is_told() {
    let folder = Folder::new();
    let failing = folder.path("failing");
    let trigger = format!("error-file={}", text(&failing));
    let args = [
        "--filter=error",
        "memory",
        "8M",
        "error-extents=EIO",
        "error-extents-rate=100%",
    ];
    let peer = Peer::nbdkit(&[&args[..], &[&trigger]].concat());
    let data_only = |source: &NbdSource| {
        let extents = source
            .extents(0..source.size())
            .expect("that is no failure");
        extents
            .iter()
            .all(|extent| extent.status == ExtentStatus::Data)
            && extents.iter().map(|extent| extent.len).sum::<u64>() == source.size()
    };
    // In the middle of it.
    let source = peer.open("", None).expect("the export opens");
    assert!(!data_only(&source) && source.untold().is_none());
    raw(&failing, b"");
    assert!(data_only(&source));
    let reason = source.untold().expect("that is told");
    assert!(
        reason.contains("block status") && reason.contains("EIO"),
        "{reason}"
    );
    // From the beginning.
    let source = peer.open("", None).expect("the export opens");
    assert!(source.untold().is_some() && data_only(&source));
    assert!(read_all(&source).iter().all(|byte| *byte == 0));
}
