//! A client that says exactly what a test wants said.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use cairn_engine::nbd::wire::{
    ErrorChunk, GoQuery, IHAVEOPT, Info, MetaQuery, NBDMAGIC, OptionHeader, OptionReplyHeader,
    ReplyHeader, Request, flag, handshake, opt, rep, reply_flag, reply_type,
};

use crate::world::World;

/// A connection.
pub struct Peer {
    pub stream: UnixStream,
    is_extended: bool,
    cookie: u64,
}

/// One whole reply.
#[derive(Debug)]
pub struct Reply {
    pub cookie: u64,
    pub is_simple: bool,
    /// Chunks by type; of a simple reply none.
    pub chunks: Vec<(u16, Vec<u8>)>,
}

impl Reply {
    /// Returns the error, if the reply is one.
    pub fn error(&self) -> Option<ErrorChunk> {
        let is_error = |chunk: &&(u16, Vec<u8>)| chunk.0 & reply_type::ERROR_BIT != 0;
        let (kind, payload) = self.chunks.iter().find(is_error)?;
        Some(ErrorChunk::decode(*kind, payload).expect("errors can be decoded"))
    }

    #[track_caller]
    pub fn errno(&self) -> u32 {
        self.error().expect("the request was refused").error
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.error(), None);
        self
    }

    pub fn kinds(&self) -> Vec<u16> {
        self.chunks.iter().map(|(kind, _)| *kind).collect()
    }

    /// Puts what was read together; fails where bytes are missing or come twice.
    #[track_caller]
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut seen = vec![false; len];
        for (kind, payload) in &self.chunks {
            let at = |from: usize| {
                let number = payload[from..from + 8].try_into().expect("eight bytes");
                usize::try_from(u64::from_be_bytes(number) - offset).expect("test disks are small")
            };
            let range = match *kind {
                reply_type::OFFSET_DATA => {
                    let start = at(0);
                    let data = &payload[8..];
                    bytes[start..start + data.len()].copy_from_slice(data);
                    start..start + data.len()
                }
                reply_type::OFFSET_HOLE => {
                    let hole = payload[8..12].try_into().expect("four bytes");
                    at(0)..at(0) + u32::from_be_bytes(hole) as usize
                }
                _ => continue,
            };
            assert!(
                seen[range.clone()].iter().all(|seen| !seen),
                "bytes came twice"
            );
            seen[range].fill(true);
        }
        assert!(
            seen.iter().all(|seen| *seen),
            "bytes are missing: {:?}",
            self.kinds()
        );
        bytes
    }
}

impl Peer {
    /// Connects, and greets with the flags of a client of today.
    pub fn new(world: &World) -> Self {
        Self::greeting(world, handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES)
    }

    pub fn greeting(world: &World, flags: u16) -> Self {
        let mut peer = Self {
            stream: world.connect(),
            is_extended: false,
            cookie: 0,
        };
        let mut hello = [0; 18];
        peer.stream
            .read_exact(&mut hello)
            .expect("the server greets");
        assert_eq!(hello[..8], NBDMAGIC.to_be_bytes());
        assert_eq!(hello[8..16], IHAVEOPT.to_be_bytes());
        assert_eq!(hello[16..], [0, 3]);
        peer.send(&u32::from(flags).to_be_bytes());
        peer
    }

    /// Connects, with structured replies or extended headers if asked for.
    pub fn ready(world: &World, option: Option<u32>) -> Self {
        let mut peer = Self::new(world);
        if let Some(option) = option {
            peer.agree(option);
        }
        peer.go("vda");
        peer
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Returns whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = Vec::new();
        let len = u32::try_from(data.len()).expect("options are short");
        OptionHeader { option, len }.encode(&mut bytes);
        bytes.extend_from_slice(data);
        self.send(&bytes);
    }

