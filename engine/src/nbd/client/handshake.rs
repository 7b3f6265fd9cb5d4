//! The handshake: from a server's greeting to an export that can be read.
//!
//! What is asked for is asked for in the order of the specification's advice: TLS, headers,
//! contexts, the export. A server that refuses an option is served by what came before it: no
//! contexts, simple replies, at last `NBD_OPT_EXPORT_NAME`. One that breaks the connection
//! at an option it does not know is asked for the least on a second connection; see `connect`.

use std::io::{Read, Write};

use super::error::ClientError;
use super::option::{Ended, exchange, send};
use crate::nbd::wire::{
    BASE_ALLOCATION, BlockSizes, EXPORT_NAME_ZEROES, GoQuery, IHAVEOPT, Info, MetaQuery, NBDMAGIC,
    OLDSTYLE_MAGIC, flag, handshake, info, opt, rep,
};

/// How the replies of the transmission phase look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// Simple ones.
    Simple,
    /// Chunks with lengths of 32 bits.
    Structured,
    /// Chunks with lengths of 64 bits.
    Extended,
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// The export's name.
    pub export: &'w str,
    /// Metadata contexts. All but `base:allocation` must be there.
    pub contexts: &'w [String],
    /// Whether to ask for no more than an export by its name.
    pub is_least: bool,
}

/// What client and server agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The disk's size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Sizes of requests, where the server told them.
    pub block_sizes: Option<BlockSizes>,
    /// How replies look.
    pub replies: Replies,
    /// The server's ids of the contexts that were wanted, in their order, where it has them.
    pub contexts: Vec<Option<u32>>,
}

impl Agreed {
    fn simple(size: u64, flags: u16) -> Self {
        Self {
            size,
            flags,
            block_sizes: None,
            replies: Replies::Simple,
            contexts: Vec::new(),
        }
    }
}

/// A server's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// An oldstyle server has one export, and says at once what it is.
    Oldstyle(Agreed),
    /// A newstyle server can be asked.
    Newstyle {
        /// Whether options may fail without ending the connection.
        is_fixed: bool,
        /// Whether no zeros follow the answer to `NBD_OPT_EXPORT_NAME`.
        no_zeroes: bool,
    },
}

/// Takes the greeting, and answers it.
pub fn greet<S: Read + Write>(stream: &mut S) -> Result<Greeting, ClientError> {
    if u64::from_be_bytes(array(stream)?) != NBDMAGIC {
        return Err(ClientError::NotNbd);
    }
    match u64::from_be_bytes(array(stream)?) {
        OLDSTYLE_MAGIC => {
            let size = u64::from_be_bytes(array(stream)?);
            let _global_flags: [u8; 2] = array(stream)?;
            let flags = u16::from_be_bytes(array(stream)?);
            let _zeroes: [u8; EXPORT_NAME_ZEROES] = array(stream)?;
            Ok(Greeting::Oldstyle(Agreed::simple(size, flags)))
        }
        IHAVEOPT => {
            let offered = u16::from_be_bytes(array(stream)?);
            let taken = offered & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
            stream.write_all(&u32::from(taken).to_be_bytes())?;
            stream.flush()?;
            Ok(Greeting::Newstyle {
                is_fixed: taken & handshake::FIXED_NEWSTYLE != 0,
                no_zeroes: taken & handshake::NO_ZEROES != 0,
            })
        }
        _ => Err(ClientError::NotNbd),
    }
}

/// Asks for TLS. When it returns, the session is to begin with the next byte.
pub fn start_tls<S: Read + Write>(stream: &mut S, greeting: &Greeting) -> Result<(), ClientError> {
    if !matches!(greeting, Greeting::Newstyle { is_fixed: true, .. }) {
        return Err(ClientError::NoTls {
            reply: super::error::OptionError {
                kind: rep::ERR_UNSUP,
                message: "the server is too old".to_owned(),
            },
        });
    }
    match exchange(stream, opt::STARTTLS, &[], rep::ACK, |_| Ok(()))? {
        Ended::Done => Ok(()),
        Ended::Refused(reply) => Err(ClientError::NoTls { reply }),
    }
}

