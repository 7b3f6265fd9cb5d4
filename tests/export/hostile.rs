//! Clients that mean no good, or break, cost little and hurt nobody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use cairn_engine::nbd::wire::{Request, cmd, cmd_flag, opt};

use crate::disks::MemoryDisk;
use crate::peer::Peer;
use crate::support::waiting::{PATIENCE, wait_for};
use crate::world::{Options, World, export};

const SIZE: usize = 40 << 20;

/// Fails unless somebody else is served, whom nobody has to make room for.
fn assert_served(world: &World) {
    let expected = MemoryDisk::mixed(SIZE);
    let mut peer = Peer::ready(world, Some(opt::STRUCTURED_REPLY));
    for offset in (0..SIZE - 4096).step_by(1 << 20) {
        let reply = peer
            .request(cmd::READ, cmd_flag::DF, offset as u64, 4096)
            .ok();
        assert!(reply.bytes(offset as u64, 4096) == expected[offset..offset + 4096]);
    }
    let long = peer.request(cmd::READ, cmd_flag::DF, 0, 32 << 20).ok();
    assert!(long.bytes(0, 32 << 20) == expected[..32 << 20]);
}

fn world() -> World {
    World::of(MemoryDisk::new(MemoryDisk::mixed(SIZE)))
}

#[test]
fn garbage_ends_the_connection_it_comes_on() {
    let world = world();
    let mut random = fastrand::Rng::with_seed(crate::seed());
    for round in 0..100 {
        let mut garbage = vec![0; random.usize(1..5000)];
        random.fill(&mut garbage);
        let mut stream = match round % 3 {
            0 => world.connect(),
            1 => Peer::new(&world).stream,
            _ => Peer::ready(&world, Some(opt::EXTENDED_HEADERS)).stream,
        };
        drop(stream.write_all(&garbage));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
        assert!(rest.len() < 100_000);
    }
    assert_served(&world);
}

#[test]
fn ten_thousand_options_are_too_many() {
    let world = world();
    let mut peer = Peer::new(&world);
    let mut answered = 0;
    for _ in 0..10_000 {
        let sent = {
            let mut option = Vec::new();
            option.extend_from_slice(&cairn_engine::nbd::wire::IHAVEOPT.to_be_bytes());
            option.extend_from_slice(&opt::LIST.to_be_bytes());
            option.extend_from_slice(&0_u32.to_be_bytes());
            peer.stream.write_all(&option)
        };
        let mut front = [0; 20];
        if sent.is_err() || peer.stream.read_exact(&mut front).is_err() {
            break;
        }
        let len = u32::from_be_bytes(front[16..].try_into().expect("four bytes"));
        let mut rest = vec![0; len as usize + 20];
        peer.stream.read_exact(&mut rest).expect("the list ends");
        answered += 1;
    }
    assert_eq!(answered, 4096);
    // One option that never ends is no better.
    let mut endless = Peer::new(&world);
    endless.send(&cairn_engine::nbd::wire::IHAVEOPT.to_be_bytes());
    endless.send(&[0, 0, 0, 99, 0xff, 0xff, 0xff, 0xff]);
    assert!(endless.is_closed());
    assert_served(&world);
}

#[test]
fn who_does_not_come_to_the_point_is_sent_away() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    let world = World::with(Options {
        // Enough for who comes to the point on a busy machine.
        handshake_timeout: Duration::from_secs(4),
        ..Options::of(vec![export(disk, None)])
    });
    let mut patient = Peer::ready(&world, None);
    let mut silent = world.connect();
    let mut dripping = Peer::new(&world);
    let drip = thread::spawn(move || {
        wait_for("the end of who drips", || {
            dripping.stream.write_all(&[0x49]).is_err()
        });
    });
    let mut rest = Vec::new();
    drop(silent.read_to_end(&mut rest));
    assert_eq!(rest.len(), 18);
    drip.join().expect("it is sent away");
    // Who has agreed may be as silent as it likes.
    patient.request(cmd::READ, 0, 0, 10).ok();
}

