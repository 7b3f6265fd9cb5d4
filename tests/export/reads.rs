//! Reads and what they bring, in each way of speaking.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_engine::nbd::wire::{cmd, cmd_flag, errno, opt, reply_type};

use crate::disks::MemoryDisk;
use crate::peer::{Peer, Reply};
use crate::world::World;

const SIZE: usize = 3_000_003;
const MODES: [Option<u32>; 3] = [
    None,
    Some(opt::STRUCTURED_REPLY),
    Some(opt::EXTENDED_HEADERS),
];

fn bytes_of(reply: &Reply, offset: u64, len: usize) -> Vec<u8> {
    reply.bytes(if reply.is_simple { 0 } else { offset }, len)
}

#[test]
fn every_range_reads_as_it_is_whoever_answers() {
    let expected = MemoryDisk::mixed(SIZE);
    let disk = MemoryDisk::new(expected.clone());
    let world = World::of(disk.clone());
    let mut random = fastrand::Rng::with_seed(crate::seed());
    for (mode, near) in MODES
        .iter()
        .flat_map(|mode| [(*mode, false), (*mode, true)])
    {
        disk.is_near.store(near, Ordering::SeqCst);
        let mut peer = Peer::ready(&world, mode);
        for round in 0..60 {
            let offset = random.usize(0..SIZE);
            let most = [1, 600, 70_000, SIZE][round % 4].min(SIZE - offset);
            let len = random.usize(1..=most);
            let df = if random.bool() && mode.is_some() {
                cmd_flag::DF
            } else {
                0
            };
            let reply = peer.request(cmd::READ, df, offset as u64, len as u64).ok();
            let read = bytes_of(&reply, offset as u64, len);
            assert!(
                read == expected[offset..offset + len],
                "{mode:?} {near} {offset}+{len}"
            );
            let content = reply
                .kinds()
                .into_iter()
                .filter(|kind| *kind != reply_type::NONE);
            assert!(df == 0 || content.count() == 1);
        }
        let all = peer.request(cmd::READ, 0, 0, SIZE as u64).ok();
        assert!(bytes_of(&all, 0, SIZE) == expected);
        let nothing = peer.request(cmd::READ, 0, 5, 0).ok();
        assert!(nothing.is_simple || nothing.kinds() == [reply_type::NONE]);
    }
}