/// Agrees on an export with a server that has greeted.
///
/// # Errors
///
/// What the server has not, will not, or does wrong. The connection cannot be used any more.
pub fn negotiate<S: Read + Write>(
    stream: &mut S,
    greeting: Greeting,
    wanted: &Wanted<'_>,
) -> Result<Agreed, ClientError> {
    let is_fixed = matches!(greeting, Greeting::Newstyle { is_fixed: true, .. });
    let agreed = agree(stream, greeting, wanted);
    if is_fixed && agreed.is_err() {
        // A server that is told goes without complaint; one that has gone will not hear it.
        drop(send(stream, opt::ABORT, &[]));
    }
    agreed
}

fn agree<S: Read + Write>(
    stream: &mut S,
    greeting: Greeting,
    wanted: &Wanted<'_>,
) -> Result<Agreed, ClientError> {
    let agreed = match greeting {
        Greeting::Oldstyle(agreed) if wanted.export.is_empty() => agreed,
        Greeting::Oldstyle(_) => {
            return Err(ClientError::NoExport {
                export: wanted.export.to_owned(),
                offered: vec![String::new()],
            });
        }
        Greeting::Newstyle {
            is_fixed,
            no_zeroes,
        } => {
            if is_fixed && !wanted.is_least {
                fixed(stream, no_zeroes, wanted)?
            } else {
                export_name(stream, no_zeroes, wanted)?
            }
        }
    };
    // Without the first flag the others say nothing.
    let flags = match agreed.flags & flag::HAS_FLAGS {
        0 => 0,
        _ => agreed.flags,
    };
    let mut contexts = agreed.contexts;
    contexts.resize(wanted.contexts.len(), None);
    if let Some(missing) = first_missing(wanted, &contexts) {
        return Err(ClientError::NoContext {
            context: missing.clone(),
            offered: Vec::new(),
        });
    }
    Ok(Agreed {
        flags,
        contexts,
        ..agreed
    })
}

/// Returns the first context that must be there and is not.
fn first_missing<'w>(wanted: &Wanted<'w>, found: &[Option<u32>]) -> Option<&'w String> {
    let mut pairs = wanted.contexts.iter().zip(found);
    pairs
        .find(|(name, id)| *name != BASE_ALLOCATION && id.is_none())
        .map(|(name, _)| name)
}

/// Negotiates with a server whose options may fail.
fn fixed<S: Read + Write>(
    stream: &mut S,
    no_zeroes: bool,
    wanted: &Wanted<'_>,
) -> Result<Agreed, ClientError> {
    let mut accepts = |option| -> Result<bool, ClientError> {
        Ok(exchange(stream, option, &[], rep::ACK, |_| Ok(()))?.is_done())
    };
    let replies = if accepts(opt::EXTENDED_HEADERS)? {
        Replies::Extended
    } else if accepts(opt::STRUCTURED_REPLY)? {
        Replies::Structured
    } else {
        Replies::Simple
    };
    let mut contexts = Vec::new();
    if replies != Replies::Simple && !wanted.contexts.is_empty() {
        contexts = set_contexts(stream, wanted)?;
    }
    let agreed = match go(stream, wanted)? {
        Some(agreed) => agreed,
        None => export_name(stream, no_zeroes, wanted)?,
    };
    Ok(Agreed {
        replies,
        contexts,
        ..agreed
    })
}

/// Chooses metadata contexts, and returns the ids of those there are.
fn set_contexts<S: Read + Write>(
    stream: &mut S,
    wanted: &Wanted<'_>,
) -> Result<Vec<Option<u32>>, ClientError> {
    let mut ids: Vec<Option<u32>> = vec![None; wanted.contexts.len()];
    let mut data = Vec::new();
    meta_query(wanted, wanted.contexts.to_vec()).encode(&mut data);
    let kind = rep::META_CONTEXT;
    let ended = exchange(stream, opt::SET_META_CONTEXT, &data, kind, |data| {
        let (id, name) = MetaQuery::decode_context(data)?;
        let place = wanted.contexts.iter().position(|wanted| *wanted == name);
        let slot = place.and_then(|place| ids.get_mut(place));
        let slot = slot.ok_or(ClientError::protocol("a context that was not asked for"))?;
        if slot.is_some() {
            return Err(ClientError::protocol("a context that is there twice"));
        }
        *slot = Some(id);
        Ok(())
    })?;
    match ended {
        Ended::Done => {}
        // There is no such export: the next option says so with more to read.
        Ended::Refused(error) if error.kind == rep::ERR_UNKNOWN => return Ok(ids),
        Ended::Refused(_) => ids.fill(None),
    }
    let mut known: Vec<u32> = ids.iter().flatten().copied().collect();
    known.sort_unstable();
    if known.windows(2).any(|two| two.first() == two.last()) {
        return Err(ClientError::protocol("two contexts with one id"));
    }
    match first_missing(wanted, &ids) {
        None => Ok(ids),
        Some(missing) => Err(ClientError::NoContext {
            context: missing.clone(),
            offered: list_contexts(stream, wanted),
        }),
    }
}

