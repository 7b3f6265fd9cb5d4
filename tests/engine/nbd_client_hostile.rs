//! Servers that lie, stall or send without end: refused in bounded time and memory.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cairn_engine::nbd::client::ClientOptions;
use cairn_engine::nbd::wire::{
    BASE_ALLOCATION, BlockSizes, BlockStatus, Info, MetaQuery, OptionHeader, OptionReplyHeader,
    ReplyHeader, Request, StatusRun, cmd, flag, opt, rep, reply_flag, reply_type,
};
use cairn_engine::progress::Cancel;
use cairn_engine::source::{NbdSource, Source, SourceError};

use crate::nbd_peers::{chain, uri};
use crate::qemu::{Folder, MIB, text};
use crate::support::waiting::PATIENCE;

const SIZE: u64 = 8 * MIB;
/// How long the client waits where nobody answers.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// A server that does what a test tells it to. Its thread ends when the client hangs up.
struct Liar {
    folder: Folder,
    thread: JoinHandle<()>,
}

impl Liar {
    fn new(serve: impl Fn(UnixStream) -> std::io::Result<()> + Send + 'static) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.path("socket")).expect("the socket is free");
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("somebody comes");
            // The client hanging up on it is what these tests are about.
            drop(serve(stream));
        });
        Self { folder, thread }
    }

    fn open(&self) -> Result<NbdSource, SourceError> {
        self.open_with(None, PATIENCE, &Cancel::default())
    }

    /// Opens what may be silent for so long.
    fn open_with(
        &self,
        bitmap: Option<&str>,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<NbdSource, SourceError> {
        let socket = self.folder.path("socket");
        let uri = uri(&format!("nbd+unix:///?socket={}", text(&socket)));
        let options = ClientOptions {
            timeout,
            cancel: cancel.clone(),
        };
        NbdSource::open_with(&uri, bitmap, &options)
    }

    /// Asserts that the error says something, and that the server was hung up on.
    fn refused<T>(self, result: Result<T, SourceError>, words: &str) {
        let Err(error) = result else {
            panic!("{words}: taken");
        };
        let error = chain(&error);
        assert!(error.contains(words), "{words}: {error}");
        self.thread.join().expect("the liar ends");
    }
}

fn greet(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])
}

fn option(stream: &mut UnixStream) -> std::io::Result<u32> {
    let mut header = [0; OptionHeader::LEN];
    stream.read_exact(&mut header)?;
    let header = OptionHeader::decode(&header).expect("the client is honest");
    let mut data = vec![0; header.len as usize];
    stream.read_exact(&mut data)?;
    Ok(header.option)
}

fn reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
    let len = data.len() as u32;
    let mut message = Vec::new();
    OptionReplyHeader { option, kind, len }.encode(&mut message);
    message.extend_from_slice(data);
    stream.write_all(&message)
}

/// Shakes hands as an honest server does, with structured replies and `base:allocation`, and tells
/// the first status.
fn shake_hands(stream: &mut UnixStream) -> std::io::Result<()> {
    agree(stream, true)?;
    let asked = request(stream)?;
    assert_eq!(asked.command, cmd::BLOCK_STATUS);
    tell(stream, &asked, &[(512, 0)])
}

fn tell(stream: &mut UnixStream, asked: &Request, runs: &[(u64, u64)]) -> std::io::Result<()> {
    let runs = runs.iter().map(|&(len, flags)| StatusRun { len, flags });
    let runs = runs.collect();
    let mut payload = Vec::new();
    BlockStatus { context: 1, runs }.encode(false, &mut payload);
    let kind = reply_type::BLOCK_STATUS;
    stream.write_all(&chunk(asked.cookie, reply_flag::DONE, kind, &payload))
}

/// Agrees on structured replies, `base:allocation`, and on block sizes or on none.
fn agree(stream: &mut UnixStream, has_block_sizes: bool) -> std::io::Result<()> {
    greet(stream)?;
    loop {
        let asked = option(stream)?;
        let mut data = Vec::new();
        match asked {
            opt::STRUCTURED_REPLY => {}
            opt::SET_META_CONTEXT => {
                MetaQuery::encode_context(1, BASE_ALLOCATION, &mut data);
                reply(stream, asked, rep::META_CONTEXT, &data)?;
            }
            opt::GO => {
                let flags = flag::HAS_FLAGS | flag::READ_ONLY;
                Info::Export { size: SIZE, flags }.encode(&mut data);
                reply(stream, asked, rep::INFO, &data)?;
                if has_block_sizes {
                    data.clear();
                    let sizes = BlockSizes {
                        minimum: 512,
                        preferred: 4096,
                        maximum: 1 << 20,
                    };
                    Info::BlockSize(sizes).encode(&mut data);
                    reply(stream, asked, rep::INFO, &data)?;
                }
                return reply(stream, asked, rep::ACK, &[]);
            }
            _ => {
                reply(stream, asked, rep::ERR_UNSUP, &[])?;
                continue;
            }
        }
        reply(stream, asked, rep::ACK, &[])?;
    }
}

