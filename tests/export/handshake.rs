//! The handshake, rule by rule.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use cairn_engine::nbd::wire::{GoQuery, Info, MetaQuery, flag, handshake, info, opt, rep};
use cairn_nbd_export::exports::{Export, Exports, ExportsError};

use crate::disks::{Fixed, MemoryDisk};
use crate::peer::Peer;
use crate::world::{Options, World, export};

const SIZE: usize = 1_000_001;

fn world() -> World {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    let bases = (0..300).map(|number| (Fixed::id(number), Vec::new()));
    let changes = Fixed(bases.collect::<BTreeMap<_, _>>());
    let other = Export {
        name: "web@1/vdb".to_owned(),
        aliases: Vec::new(),
        description: "zażółć".to_owned(),
        disk: MemoryDisk::writable(vec![1; 10]),
        changes: None,
    };
    World::with(Options::of(vec![
        export(disk, Some(Arc::new(changes))),
        other,
    ]))
}

fn go(name: &str, infos: Vec<u16>) -> Vec<u8> {
    let mut data = Vec::new();
    let name = name.to_owned();
    GoQuery { name, infos }.encode(&mut data);
    data
}

#[test]
fn exports_are_listed_and_described() {
    let world = world();
    let mut peer = Peer::new(&world);
    let mut listed = peer.option(opt::LIST, &[]);
    assert_eq!(listed.pop(), Some((rep::ACK, Vec::new())));
    let listed: Vec<_> = listed
        .iter()
        .map(|(kind, data)| {
            assert_eq!(*kind, rep::SERVER);
            MetaQuery::decode_server(data).expect("an entry")
        })
        .collect();
    let entry = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let expected = [
        entry("vda", "a disk of a test"),
        entry("web@1/vdb", "zażółć"),
    ];
    assert_eq!(listed, expected);
    assert_eq!(peer.outcome(opt::LIST, b"x"), rep::ERR_INVALID);

    let kinds = vec![info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 77];
    let replies = peer.option(opt::INFO, &go("", kinds));
    let infos: Vec<Info> = replies[..replies.len() - 1]
        .iter()
        .map(|(kind, data)| {
            assert_eq!(*kind, rep::INFO);
            Info::decode(data).expect("information")
        })
        .collect();
    let read_only = flag::HAS_FLAGS
        | flag::READ_ONLY
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE;
    assert!(infos.contains(&Info::Export {
        size: SIZE as u64,
        flags: read_only,
    }));
    assert!(infos.contains(&Info::Name("vda".to_owned())));
    assert!(infos.contains(&Info::Description("a disk of a test".to_owned())));
    let sizes = infos.iter().find_map(|info| match info {
        Info::BlockSize(sizes) => Some((sizes.minimum, sizes.preferred, sizes.maximum)),
        _ => None,
    });
    assert_eq!(sizes, Some((1, 65536, 33_554_432)));
    assert_eq!(infos.len(), 4);

    assert_eq!(
        peer.outcome(opt::INFO, &go("nobody", Vec::new())),
        rep::ERR_UNKNOWN
    );
    assert_eq!(
        peer.outcome(opt::GO, &go("nobody", Vec::new())),
        rep::ERR_UNKNOWN
    );
    assert_eq!(peer.outcome(opt::GO, &[0, 0, 0, 9, b'x']), rep::ERR_INVALID);
    peer.agree(opt::STRUCTURED_REPLY);
    let (size, flags) = peer.go("web@1/vdb");
    assert_eq!(size, 10);
    let writable = flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
    assert_eq!(
        flags,
        (read_only & !flag::READ_ONLY) | writable | flag::SEND_DF
    );
}

