//! The options of one connection, one after the other.

use std::io::{self, Read, Write};
use std::sync::Arc;

use cairn_engine::nbd::wire::{
    EXPORT_NAME_ZEROES, IHAVEOPT, NBDMAGIC, OptionHeader, handshake, opt, rep,
};

use super::option::{skip, take};
use super::{
    Agreement, HandshakeError, Mode, OPTION_LEN_MAX, OPTION_LEN_SKIPPED_MAX, OPTIONS_MAX, Step, Tls,
};
use crate::context::Context;
use crate::exports::{Export, Exports};

/// What was said on both sides before the first option.
#[derive(Debug, Clone, Copy)]
pub struct Greeting {
    is_fixed: bool,
    has_zeroes: bool,
}

/// Greets a client, and returns how it greets back.
pub fn greet(stream: &mut (impl Read + Write)) -> Result<Greeting, HandshakeError> {
    let mut hello = Vec::with_capacity(18);
    hello.extend_from_slice(&NBDMAGIC.to_be_bytes());
    hello.extend_from_slice(&IHAVEOPT.to_be_bytes());
    let ours = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
    hello.extend_from_slice(&ours.to_be_bytes());
    stream.write_all(&hello)?;
    let mut theirs = [0; 4];
    stream.read_exact(&mut theirs)?;
    let flags = u32::from_be_bytes(theirs);
    if flags & !u32::from(ours) != 0 {
        return Err(HandshakeError::Flags { flags });
    }
    let has = |bit: u16| flags & u32::from(bit) != 0;
    Ok(Greeting {
        is_fixed: has(handshake::FIXED_NEWSTYLE),
        has_zeroes: !has(handshake::NO_ZEROES),
    })
}

/// Answers a client's options until they lead somewhere.
pub fn haggle(
    stream: &mut (impl Read + Write),
    exports: &Exports,
    greeting: Greeting,
    tls: Tls,
) -> Result<Step, HandshakeError> {
    let mut haggler = Haggler {
        stream,
        exports,
        greeting,
        tls,
        mode: Mode::Simple,
        out: Vec::new(),
        chosen: None,
    };
    for _ in 0..OPTIONS_MAX {
        if let Some(step) = haggler.next()? {
            return Ok(step);
        }
    }
    Err(HandshakeError::TooMuch)
}

/// One connection during its options. All of it is forgotten when TLS begins.
pub(super) struct Haggler<'a, S> {
    pub(super) stream: &'a mut S,
    pub(super) exports: &'a Exports,
    greeting: Greeting,
    tls: Tls,
    pub(super) mode: Mode,
    /// What is said in answer to the option at hand.
    pub(super) out: Vec<u8>,
    /// Contexts, and the name of the export that they were chosen for.
    pub(super) chosen: Option<(String, Vec<Context>)>,
}