fn request(stream: &mut UnixStream) -> std::io::Result<Request> {
    let mut header = [0; 28];
    stream.read_exact(&mut header)?;
    Ok(Request::decode(&header, false).expect("the client is honest"))
}

fn chunk(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let len = payload.len() as u32;
    ReplyHeader::Structured {
        flags,
        kind,
        cookie,
        len,
    }
    .encode(&mut message);
    message.extend_from_slice(payload);
    message
}

#[test]
fn handshakes_that_make_no_sense_are_refused() {
    let say = |bytes: &'static [u8]| Liar::new(move |mut stream| stream.write_all(bytes));
    for (bytes, words) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "not an NBD server",
        ),
        (b"NBDMAGICHAVENOPT\0\x03", "not an NBD server"),
        (b"NBD", "closed the connection"),
        (b"", "closed the connection"),
    ] {
        let liar = say(bytes);
        let opened = liar.open();
        liar.refused(opened, words);
    }
}

/// Refuses every option but one.
fn refuse_until(stream: &mut UnixStream, wanted: u32) -> std::io::Result<()> {
    loop {
        match option(stream)? {
            asked if asked == wanted => return Ok(()),
            asked => reply(stream, asked, rep::ERR_UNSUP, b"no")?,
        }
    }
}

fn a_length_of_4_gib(stream: &mut UnixStream) -> std::io::Result<()> {
    let (option, kind) = (option(stream)?, rep::ERR_UNSUP);
    let len = u32::MAX;
    let mut header = Vec::new();
    OptionReplyHeader { option, kind, len }.encode(&mut header);
    stream.write_all(&header)
}

fn another_option(stream: &mut UnixStream) -> std::io::Result<()> {
    option(stream)?;
    reply(stream, opt::LIST, rep::ACK, &[])
}

fn another_type(stream: &mut UnixStream) -> std::io::Result<()> {
    let asked = option(stream)?;
    reply(stream, asked, rep::INFO, &[0; 12])
}

fn information_without_end(stream: &mut UnixStream) -> std::io::Result<()> {
    refuse_until(stream, opt::GO)?;
    loop {
        reply(stream, opt::GO, rep::INFO, &[0, 99, 1, 2, 3])?;
    }
}

fn a_context_of_its_own(stream: &mut UnixStream) -> std::io::Result<()> {
    refuse_until(stream, opt::STRUCTURED_REPLY)?;
    reply(stream, opt::STRUCTURED_REPLY, rep::ACK, &[])?;
    let asked = option(stream)?;
    let mut data = Vec::new();
    MetaQuery::encode_context(1, "other:context", &mut data);
    reply(stream, asked, rep::META_CONTEXT, &data)
}

#[test]
fn replies_to_options_are_bounded() {
    type Say = fn(&mut UnixStream) -> std::io::Result<()>;
    let cases: [(Say, &str); 5] = [
        (a_length_of_4_gib, "too long"),
        (another_option, "another option"),
        (another_type, "does not belong"),
        (information_without_end, "1024 replies"),
        (a_context_of_its_own, "not asked for"),
    ];
    for (say, words) in cases {
        let liar = Liar::new(move |mut stream| {
            greet(&mut stream)?;
            say(&mut stream)?;
            // Until the client hangs up.
            stream.read_to_end(&mut Vec::new()).map(drop)
        });
        let opened = liar.open();
        liar.refused(opened, words);
    }
}