#[test]
fn options_that_make_no_sense_are_refused_and_the_next_is_answered() {
    let world = world();
    let mut peer = Peer::new(&world);
    assert_eq!(peer.outcome(4, b"what is this"), rep::ERR_UNSUP);
    assert_eq!(peer.outcome(99, &[7; 1000]), rep::ERR_UNSUP);
    assert_eq!(peer.outcome(opt::GO, &vec![0; 100_000]), rep::ERR_TOO_BIG);
    assert_eq!(peer.outcome(opt::STARTTLS, &[]), rep::ERR_UNSUP);
    assert_eq!(peer.outcome(opt::STARTTLS, b"x"), rep::ERR_INVALID);
    assert_eq!(peer.outcome(opt::STRUCTURED_REPLY, b"x"), rep::ERR_INVALID);
    peer.agree(opt::STRUCTURED_REPLY);
    assert_eq!(peer.outcome(opt::STRUCTURED_REPLY, &[]), rep::ERR_INVALID);
    peer.agree(opt::EXTENDED_HEADERS);
    assert_eq!(peer.outcome(opt::EXTENDED_HEADERS, &[]), rep::ERR_INVALID);
    assert_eq!(
        peer.outcome(opt::STRUCTURED_REPLY, &[]),
        rep::ERR_EXT_HEADER_REQD
    );
    assert_eq!(peer.outcome(opt::ABORT, b"bye"), rep::ACK);
    assert!(peer.is_closed());
}

#[test]
fn the_old_way_works_with_and_without_zeros_and_ends_where_it_cannot() {
    let world = world();
    for (flags, len) in [(0, 134), (handshake::FIXED_NEWSTYLE, 134), (3, 10)] {
        let mut peer = Peer::greeting(&world, flags);
        peer.send_option(opt::EXPORT_NAME, b"vda");
        let mut reply = vec![0; len];
        peer.stream.read_exact(&mut reply).expect("an answer");
        assert_eq!(reply[..8], (SIZE as u64).to_be_bytes());
        assert!(reply[10..].iter().all(|byte| *byte == 0));
        let expected = world_bytes();
        assert_eq!(
            peer.request(0, 0, 0, 100).ok().bytes(0, 100),
            expected[..100]
        );
    }
    let mut nobody = Peer::new(&world);
    nobody.send_option(opt::EXPORT_NAME, b"nobody");
    assert!(nobody.is_closed());
    let mut extended = Peer::new(&world);
    extended.agree(opt::EXTENDED_HEADERS);
    extended.send_option(opt::EXPORT_NAME, b"vda");
    assert!(extended.is_closed());
    // Without fixed newstyle there is one option only.
    let mut old = Peer::greeting(&world, 0);
    old.send_option(opt::LIST, &[]);
    assert!(old.is_closed());
    let mut unknown = Peer::greeting(&world, 1 << 5);
    assert!(unknown.is_closed());
}

fn world_bytes() -> Vec<u8> {
    MemoryDisk::mixed(SIZE)
}