    /// Sends an option and returns its replies, of which the last is ACK or an error.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        self.option_replies(option)
    }

    pub fn option_replies(&mut self, option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let mut header = [0; OptionReplyHeader::LEN];
            self.stream
                .read_exact(&mut header)
                .expect("the server answers");
            let header = OptionReplyHeader::decode(&header).expect("the answer is one");
            assert_eq!(header.option, option);
            let mut data = vec![0; header.len as usize];
            self.stream
                .read_exact(&mut data)
                .expect("the answer has its data");
            replies.push((header.kind, data));
            if header.kind == rep::ACK || header.kind & rep::ERROR != 0 {
                return replies;
            }
        }
    }

    /// Sends an option, and returns the last of its replies.
    pub fn outcome(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data)
            .pop()
            .expect("there is an answer")
            .0
    }

    #[track_caller]
    pub fn agree(&mut self, option: u32) {
        assert_eq!(self.outcome(option, &[]), rep::ACK);
        self.is_extended |= option == opt::EXTENDED_HEADERS;
    }

    #[track_caller]
    pub fn go(&mut self, name: &str) -> (u64, u16) {
        let mut data = Vec::new();
        let (name, infos) = (name.to_owned(), Vec::new());
        GoQuery { name, infos }.encode(&mut data);
        let replies = self.option(opt::GO, &data);
        assert_eq!(replies.last().map(|reply| reply.0), Some(rep::ACK));
        match Info::decode(&replies[0].1) {
            Ok(Info::Export { size, flags }) => {
                assert!(flags & flag::HAS_FLAGS != 0);
                (size, flags)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Lists or chooses contexts: the outcome, and ids with names.
    pub fn contexts(
        &mut self,
        option: u32,
        name: &str,
        queries: &[&str],
    ) -> (u32, Vec<(u32, String)>) {
        let mut data = Vec::new();
        let queries = queries.iter().map(|query| (*query).to_owned()).collect();
        let name = name.to_owned();
        MetaQuery { name, queries }.encode(&mut data);
        let mut replies = self.option(option, &data);
        let (outcome, _) = replies.pop().expect("there is an answer");
        let contexts = replies.iter().map(|(kind, data)| {
            assert_eq!(*kind, rep::META_CONTEXT);
            MetaQuery::decode_context(data).expect("a context")
        });
        (outcome, contexts.collect())
    }

    /// Sends a request and its payload, and returns its cookie.
    pub fn send_request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u64,
        payload: &[u8],
    ) -> u64 {
        self.cookie += 1;
        let mut bytes = Vec::new();
        let request = Request {
            flags,
            command,
            cookie: self.cookie,
            offset,
            len,
        };
        request.encode(self.is_extended, &mut bytes);
        bytes.extend_from_slice(payload);
        self.send(&bytes);
        self.cookie
    }

    /// Sends a request and waits for its reply; `read` says how many bytes a simple one brings.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, len: u64) -> Reply {
        let read = if command == 0 { len as usize } else { 0 };
        let cookie = self.send_request(command, flags, offset, len, &[]);
        let reply = self.reply(read);
        assert_eq!(reply.cookie, cookie);
        reply
    }

    pub fn write(&mut self, command: u16, flags: u16, offset: u64, payload: &[u8]) -> Reply {
        let cookie = self.send_request(command, flags, offset, payload.len() as u64, payload);
        let reply = self.reply(0);
        assert_eq!(reply.cookie, cookie);
        reply
    }

    /// Takes one whole reply, whose chunks come together.
    pub fn reply(&mut self, read: usize) -> Reply {
        let mut chunks = Vec::new();
        loop {
            let mut header = [0; 32];
            self.stream
                .read_exact(&mut header[..4])
                .expect("the server answers");
            let magic = header[..4].try_into().expect("four bytes");
            let len = ReplyHeader::len_by_magic(magic).expect("a reply");
            self.stream
                .read_exact(&mut header[4..len])
                .expect("a whole header");
            let header = ReplyHeader::decode(&header[..len]).expect("a header");
            let (flags, kind, cookie, len) = match header {
                ReplyHeader::Simple { error, cookie } => {
                    return self.simple_reply(error, cookie, read);
                }
                ReplyHeader::Structured {
                    flags,
                    kind,
                    cookie,
                    len,
                } => {
                    assert!(!self.is_extended, "replies have extended headers");
                    (flags, kind, cookie, len as usize)
                }
                ReplyHeader::Extended {
                    flags,
                    kind,
                    cookie,
                    len,
                    ..
                } => {
                    assert!(self.is_extended, "nobody asked for extended headers");
                    (flags, kind, cookie, len as usize)
                }
            };
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).expect("a whole chunk");
            chunks.push((kind, payload));
            if flags & reply_flag::DONE != 0 {
                return Reply {
                    cookie,
                    is_simple: false,
                    chunks,
                };
            }
        }
    }

    /// Gives a simple reply the form of a structured one.
    fn simple_reply(&mut self, error: u32, cookie: u64, read: usize) -> Reply {
        let mut payload = Vec::new();
        let kind = if error == 0 {
            payload.extend_from_slice(&0_u64.to_be_bytes());
            payload.resize(8 + read, 0);
            self.stream
                .read_exact(&mut payload[8..])
                .expect("the bytes read");
            reply_type::OFFSET_DATA
        } else {
            ErrorChunk {
                error,
                message: String::new(),
                offset: None,
            }
            .encode(&mut payload);
            reply_type::ERROR
        };
        Reply {
            cookie,
            is_simple: true,
            chunks: vec![(kind, payload)],
        }
    }
}