#[test]
fn who_reads_nothing_hurts_nobody() {
    let world = world();
    let mut silent: Vec<Peer> = (0..40)
        .map(|number| {
            let mode = [None, Some(opt::STRUCTURED_REPLY)][number % 2];
            let peer = Peer::ready(&world, mode);
            let timeout = Some(Duration::from_millis(100));
            peer.stream
                .set_write_timeout(timeout)
                .expect("it is not zero");
            peer
        })
        .collect();
    for peer in &mut silent {
        ask_on_and_on(peer);
    }
    assert_served(&world);
    drop(silent);
    assert_served(&world);
}

/// Asks for as much as the server takes requests for, and reads nothing.
fn ask_on_and_on(peer: &mut Peer) {
    for _ in 0..1000 {
        if peer
            .stream
            .write_all(&request(cmd::READ, 0, 32 << 20))
            .is_err()
        {
            break;
        }
    }
}

fn request(command: u16, offset: u64, len: u64) -> Vec<u8> {
    let request = Request {
        flags: 0,
        command,
        cookie: u64::from(command),
        offset,
        len,
    };
    let mut bytes = Vec::new();
    request.encode(false, &mut bytes);
    bytes
}

#[test]
fn a_guest_that_writes_goes_on_when_others_hold_all_buffers() {
    let disk = MemoryDisk::writable(MemoryDisk::mixed(SIZE));
    let world = World::of(disk);
    let mut silent: Vec<Peer> = (0..12)
        .map(|_| Peer::ready(&world, Some(opt::STRUCTURED_REPLY)))
        .collect();
    for peer in &mut silent {
        // Reads whose bytes fill what is between the server and the client, and all buffers.
        for _ in 0..4 {
            peer.send(&request(cmd::READ, 0, 32 << 20));
        }
    }
    // sleeps: so that most is held by then; whatever is, the guest goes on.
    thread::sleep(Duration::from_millis(500));
    for round in 0..100 {
        let mut guest = Peer::ready(&world, Some(opt::STRUCTURED_REPLY));
        let first = [cmd::FLUSH, cmd::READ, cmd::TRIM, cmd::WRITE_ZEROES][round % 4];
        let mut both = request(first, 4096, 4096);
        both.extend(request(cmd::WRITE, 0, 4096));
        both.extend([0x77; 4096]);
        guest.send(&both);
        let mut answered = [guest.reply(0).ok().cookie, guest.reply(0).ok().cookie];
        answered.sort_unstable();
        let mut expected = [u64::from(first), u64::from(cmd::WRITE)];
        expected.sort_unstable();
        assert_eq!(answered, expected);
    }
}

#[test]
fn more_writes_than_a_connection_has_buffers_may_follow_a_flush() {
    let disk = MemoryDisk::writable(MemoryDisk::mixed(SIZE));
    let world = World::of(disk.clone());
    let mut guest = Peer::ready(&world, Some(opt::STRUCTURED_REPLY));
    let mut others: Vec<Peer> = (0..2).map(|_| Peer::ready(&world, None)).collect();
    // All workers are busy, so that everything is pending when the first of them comes back.
    disk.gate.set_shut(true);
    for other in &mut others {
        for _ in 0..4 {
            other.send(&request(cmd::READ, 0, 10));
        }
    }
    wait_for("all workers are busy", || disk.gate.waiting() == 4);
    let mut all = request(cmd::FLUSH, 0, 0);
    for number in 0..40 {
        all.extend(request(cmd::WRITE, number * 512, 512));
        all.extend([0x33; 512]);
    }
    guest.send(&all);
    // sleeps: so that the server has taken in what it takes; whatever it has, all is answered.
    thread::sleep(Duration::from_millis(200));
    disk.gate.set_shut(false);
    for _ in 0..41 {
        guest.reply(0).ok();
    }
    assert!(disk.lock()[..40 * 512].iter().all(|byte| *byte == 0x33));
}

#[test]
fn a_connection_that_panics_ends_alone() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    let world = World::of(disk.clone());
    disk.panics_near.store(true, Ordering::SeqCst);
    let mut unlucky = Peer::ready(&world, None);
    unlucky.send(&request(cmd::READ, 0, 10));
    assert!(unlucky.is_closed());
    wait_for("it is told", || {
        let events = world.events.lock().expect("nobody panicked");
        events.iter().any(|event| event.starts_with("Closed"))
    });
    disk.panics_near.store(false, Ordering::SeqCst);
    assert_served(&world);
    world.stop();
    world.ended().expect("it ends well");
}