#[test]
fn contexts_are_listed_up_to_a_bound_and_chosen_without_one() {
    let world = world();
    let mut peer = Peer::new(&world);
    let refused = (rep::ERR_INVALID, Vec::new());
    let all = [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT];
    assert!(
        all.iter()
            .all(|option| peer.contexts(*option, "vda", &[]) == refused)
    );
    peer.agree(opt::STRUCTURED_REPLY);

    let mut list = |queries: &[&str]| {
        let (outcome, contexts) = peer.contexts(opt::LIST_META_CONTEXT, "vda", queries);
        assert_eq!(outcome, rep::ACK);
        contexts
            .into_iter()
            .map(|(_, name)| name)
            .collect::<Vec<_>>()
    };
    let base = "base:allocation";
    assert_eq!(list(&[]).len(), 1 + 256 + 256);
    assert_eq!(list(&["base:"]), [base]);
    assert_eq!(list(&["base:allocation", "base:"]), [base]);
    assert_eq!(list(&["cairn:"]).len(), 256);
    assert_eq!(list(&["cairn:diff:"]), list(&["cairn:"]));
    assert_eq!(list(&["qemu:"]), list(&["qemu:dirty-bitmap:"]));
    let newest = Fixed::id(0);
    assert_eq!(list(&["cairn:"])[0], format!("cairn:diff:{newest}"));
    assert_eq!(
        list(&["qemu:"])[0],
        format!("qemu:dirty-bitmap:cairn-diff-{newest}")
    );
    let unlisted = format!("cairn:diff:{}", Fixed::id(299));
    assert!(!list(&["cairn:"]).contains(&unlisted));
    assert_eq!(list(&[&unlisted]), [unlisted.as_str()]);
    let nothing = [
        "x-strange:",
        "base:nothing",
        "base",
        "",
        "cairn:diff:12",
        "qemu:dirty-bitmap:b0",
    ];
    assert!(list(&nothing).is_empty());

    let bitmap = format!("qemu:dirty-bitmap:cairn-diff-{}", Fixed::id(298));
    let unknown = format!("cairn:diff:{}", Fixed::id(300));
    let queries = [base, &unlisted, "base:", &bitmap, &unknown, base];
    let (outcome, chosen) = peer.contexts(opt::SET_META_CONTEXT, "vda", &queries);
    assert_eq!(outcome, rep::ACK);
    let names: Vec<&str> = chosen.iter().map(|(_, name)| &**name).collect();
    assert_eq!(names, [base, &unlisted, &bitmap]);
    let ids: Vec<u32> = chosen.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [0, 1, 2]);

    let many: Vec<String> = (0..33)
        .map(|n| format!("cairn:diff:{}", Fixed::id(n)))
        .collect();
    let many: Vec<&str> = many.iter().map(|name| &**name).collect();
    let (outcome, _) = peer.contexts(opt::SET_META_CONTEXT, "vda", &many);
    assert_eq!(outcome, rep::ERR_TOO_BIG);
    let (outcome, _) = peer.contexts(opt::SET_META_CONTEXT, "nobody", &[base]);
    assert_eq!(outcome, rep::ERR_UNKNOWN);
    assert_eq!(
        peer.outcome(opt::SET_META_CONTEXT, &[0, 0]),
        rep::ERR_INVALID
    );
}

#[test]
fn contexts_hold_for_the_export_they_were_chosen_for_and_until_the_next_choice() {
    let world = world();
    let base = "base:allocation";
    let status = |peer: &mut Peer| peer.request(7, 0, 0, 1000);
    let chosen_then = |then: &dyn Fn(&mut Peer)| {
        let mut peer = Peer::new(&world);
        peer.agree(opt::STRUCTURED_REPLY);
        let (outcome, _) = peer.contexts(opt::SET_META_CONTEXT, "vda", &[base]);
        assert_eq!(outcome, rep::ACK);
        then(&mut peer);
        peer
    };
    let mut peer = chosen_then(&|_| {});
    peer.go("vda");
    assert!(status(&mut peer).error().is_none());
    let mut peer = chosen_then(&|_| {});
    peer.go("web@1/vdb");
    assert_eq!(peer.request(7, 0, 0, 5).errno(), 22);
    for query in [Vec::new(), vec!["x:y"]] {
        let mut peer = chosen_then(&|peer| {
            peer.contexts(opt::SET_META_CONTEXT, "vda", &query);
        });
        peer.go("vda");
        assert_eq!(status(&mut peer).errno(), 22);
    }
    // Even a choice that fails ends the one before.
    let mut peer = chosen_then(&|peer| {
        assert_eq!(peer.outcome(opt::SET_META_CONTEXT, b"?"), rep::ERR_INVALID);
    });
    peer.go("vda");
    assert_eq!(status(&mut peer).errno(), 22);
}

#[test]
fn names_must_differ_and_be_short() {
    let disk = || MemoryDisk::new(vec![0; 10]);
    let twice = Exports::new(vec![export(disk(), None), export(disk(), None)]);
    assert!(matches!(twice, Err(ExportsError::Duplicate { .. })));
    let long = Export {
        name: "x".repeat(4097),
        ..export(disk(), None)
    };
    assert!(matches!(
        Exports::new(vec![long]),
        Err(ExportsError::TooLong { .. })
    ));
}