#[test]
fn silence_ends_in_time() {
    let open = |liar: &Liar| liar.open_with(None, TIMEOUT, &Cancel::default());
    let liar = Liar::new(|mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    let opened = open(&liar);
    liar.refused(opened, "has not answered for 2 s");
    let liar = Liar::new(|mut stream| {
        shake_hands(&mut stream)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let source = open(&liar).expect("it shakes hands");
    // sleeps: to be idle is no fault, and takes nothing from the time that an answer has.
    thread::sleep(Duration::from_millis(2200));
    let asked = Instant::now();
    let read = source.read_at(0, &mut [0; 512]);
    // times: an answer has all of its time, which a busy machine only makes longer.
    assert!(asked.elapsed() >= TIMEOUT, "{read:?}");
    assert!(asked.elapsed() < PATIENCE, "{read:?}");
    drop(source);
    liar.refused(read, "has not answered for 2 s");
}

/// Has a server answer once it was asked for all, and reads all.
fn read_at_once(requests: usize, read: fn(&NbdSource) -> Result<(), SourceError>) {
    let liar = Liar::new(move |mut stream| {
        shake_hands(&mut stream)?;
        let asked: Vec<Request> = (0..requests)
            .map(|_| request(&mut stream))
            .collect::<Result<_, _>>()?;
        for asked in asked {
            let mut payload = asked.offset.to_be_bytes().to_vec();
            payload.resize(8 + asked.len as usize, 7);
            let (flags, kind) = (reply_flag::DONE, reply_type::OFFSET_DATA);
            stream.write_all(&chunk(asked.cookie, flags, kind, &payload))?;
        }
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let source = liar.open().expect("it shakes hands");
    read(&source).expect("all is asked for before anything is answered");
    drop(source);
    liar.thread.join().expect("the liar ends");
}

#[test]
fn requests_are_in_flight_at_once() {
    read_at_once(16, |source| {
        let mut bytes = vec![0; SIZE as usize];
        source.read_at(0, &mut bytes)?;
        assert!(bytes.iter().all(|byte| *byte == 7));
        Ok(())
    });
    read_at_once(16, |source| {
        let mut small = vec![0; 16 * 512];
        let mut parts: Vec<_> = (0..).zip(small.chunks_mut(512)).collect();
        parts.iter_mut().for_each(|(place, _)| *place *= 409_600);
        source.read_many(&mut parts)?;
        assert!(small.iter().all(|byte| *byte == 7));
        Ok(())
    });
}

#[test]
fn a_lie_ends_the_connection_for_all_requests() {
    let liar = Liar::new(|mut stream| {
        shake_hands(&mut stream)?;
        let asked = request(&mut stream)?;
        let wrong = asked.cookie ^ 0x8000;
        stream.write_all(&chunk(wrong, reply_flag::DONE, reply_type::NONE, &[]))?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let source = liar.open().expect("it shakes hands");
    let mut bytes = vec![0; 4 << 20];
    let read = source.read_at(0, &mut bytes);
    let again = source
        .read_at(0, &mut bytes)
        .expect_err("the connection is over");
    assert!(
        chain(&again).contains("a reply to no request"),
        "{}",
        chain(&again)
    );
    drop(source);
    liar.refused(read, "a reply to no request");
}

#[test]
fn status_is_checked_and_clipped() {
    let teller = |runs: Vec<(u64, u64)>| {
        Liar::new(move |mut stream| {
            shake_hands(&mut stream)?;
            loop {
                let asked = request(&mut stream)?;
                if asked.command != cmd::BLOCK_STATUS {
                    return Ok(());
                }
                tell(&mut stream, &asked, &runs)?;
            }
        })
    };
    for (runs, words) in [
        (vec![], "without a run"),
        (vec![(0, 0)], "without length"),
        (vec![(SIZE + 512, 0)], "beyond the disk"),
        (vec![(MIB, 0), (MIB, 0)], "not asked for"),
        (vec![(1000, 0)], "not aligned"),
    ] {
        let liar = teller(runs);
        let source = liar.open().expect("it shakes hands");
        let extents = source.extents(0..MIB);
        drop(source);
        liar.refused(extents, words);
    }
    // More than was asked for, short of the disk's end, is what the specification allows; hole
    // alone says nothing.
    let liar = teller(vec![(512 << 10, 1), (3 * MIB, 3)]);
    let source = liar.open().expect("it shakes hands");
    let extents = source.extents(0..MIB).expect("the answer is right");
    assert_eq!(extents.len(), 2, "{extents:?}");
    assert_eq!(extents[1].range(), 512 << 10..MIB);
    drop(source);
    liar.thread.join().expect("the liar ends");
}

#[test]
fn bytes_that_drip_are_no_answer() {
    let liar = Liar::new(|mut stream| {
        shake_hands(&mut stream)?;
        let asked = request(&mut stream)?;
        let mut payload = asked.offset.to_be_bytes().to_vec();
        payload.resize(8 + 4096, 1);
        let (flags, kind) = (reply_flag::DONE, reply_type::OFFSET_DATA);
        for byte in chunk(asked.cookie, flags, kind, &payload) {
            stream.write_all(&[byte])?;
            // sleeps: it is the drip.
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    let source = liar.open_with(None, TIMEOUT, &Cancel::default());
    let source = source.expect("it shakes hands");
    // All of it takes 200 s, and would be an answer.
    let read = source.read_at(0, &mut [0; 4096]);
    drop(source);
    liar.refused(read, "has not answered for 2 s");
}

#[test]
fn who_is_told_to_stop_waits_for_no_server() {
    let silent = || {
        let (asked, is_asked) = mpsc::channel();
        let liar = Liar::new(move |mut stream| {
            shake_hands(&mut stream)?;
            request(&mut stream)?;
            asked.send(()).expect("the test waits for it");
            stream.read_to_end(&mut Vec::new()).map(drop)
        });
        (liar, is_asked)
    };
    let cancelled = |ask: fn(&NbdSource) -> Result<(), SourceError>| {
        let ((liar, is_asked), cancel) = (silent(), Cancel::default());
        let source = liar.open_with(None, FOREVER, &cancel);
        let source = source.expect("it shakes hands");
        let error = thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&source));
            is_asked.recv_timeout(PATIENCE).expect("it is asked");
            cancel.cancel();
            waiting
                .join()
                .expect("no panic")
                .expect_err("nobody answers")
        });
        assert!(matches!(error, SourceError::Cancelled), "{}", chain(&error));
        drop(source);
        liar.thread.join().expect("the liar ends");
    };
    cancelled(|source| source.read_at(0, &mut vec![0; 4 << 20]));
    cancelled(|source| source.extents(0..MIB).map(drop));
    // One that does not even greet.
    let (came, has_come) = mpsc::channel();
    let liar = Liar::new(move |mut stream| {
        came.send(()).expect("the test waits for it");
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let cancel = Cancel::default();
    let opened = thread::scope(|scope| {
        let opening = scope.spawn(|| liar.open_with(None, FOREVER, &cancel));
        has_come.recv_timeout(PATIENCE).expect("it comes");
        cancel.cancel();
        opening.join().expect("no panic")
    });
    assert!(matches!(opened, Err(SourceError::Cancelled)));
}

#[test]
fn status_that_never_gets_further_ends() {
    // Without block sizes, a disk of sectors is asked for by sectors, and may be told by bytes.
    let liar = Liar::new(|mut stream| {
        agree(&mut stream, false)?;
        let mut len = 100;
        loop {
            let asked = request(&mut stream)?;
            if asked.command != cmd::BLOCK_STATUS {
                return Ok(());
            }
            tell(&mut stream, &asked, &[(len, 0)])?;
            len = if len == 100 { 400 } else { 100 };
        }
    });
    let source = liar.open().expect("it shakes hands");
    let extents = source.extents(300..MIB).expect("there is an end to it");
    assert_eq!(extents.len(), 1, "{extents:?}");
    assert_eq!(extents[0].range(), 300..MIB);
    drop(source);
    liar.thread.join().expect("the liar ends");
}

#[test]
fn more_contexts_than_anyone_lists_are_named_as_far_as_they_go() {
    let liar = Liar::new(|mut stream| {
        greet(&mut stream)?;
        loop {
            let asked = option(&mut stream)?;
            if asked == opt::LIST_META_CONTEXT {
                for number in 0..1100 {
                    let mut data = Vec::new();
                    let name = format!("qemu:dirty-bitmap:n{number}");
                    MetaQuery::encode_context(0, &name, &mut data);
                    reply(&mut stream, asked, rep::META_CONTEXT, &data)?;
                }
            }
            let kind = match asked {
                opt::EXTENDED_HEADERS => rep::ERR_UNSUP,
                _ => rep::ACK,
            };
            reply(&mut stream, asked, kind, &[])?;
        }
    });
    let opened = liar.open_with(Some("b0"), PATIENCE, &Cancel::default());
    let Err(error) = &opened else {
        panic!("there is no b0");
    };
    assert!(
        chain(error).contains("`qemu:dirty-bitmap:n7`"),
        "{}",
        chain(error)
    );
    liar.refused(opened, "no metadata context `qemu:dirty-bitmap:b0`");
}