fn meta_query(wanted: &Wanted<'_>, queries: Vec<String>) -> MetaQuery {
    let name = wanted.export.to_owned();
    MetaQuery { name, queries }
}

/// Returns the contexts that there are, as far as the server tells: they are for a message only.
fn list_contexts<S: Read + Write>(stream: &mut S, wanted: &Wanted<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut data = Vec::new();
    meta_query(wanted, Vec::new()).encode(&mut data);
    let kind = rep::META_CONTEXT;
    let listed = exchange(stream, opt::LIST_META_CONTEXT, &data, kind, |data| {
        names.push(MetaQuery::decode_context(data)?.1);
        Ok(())
    });
    drop(listed);
    names
}

/// Returns the exports that there are, as far as the server tells: they are for a message only.
fn list_exports<S: Read + Write>(stream: &mut S) -> Vec<String> {
    let mut names = Vec::new();
    let listed = exchange(stream, opt::LIST, &[], rep::SERVER, |data| {
        names.push(MetaQuery::decode_server(data)?.0);
        Ok(())
    });
    drop(listed);
    names
}

/// Chooses the export with all there is to know of it. `None`: the server does not know how.
fn go<S: Read + Write>(stream: &mut S, wanted: &Wanted<'_>) -> Result<Option<Agreed>, ClientError> {
    let query = GoQuery {
        name: wanted.export.to_owned(),
        infos: vec![info::BLOCK_SIZE],
    };
    let mut data = Vec::new();
    query.encode(&mut data);
    let (mut export, mut block_sizes) = (None, None);
    let ended = exchange(stream, opt::GO, &data, rep::INFO, |data| {
        match Info::decode(data)? {
            Info::Export { size, flags } => export = Some((size, flags)),
            Info::BlockSize(sizes) => block_sizes = Some(sizes),
            Info::Name(_) | Info::Description(_) | Info::Unknown(_) => {}
        }
        Ok(())
    })?;
    match ended {
        Ended::Done => {}
        Ended::Refused(error) if error.kind == rep::ERR_UNSUP => return Ok(None),
        Ended::Refused(error) if error.kind == rep::ERR_UNKNOWN => {
            return Err(ClientError::NoExport {
                export: wanted.export.to_owned(),
                offered: list_exports(stream),
            });
        }
        Ended::Refused(reply) => return Err(ClientError::Refused { reply }),
    }
    let (size, flags) = export.ok_or(ClientError::protocol("an export without a size"))?;
    Ok(Some(Agreed {
        block_sizes,
        ..Agreed::simple(size, flags)
    }))
}

/// Chooses the export the old way: a server that does not have it ends the connection.
fn export_name<S: Read + Write>(
    stream: &mut S,
    no_zeroes: bool,
    wanted: &Wanted<'_>,
) -> Result<Agreed, ClientError> {
    send(stream, opt::EXPORT_NAME, wanted.export.as_bytes())?;
    let size = match array(stream) {
        Ok(size) => u64::from_be_bytes(size),
        Err(ClientError::Gone) => {
            return Err(ClientError::NoExport {
                export: wanted.export.to_owned(),
                offered: Vec::new(),
            });
        }
        Err(error) => return Err(error),
    };
    let flags = u16::from_be_bytes(array(stream)?);
    if !no_zeroes {
        let _zeroes: [u8; EXPORT_NAME_ZEROES] = array(stream)?;
    }
    Ok(Agreed::simple(size, flags))
}

fn array<const N: usize>(stream: &mut impl Read) -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
