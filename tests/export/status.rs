//! Block status.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_engine::nbd::wire::{BlockStatus, cmd, cmd_flag, errno, opt, rep, reply_type};

use crate::disks::{Fixed, MemoryDisk};
use crate::peer::{Peer, Reply};
use crate::world::{Options, World, export};

const UNIT: u64 = 65_536;
const SIZE: u64 = 8 * UNIT + 1;
const DIRTY: [std::ops::Range<u64>; 3] = [4096..8192, 100_000..100_001, 5 * UNIT..SIZE];

fn world() -> World {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE as usize));
    let changes = Fixed(BTreeMap::from([(Fixed::id(1), DIRTY.to_vec())]));
    World::with(Options::of(vec![export(disk, Some(Arc::new(changes)))]))
}

fn diff() -> String {
    format!("cairn:diff:{}", Fixed::id(1))
}

fn peer(world: &World, option: u32) -> Peer {
    let mut peer = Peer::new(world);
    peer.agree(option);
    let bitmap = format!("qemu:dirty-bitmap:cairn-diff-{}", Fixed::id(1));
    let queries = ["base:allocation", &diff(), &bitmap];
    let (outcome, chosen) = peer.contexts(opt::SET_META_CONTEXT, "vda", &queries);
    assert_eq!((outcome, chosen.len()), (rep::ACK, 3));
    peer.go("vda");
    peer
}

/// Returns the runs of each context in a reply, as length and flags.
fn statuses(reply: Reply) -> Vec<(u32, Vec<(u64, u64)>)> {
    let reply = reply.ok();
    let statuses = reply.chunks.iter().map(|(kind, payload)| {
        let extended = match *kind {
            reply_type::BLOCK_STATUS => false,
            reply_type::BLOCK_STATUS_EXT => true,
            other => panic!("{other}"),
        };
        let status = BlockStatus::decode(payload, extended).expect("a status");
        let runs = status.runs.iter().map(|run| (run.len, run.flags)).collect();
        (status.context, runs)
    });
    statuses.collect()
}

#[test]
fn contexts_tell_holes_and_differences() {
    let world = world();
    let allocation = vec![
        (2 * UNIT, 0),
        (2 * UNIT, 3),
        (2 * UNIT, 0),
        (2 * UNIT, 3),
        (1, 0),
    ];
    let dirty = vec![
        (4096, 0),
        (4096, 1),
        (98_304 - 8192, 0),
        (4096, 1),
        (5 * UNIT - 102_400, 0),
        (3 * UNIT + 1, 1),
    ];
    for option in [opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS] {
        let mut peer = peer(&world, option);
        let all = statuses(peer.request(cmd::BLOCK_STATUS, 0, 0, SIZE));
        let expected = [
            (0, allocation.clone()),
            (1, dirty.clone()),
            (2, dirty.clone()),
        ];
        assert_eq!(all, expected);
        let one = statuses(peer.request(cmd::BLOCK_STATUS, cmd_flag::REQ_ONE, 6000, SIZE - 6000));
        let first = |len, flags| vec![(len, flags)];
        let expected = [
            (0, first(2 * UNIT - 6000, 0)),
            (1, first(2192, 1)),
            (2, first(2192, 1)),
        ];
        assert_eq!(one, expected);
        let last = statuses(peer.request(cmd::BLOCK_STATUS, 0, SIZE - 1, 1));
        assert_eq!(last[0].1, [(1, 0)]);

        for (offset, len) in [(0, 0), (SIZE, 1), (0, SIZE + 1), (u64::MAX, 1)] {
            let reply = peer.request(cmd::BLOCK_STATUS, 0, offset, len);
            assert_eq!(reply.errno(), errno::EINVAL, "{offset} {len}");
        }
    }
}

#[test]
fn a_payload_chooses_among_contexts() {
    let world = world();
    let mut peer = peer(&world, opt::EXTENDED_HEADERS);
    let mut ask = |len: u64, ids: &[u32]| {
        let mut payload = len.to_be_bytes().to_vec();
        payload.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
        let announced = payload.len() as u64;
        let flags = cmd_flag::PAYLOAD_LEN;
        peer.send_request(cmd::BLOCK_STATUS, flags, 0, announced, &payload);
        peer.reply(0)
    };
    let ids = |reply: Reply| {
        statuses(reply)
            .iter()
            .map(|(id, _)| *id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(ask(SIZE, &[2])), [2]);
    assert_eq!(ids(ask(100, &[1, 0])), [1, 0]);
    for wrong in [&[][..], &[3], &[0, 0], &[u32::MAX], &[0, 1, 2, 2]] {
        assert_eq!(ask(SIZE, wrong).errno(), errno::EINVAL, "{wrong:?}");
    }
    assert_eq!(ask(SIZE + 1, &[0]).errno(), errno::EINVAL);
    assert_eq!(ask(0, &[0]).errno(), errno::EINVAL);
    for len in [0, 7, 8, 13, 5000] {
        let payload = vec![0; len];
        let flags = cmd_flag::PAYLOAD_LEN;
        peer.send_request(cmd::BLOCK_STATUS, flags, 0, len as u64, &payload);
        assert_eq!(peer.reply(0).errno(), errno::EINVAL, "{len}");
    }
    // Nobody takes payloads who has no contexts, or compact headers.
    let mut plain = Peer::ready(&world, Some(opt::EXTENDED_HEADERS));
    plain.send_request(cmd::BLOCK_STATUS, cmd_flag::PAYLOAD_LEN, 0, 12, &[0; 12]);
    assert_eq!(plain.reply(0).errno(), errno::EINVAL);
    plain.request(cmd::READ, 0, 0, 10).ok();
}

#[test]
fn a_status_that_cannot_be_had_is_an_error() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE as usize));
    *disk.broken.lock().expect("nobody panicked") = Some(10..11);
    let world = World::of(disk);
    let mut peer = Peer::new(&world);
    peer.agree(opt::STRUCTURED_REPLY);
    peer.contexts(opt::SET_META_CONTEXT, "vda", &["base:allocation"]);
    peer.go("vda");
    assert_eq!(
        peer.request(cmd::BLOCK_STATUS, 0, 0, 100).errno(),
        errno::EIO
    );
    assert!(
        peer.request(cmd::BLOCK_STATUS, 0, 100, 100)
            .error()
            .is_none()
    );
}

#[test]
fn a_disk_in_a_thousand_pieces_is_told_in_bounded_answers() {
    let len = 2000 * UNIT;
    let mut bytes = vec![0; len as usize];
    for unit in (0..2000).step_by(2) {
        bytes[(unit * UNIT) as usize] = 1;
    }
    let dirty: Vec<_> = (0..16_000).map(|n| n * 8192..n * 8192 + 1).collect();
    let changes = Fixed(BTreeMap::from([(Fixed::id(1), dirty)]));
    let disk = MemoryDisk::new(bytes);
    let world = World::with(Options::of(vec![export(disk, Some(Arc::new(changes)))]));
    let mut peer = peer(&world, opt::STRUCTURED_REPLY);
    let mut at = 0;
    while at < len {
        let answer = statuses(peer.request(cmd::BLOCK_STATUS, 0, at, len - at));
        assert!(
            answer
                .iter()
                .all(|(_, runs)| !runs.is_empty() && runs.len() <= 8192)
        );
        let (_, runs) = &answer[1];
        for (number, (len, flags)) in runs.iter().enumerate() {
            assert_eq!((*len, *flags), (4096, (number as u64 + 1) % 2), "at {at}");
        }
        at += runs.iter().map(|run| run.0).sum::<u64>();
    }
}