#[test]
fn holes_are_sent_as_holes_unless_fragments_are_not_wanted() {
    let mut bytes = vec![0; 1 << 20];
    bytes[300_000] = 1;
    let disk = MemoryDisk::new(bytes);
    let world = World::of(disk.clone());
    for (mode, near) in [(MODES[1], false), (MODES[1], true), (MODES[2], true)] {
        disk.is_near.store(near, Ordering::SeqCst);
        let mut peer = Peer::ready(&world, mode);
        let data = reply_type::OFFSET_DATA;
        let hole = reply_type::OFFSET_HOLE;
        let kinds = |reply: Reply| reply.ok().kinds();
        assert_eq!(kinds(peer.request(cmd::READ, 0, 0, 4096)), [hole]);
        assert_eq!(kinds(peer.request(cmd::READ, 0, 0, 100)), [data]);
        assert_eq!(
            kinds(peer.request(cmd::READ, cmd_flag::DF, 0, 4096)),
            [data]
        );
        let split = peer.request(cmd::READ, 0, 262_144, 262_144);
        assert_eq!(kinds(split), [data, hole]);
        let split = peer.request(cmd::READ, 0, 131_072, 262_144).ok();
        assert_eq!(split.bytes(131_072, 262_144)[300_000 - 131_072], 1);
        // Pieces of a long read may come in any order.
        let mut kinds = kinds(peer.request(cmd::READ, 0, 0, 1 << 20));
        kinds.sort_unstable();
        assert_eq!(kinds, [data, hole, hole, hole, hole]);
    }
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_place_and_the_rest_goes_on() {
    let expected = MemoryDisk::mixed(SIZE);
    let disk = MemoryDisk::new(expected.clone());
    *disk.broken.lock().expect("nobody panicked") = Some(1_000_000..1_000_001);
    let world = World::of(disk);
    for mode in MODES {
        let mut peer = Peer::ready(&world, mode);
        let reply = peer.request(cmd::READ, 0, 999_000, 4096);
        let error = reply.error().expect("it cannot be read");
        assert_eq!(error.error, errno::EIO);
        if mode.is_some() {
            assert_eq!(error.offset, Some(999_000));
            assert!(error.message.contains("broken on purpose"), "{error:?}");
        }
        let good = peer.request(cmd::READ, 0, 0, 1000).ok();
        assert!(bytes_of(&good, 0, 1000) == expected[..1000]);
    }
    let mut peer = Peer::ready(&world, MODES[1]);
    let long = peer.request(cmd::READ, 0, 0, 2_000_000);
    let place = long.error().expect("a piece cannot be read").offset;
    assert_eq!(place, Some(1_000_000 / 262_144 * 262_144));
    let unbroken = peer.request(cmd::READ, cmd_flag::DF, 0, 2_000_000);
    assert_eq!(unbroken.errno(), errno::EIO);
    assert!(peer.request(cmd::READ, 0, 0, 10).error().is_none());
    // A simple reply that began cannot tell, and must not bring other bytes.
    let mut old = Peer::ready(&world, None);
    old.send_request(cmd::READ, 0, 0, 2_000_000, &[]);
    let mut got = Vec::new();
    drop(std::io::Read::read_to_end(&mut old.stream, &mut got));
    assert!(got.len() < 16 + 1_000_001, "{}", got.len());
    assert!(got[16..] == expected[..got.len() - 16]);
    let events = world.events.lock().expect("nobody panicked");
    assert!(events.iter().any(|event| event.starts_with("DiskFailed")));
}

#[test]
fn requests_that_break_a_rule_get_the_error_that_belongs_to_it() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    let world = World::of(disk.clone());
    let size = SIZE as u64;
    for mode in MODES {
        let mut peer = Peer::ready(&world, mode);
        let cases = [
            (cmd::READ, 0, size, 1, errno::EINVAL),
            (cmd::READ, 0, size - 1, 2, errno::EINVAL),
            (cmd::READ, 0, u64::MAX, 2, errno::EINVAL),
            (cmd::READ, 0, 0, (64 << 20) + 1, errno::EINVAL),
            (cmd::READ, 0, 0, u64::from(u32::MAX), errno::EINVAL),
            (cmd::READ, cmd_flag::REQ_ONE, 0, 1, errno::EINVAL),
            (cmd::READ, 1 << 15, 0, 1, errno::EINVAL),
            (cmd::TRIM, 0, 0, 10, errno::EPERM),
            (cmd::WRITE_ZEROES, 0, 0, 10, errno::EPERM),
            (cmd::CACHE, 0, size, 1, errno::EINVAL),
            (cmd::BLOCK_STATUS, 0, 0, 10, errno::EINVAL),
            (42, 0, 0, 10, errno::EINVAL),
            (u16::MAX, 0, 0, 10, errno::EINVAL),
        ];
        for (command, flags, offset, len, expected) in cases {
            peer.send_request(command, flags, offset, len, &[]);
            let reply = peer.reply(0);
            assert_eq!(
                reply.errno(),
                expected,
                "{mode:?} {command} {flags} {offset} {len}"
            );
        }
        assert_eq!(
            peer.write(cmd::WRITE, 0, 0, &[1; 5000]).errno(),
            errno::EPERM
        );
        peer.request(cmd::FLUSH, 0, 0, 0).ok();
        peer.request(cmd::CACHE, 0, 100, 2000).ok();
        let prefetched = disk.prefetched.lock().expect("nobody panicked").pop();
        assert_eq!(prefetched, Some(100..2100));
        let df = peer.request(cmd::READ, cmd_flag::DF, 0, 1);
        assert_eq!(df.error().is_some(), mode.is_none());
        peer.request(cmd::READ, cmd_flag::FUA, 0, 1).ok();
    }
    let mut peer = Peer::ready(&world, MODES[1]);
    peer.send_request(cmd::READ, cmd_flag::DF, 0, 65 << 20, &[]);
    assert_eq!(peer.reply(0).errno(), errno::EOVERFLOW);
    // A payload where none belongs is taken away.
    let mut peer = Peer::ready(&world, MODES[2]);
    peer.send_request(cmd::READ, cmd_flag::PAYLOAD_LEN, 0, 10, &[7; 10]);
    assert_eq!(peer.reply(0).errno(), errno::EINVAL);
    peer.request(cmd::READ, 0, 0, 10).ok();
}

#[test]
fn replies_come_as_they_are_ready_and_goodbye_waits_for_all() {
    let expected = MemoryDisk::mixed(SIZE);
    let disk = MemoryDisk::new(expected.clone());
    *disk.delay.lock().expect("nobody panicked") = Duration::from_millis(20);
    let world = World::of(disk);
    let mut peer = Peer::ready(&world, MODES[1]);
    for number in 0..300 {
        peer.send_request(cmd::READ, cmd_flag::DF, number * 1000, 1000, &[]);
    }
    peer.send_request(cmd::DISC, 0, 0, 0, &[]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let reply = peer.reply(0).ok();
        let offset = (reply.cookie - 1) * 1000;
        let start = offset as usize;
        assert!(reply.bytes(offset, 1000) == expected[start..start + 1000]);
        assert!(seen.insert(reply.cookie));
    }
    assert!(peer.is_closed());
}

#[test]
fn somewhat_more_than_clients_are_told_is_served() {
    let mut expected = MemoryDisk::mixed(SIZE);
    expected.resize(64 << 20, 7);
    let world = World::of(MemoryDisk::new(expected.clone()));
    for mode in MODES {
        let mut peer = Peer::ready(&world, mode);
        for len in [48_700_000, 64 << 20] {
            let reply = peer.request(cmd::READ, 0, 0, len as u64).ok();
            assert!(
                bytes_of(&reply, 0, len) == expected[..len],
                "{mode:?} {len}"
            );
        }
    }
}
