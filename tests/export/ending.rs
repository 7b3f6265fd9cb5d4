//! A server that is asked to end answers what it took in.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cairn_engine::nbd::wire::{cmd, opt};

use crate::disks::MemoryDisk;
use crate::peer::Peer;
use crate::support::waiting::{PATIENCE, wait_for};
use crate::world::World;

#[test]
fn requests_in_flight_are_answered_later_ones_lost_with_the_connection_and_the_socket_goes() {
    let disk = MemoryDisk::writable(vec![7; 1 << 20]);
    let world = World::of(disk.clone());
    let socket = world.socket();
    let mut idle = Peer::ready(&world, None);
    let mut busy = Peer::ready(&world, Some(opt::STRUCTURED_REPLY));
    let mut shaking = Peer::new(&world);
    idle.write(cmd::WRITE, 0, 0, &[9; 10]).ok();
    disk.gate.set_shut(true);
    let first = busy.send_request(cmd::READ, 0, 0, 10, &[]);
    wait_for("the read has begun", || disk.gate.waiting() == 1);
    world.stop();
    assert!(idle.is_closed());
    // An error would go to the guest; who loses the connection asks the next server.
    busy.send_request(cmd::WRITE, 0, 0, 10, &[1; 10]);
    disk.gate.set_shut(false);
    let answered = busy.reply(0);
    assert_eq!(answered.cookie, first);
    assert_eq!(answered.ok().bytes(0, 10), [9; 10]);
    assert!(busy.is_closed());
    assert!(shaking.is_closed());
    world.ended().expect("it ends well");
    assert!(!socket.exists());
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(disk.lock()[..10], [9; 10], "what was lost was written");
}

#[test]
fn a_client_that_does_not_take_its_replies_does_not_hold_the_end_up_for_long() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(40 << 20));
    let world = World::of(disk);
    let mut peer = Peer::ready(&world, None);
    peer.send_request(cmd::READ, 0, 0, 32 << 20, &[]);
    // It is in the middle of a reply.
    peer.stream.read_exact(&mut [0]).expect("a reply begins");
    let began = Instant::now();
    world.stop();
    world.ended().expect("it ends well");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}