#[test]
fn payloads_that_nobody_takes_end_the_connection() {
    let world = world();
    let mut peer = Peer::ready(&world, Some(opt::EXTENDED_HEADERS));
    peer.send_request(cmd::WRITE, cmd_flag::PAYLOAD_LEN, 0, u64::MAX, b"x");
    assert!(peer.is_closed());
    let mut peer = Peer::ready(&world, None);
    peer.send_request(cmd::WRITE, 0, 0, u64::from(u32::MAX), b"x");
    assert!(peer.is_closed());
    // One that promises and goes is forgotten.
    let disk = MemoryDisk::writable(vec![0; SIZE]);
    let writable = World::of(disk.clone());
    let mut peer = Peer::ready(&writable, None);
    peer.send_request(cmd::WRITE, 0, 0, 1 << 20, &[1; 1000]);
    drop(peer);
    wait_for("the connection is closed", || {
        let events = writable.events.lock().expect("nobody panicked");
        events.iter().any(|event| event.starts_with("Closed"))
    });
    assert!(disk.lock().iter().all(|byte| *byte == 0));
}

#[test]
fn sixty_four_connections_at_once_are_all_served() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    *disk.delay.lock().expect("nobody panicked") = Duration::from_millis(1);
    let world = World::of(disk);
    let expected = MemoryDisk::mixed(SIZE);
    thread::scope(|scope| {
        for number in 0..64 {
            let (world, expected) = (&world, &expected);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                let mode = [
                    None,
                    Some(opt::STRUCTURED_REPLY),
                    Some(opt::EXTENDED_HEADERS),
                ];
                let mut peer = Peer::ready(world, mode[number as usize % 3]);
                for _ in 0..30 {
                    let offset = random.usize(0..SIZE - 100_000);
                    let len = random.usize(1..100_000);
                    let reply = peer.request(cmd::READ, 0, offset as u64, len as u64).ok();
                    let start = if reply.is_simple { 0 } else { offset as u64 };
                    assert!(reply.bytes(start, len) == expected[offset..offset + len]);
                }
            });
        }
    });
}

#[test]
fn who_comes_when_all_places_are_taken_waits() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    let world = World::with(Options {
        connections_max: 2,
        ..Options::of(vec![export(disk, None)])
    });
    let first = Peer::ready(&world, None);
    let mut second = Peer::ready(&world, None);
    let waiting = UnixStream::connect(world.socket()).expect("the queue is not full");
    let short = Some(Duration::from_millis(200));
    waiting.set_read_timeout(short).expect("it is not zero");
    assert!(
        (&waiting).read(&mut [0; 18]).is_err(),
        "a third was taken in"
    );
    drop(first);
    let long = Some(PATIENCE);
    waiting.set_read_timeout(long).expect("it is not zero");
    (&waiting)
        .read_exact(&mut [0; 18])
        .expect("the place is free");
    second.request(cmd::READ, 0, 0, 10).ok();
}

#[test]
fn who_dawdles_gives_its_place_to_who_waits() {
    let disk = MemoryDisk::new(MemoryDisk::mixed(SIZE));
    let world = World::with(Options {
        connections_max: 2,
        // Far beyond what the test's own peer waits.
        handshake_timeout: PATIENCE * 100,
        ..Options::of(vec![export(disk, None)])
    });
    let mut served = Peer::ready(&world, None);
    let dawdling = UnixStream::connect(world.socket()).expect("there is a place");
    let waiting = UnixStream::connect(world.socket()).expect("the queue is not full");
    waiting
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    (&waiting)
        .read_exact(&mut [0; 18])
        .expect("the place is free");
    // It was greeted, and sent away.
    (&dawdling)
        .read_exact(&mut [0; 18])
        .expect("it was taken in");
    assert_eq!((&dawdling).read(&mut [0; 1]).unwrap_or_default(), 0);
    // One that has an export keeps its place.
    served.request(cmd::READ, 0, 0, 10).ok();
}
