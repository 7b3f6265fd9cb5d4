//! Writes, zeros, trims and flushes.

use std::sync::atomic::Ordering;

use cairn_engine::nbd::wire::{cmd, cmd_flag, errno, opt};

use crate::disks::MemoryDisk;
use crate::peer::Peer;
use crate::world::World;

const SIZE: usize = 4_000_001;
const MODES: [Option<u32>; 3] = [
    None,
    Some(opt::STRUCTURED_REPLY),
    Some(opt::EXTENDED_HEADERS),
];

#[test]
fn what_is_written_is_there_whatever_its_length() {
    let disk = MemoryDisk::writable(MemoryDisk::mixed(SIZE));
    let world = World::of(disk.clone());
    let mut expected = MemoryDisk::mixed(SIZE);
    let mut random = fastrand::Rng::with_seed(crate::seed());
    for mode in MODES {
        let mut peer = Peer::ready(&world, mode);
        let payload = match mode {
            Some(opt::EXTENDED_HEADERS) => cmd_flag::PAYLOAD_LEN,
            _ => 0,
        };
        for round in 0..40 {
            let offset = random.usize(0..SIZE);
            let most = [10, 5000, 300_000, SIZE][round % 4].min(SIZE - offset);
            let len = random.usize(0..=most);
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            // Some clients forget to say that there is a payload.
            let flags = if random.bool() { payload } else { 0 };
            peer.write(cmd::WRITE, flags, offset as u64, &bytes).ok();
            expected[offset..offset + len].copy_from_slice(&bytes);
        }
        assert!(*disk.lock() == expected, "{mode:?}");
        peer.request(cmd::WRITE_ZEROES, 0, 1000, 100_000).ok();
        peer.request(cmd::TRIM, 0, 200_000, 100_000).ok();
        expected[1000..101_000].fill(0);
        expected[200_000..300_000].fill(0);
        assert!(*disk.lock() == expected, "{mode:?}");
        assert!(disk.kept.lock().expect("nobody panicked").is_empty());
    }
    let mut peer = Peer::ready(&world, MODES[2]);
    let flags = cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO;
    peer.request(cmd::WRITE_ZEROES, flags, 0, SIZE as u64).ok();
    let kept = disk.kept.lock().expect("nobody panicked").clone();
    assert_eq!(kept, std::slice::from_ref(&(0..SIZE as u64)));
}

#[test]
fn durability_is_asked_for_by_flush_and_by_flag() {
    let disk = MemoryDisk::writable(vec![0; 1 << 20]);
    let world = World::of(disk.clone());
    let mut peer = Peer::ready(&world, MODES[1]);
    let flushes = || disk.flushes.load(Ordering::SeqCst);
    peer.write(cmd::WRITE, 0, 0, &[1; 100]).ok();
    assert_eq!(flushes(), 0);
    peer.write(cmd::WRITE, cmd_flag::FUA, 0, &[1; 100]).ok();
    assert_eq!(flushes(), 1);
    peer.write(cmd::WRITE, cmd_flag::FUA, 0, &vec![1; 700_000])
        .ok();
    assert_eq!(flushes(), 2);
    peer.request(cmd::WRITE_ZEROES, cmd_flag::FUA, 0, 100).ok();
    peer.request(cmd::TRIM, cmd_flag::FUA, 0, 100).ok();
    assert_eq!(flushes(), 4);
    peer.request(cmd::FLUSH, 0, 0, 0).ok();
    assert_eq!(flushes(), 5);
    // What a flush says of a range means nothing.
    peer.request(cmd::FLUSH, 0, u64::MAX, 7).ok();
    assert_eq!(flushes(), 6);
    peer.request(cmd::READ, cmd_flag::FUA, 0, 100).ok();
    assert_eq!(flushes(), 6);
    drop(peer);
    drop(world);
    // The end of a server is one more.
    assert_eq!(flushes(), 7);
}

#[test]
fn writes_that_cannot_be_are_told_and_taken_away() {
    let disk = MemoryDisk::writable(vec![0; 1 << 20]);
    let world = World::of(disk.clone());
    let size = 1 << 20;
    for mode in MODES {
        let mut peer = Peer::ready(&world, mode);
        let none = errno::ENOSPC;
        assert_eq!(peer.write(cmd::WRITE, 0, size - 10, &[1; 11]).errno(), none);
        assert_eq!(peer.write(cmd::WRITE, 0, u64::MAX, &[1; 11]).errno(), none);
        assert_eq!(peer.request(cmd::WRITE_ZEROES, 0, size, 1).errno(), none);
        assert_eq!(peer.request(cmd::TRIM, 0, size, 1).errno(), errno::EINVAL);
        assert_eq!(
            peer.write(cmd::WRITE, 1 << 12, 0, &[1; 11]).errno(),
            errno::EINVAL
        );
        let long = vec![1; (32 << 20) + 1];
        assert_eq!(peer.write(cmd::WRITE, 0, 0, &long).errno(), none);
        *disk.broken.lock().expect("nobody panicked") = Some(500..501);
        assert_eq!(peer.write(cmd::WRITE, 0, 0, &[1; 1000]).errno(), none);
        assert_eq!(
            peer.write(cmd::WRITE, 0, 0, &vec![1; 900_000]).errno(),
            none
        );
        *disk.broken.lock().expect("nobody panicked") = None;
        peer.write(cmd::WRITE, 0, 0, &[2; 1000]).ok();
        assert_eq!(disk.lock()[..1000], [2; 1000]);
    }
    assert!(disk.lock()[1_000_000..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_flush_on_one_connection_follows_the_answered_writes_of_another() {
    let disk = MemoryDisk::writable(vec![0; 1 << 20]);
    let world = World::of(disk.clone());
    let mut one = Peer::ready(&world, MODES[0]);
    let mut other = Peer::ready(&world, MODES[1]);
    one.write(cmd::WRITE, 0, 0, &[1; 100]).ok();
    let written = disk.written.lock().expect("nobody panicked").len();
    other.request(cmd::FLUSH, 0, 0, 0).ok();
    assert_eq!((written, disk.flushes.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(
        other
            .request(cmd::READ, cmd_flag::DF, 0, 100)
            .ok()
            .bytes(0, 100),
        [1; 100]
    );
}