impl<S: Read + Write> Haggler<'_, S> {
    /// Takes one option in and answers it.
    fn next(&mut self) -> Result<Option<Step>, HandshakeError> {
        let mut header = [0; OptionHeader::LEN];
        match self.stream.read(&mut header[..1])? {
            // Many clients just go when they have seen what they wanted.
            0 => return Ok(Some(Step::End)),
            _ => self.stream.read_exact(&mut header[1..])?,
        }
        let header = OptionHeader::decode(&header)?;
        if header.len > OPTION_LEN_SKIPPED_MAX {
            return Err(HandshakeError::TooMuch);
        }
        if !self.greeting.is_fixed && header.option != opt::EXPORT_NAME {
            return Err(HandshakeError::NoExport);
        }
        if header.len > OPTION_LEN_MAX {
            skip(self.stream, header.len)?;
            if header.option == opt::EXPORT_NAME {
                return Err(HandshakeError::NoExport);
            }
            let text = "the option is too long";
            self.refuse(header.option, rep::ERR_TOO_BIG, text);
            self.say()?;
            return Ok(None);
        }
        let data = take(self.stream, header.len)?;
        let step = self.dispatch(header.option, &data)?;
        match (&step, self.say()) {
            // The client may be gone already, and nobody is hurt.
            (Some(Step::End), _) => {}
            (_, said) => said?,
        }
        Ok(step)
    }

    /// Sends the answer.
    fn say(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn dispatch(&mut self, option: u32, data: &[u8]) -> Result<Option<Step>, HandshakeError> {
        match option {
            opt::ABORT => {
                self.answer(option, rep::ACK, &[]);
                return Ok(Some(Step::End));
            }
            opt::STARTTLS => return Ok(self.start_tls(data)),
            opt::EXPORT_NAME => return self.export_name(data).map(Some),
            _ if self.tls == Tls::Required => {
                let text = "TLS must come first";
                self.refuse(option, rep::ERR_TLS_REQD, text);
            }
            opt::LIST => self.list(data),
            opt::INFO => drop(self.info(option, data)),
            opt::GO => return Ok(self.info(option, data).map(Step::Transmit)),
            opt::STRUCTURED_REPLY => self.raise(Mode::Structured, option, data),
            opt::EXTENDED_HEADERS => self.raise(Mode::Extended, option, data),
            opt::LIST_META_CONTEXT => self.list_contexts(data),
            opt::SET_META_CONTEXT => self.set_contexts(data),
            _ => self.refuse(option, rep::ERR_UNSUP, "unknown option"),
        }
        Ok(None)
    }

    fn start_tls(&mut self, data: &[u8]) -> Option<Step> {
        let (kind, text) = match self.tls {
            _ if !data.is_empty() => (rep::ERR_INVALID, "the option takes no data"),
            Tls::Off => (rep::ERR_UNSUP, "this server does without TLS"),
            Tls::On => (rep::ERR_INVALID, "TLS is there already"),
            Tls::Required => {
                self.answer(opt::STARTTLS, rep::ACK, &[]);
                return Some(Step::StartTls);
            }
        };
        self.refuse(opt::STARTTLS, kind, text);
        None
    }

    /// Agrees in the old way, in which nothing can be refused but by going.
    fn export_name(&mut self, name: &[u8]) -> Result<Step, HandshakeError> {
        let name = std::str::from_utf8(name).ok();
        let export = name.and_then(|name| self.exports.find(name));
        let allowed = self.tls != Tls::Required && self.mode < Mode::Extended;
        let (Some(name), Some(export), true) = (name, export, allowed) else {
            return Err(HandshakeError::NoExport);
        };
        let agreement = self.agreement(name, export);
        let (size, flags) = (export.disk.size(), agreement.flags());
        self.out.extend_from_slice(&size.to_be_bytes());
        self.out.extend_from_slice(&flags.to_be_bytes());
        if self.greeting.has_zeroes {
            self.out.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        Ok(Step::Transmit(agreement))
    }

    /// Goes over to a richer kind of replies.
    fn raise(&mut self, mode: Mode, option: u32, data: &[u8]) {
        let (kind, text) = if !data.is_empty() {
            (rep::ERR_INVALID, "the option takes no data")
        } else if self.mode > mode {
            (rep::ERR_EXT_HEADER_REQD, "extended headers are agreed on")
        } else if self.mode == mode {
            (rep::ERR_INVALID, "this is agreed on already")
        } else {
            self.mode = mode;
            return self.answer(option, rep::ACK, &[]);
        };
        self.refuse(option, kind, text);
    }

    pub(super) fn agreement(&self, name: &str, export: &Arc<Export>) -> Agreement {
        // Contexts hold for the name that they were chosen with, and for no other.
        let chosen = self.chosen.as_ref().filter(|(other, _)| other == name);
        Agreement {
            export: Arc::clone(export),
            mode: self.mode,
            contexts: chosen
                .map(|(_, contexts)| contexts.clone())
                .unwrap_or_default(),
        }
    }
}
