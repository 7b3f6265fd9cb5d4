//! Options of the handshake, and the replies to them.

use super::cursor::{Cursor, put_string};
use super::{IHAVEOPT, OPTION_REPLY_MAGIC, WireError, info};

/// The header of an option. Its data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// The option.
    pub option: u32,
    /// Length of the data in bytes.
    pub len: u32,
}

impl OptionHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 16;

    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&IHAVEOPT.to_be_bytes());
        out.extend_from_slice(&self.option.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    /// Decodes a header.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        match fields.u64()? {
            IHAVEOPT => Ok(Self {
                option: fields.u32()?,
                len: fields.u32()?,
            }),
            found => Err(WireError::Magic { found }),
        }
    }
}

/// The header of a reply to an option. Its data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: u32,
    /// The type of reply.
    pub kind: u32,
    /// Length of the data in bytes.
    pub len: u32,
}

impl OptionReplyHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 20;

    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.option.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    /// Decodes a header.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        match fields.u64()? {
            OPTION_REPLY_MAGIC => Ok(Self {
                option: fields.u32()?,
                kind: fields.u32()?,
                len: fields.u32()?,
            }),
            found => Err(WireError::Magic { found }),
        }
    }
}

/// The data of `NBD_OPT_GO` and `NBD_OPT_INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoQuery {
    /// The export's name; empty is the default export.
    pub name: String,
    /// Kinds of information wanted.
    pub infos: Vec<u16>,
}

impl GoQuery {
    /// Appends the data.
    ///
    /// # Panics
    ///
    /// Panics if the name is longer than [`super::STRING_LEN_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, &self.name);
        let count = u16::try_from(self.infos.len()).expect("there are a handful of kinds");
        out.extend_from_slice(&count.to_be_bytes());
        for kind in &self.infos {
            out.extend_from_slice(&kind.to_be_bytes());
        }
    }

    /// Decodes the data, whose length the caller has bounded.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let name = fields.string()?;
        let count = fields.u16()?;
        let infos = (0..count).map(|_| fields.u16()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { name, infos })
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaQuery {
    /// The export's name.
    pub name: String,
    /// Contexts asked for; a namespace with its colon alone stands for all in it.
    pub queries: Vec<String>,
}

impl MetaQuery {
    /// Appends the data.
    ///
    /// # Panics
    ///
    /// Panics if a string is longer than [`super::STRING_LEN_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, &self.name);
        let count = u32::try_from(self.queries.len()).expect("queries are bounded");
        out.extend_from_slice(&count.to_be_bytes());
        for query in &self.queries {
            put_string(out, query);
        }
    }

    /// Decodes the data, whose length the caller has bounded; each query takes four bytes of it
    /// at least.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let name = fields.string()?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.string()?);
        }
        fields.end()?;
        Ok(Self { name, queries })
    }

    /// Appends the data of one `NBD_REP_META_CONTEXT`.
    pub fn encode_context(id: u32, name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
    }

    /// Decodes the data of one `NBD_REP_META_CONTEXT`: the context's id and name.
    pub fn decode_context(bytes: &[u8]) -> Result<(u32, String), WireError> {
        let mut fields = Cursor::new(bytes);
        Ok((fields.u32()?, fields.rest()?))
    }

    /// Appends the data of one `NBD_REP_SERVER`.
    pub fn encode_server(name: &str, description: &str, out: &mut Vec<u8>) {
        put_string(out, name);
        out.extend_from_slice(description.as_bytes());
    }

    /// Decodes the data of one `NBD_REP_SERVER`: the export's name and its description.
    pub fn decode_server(bytes: &[u8]) -> Result<(String, String), WireError> {
        let mut fields = Cursor::new(bytes);
        Ok((fields.string()?, fields.rest()?))
    }
}

/// What sizes of requests a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this; a power of two up to 64 KiB.
    pub minimum: u32,
    /// Requests of multiples of this are served best; a power of two.
    pub preferred: u32,
    /// No request that carries data is longer.
    pub maximum: u32,
}

impl BlockSizes {
    /// Returns the sizes, if they keep the specification's rules.
    pub fn checked(self) -> Result<Self, WireError> {
        let Self {
            minimum,
            preferred,
            maximum,
        } = self;
        let rule = if !minimum.is_power_of_two() || minimum > 64 * 1024 {
            "the least block size is a power of two up to 64 KiB"
        } else if !preferred.is_power_of_two() || preferred < minimum.max(512) {
            "the preferred block size is a power of two not below the least and 512"
        } else if maximum < minimum || maximum.checked_rem(minimum) != Some(0) {
            "the greatest block size is a multiple of the least"
        } else {
            return Ok(self);
        };
        // All ones is the specification's "no bound".
        match rule.starts_with("the greatest") && maximum == u32::MAX {
            true => Ok(self),
            false => Err(WireError::Rule { rule }),
        }
    }
}

/// The data of one `NBD_REP_INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Size and transmission flags.
    Export {
        /// The disk's size in bytes.
        size: u64,
        /// Transmission flags.
        flags: u16,
    },
    /// The canonical name.
    Name(String),
    /// A description for people.
    Description(String),
    /// Sizes of requests.
    BlockSize(BlockSizes),
    /// Of a kind that is not known here.
    Unknown(u16),
}

impl Info {
    /// Appends the data.
    ///
    /// # Panics
    ///
    /// Panics on [`Info::Unknown`], which only a peer can mean.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Export { size, flags } => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            Self::Name(name) => {
                out.extend_from_slice(&info::NAME.to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Self::Description(text) => {
                out.extend_from_slice(&info::DESCRIPTION.to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Self::BlockSize(sizes) => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                for size in [sizes.minimum, sizes.preferred, sizes.maximum] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            Self::Unknown(_) => panic!("information of an unknown kind is never sent"),
        }
    }

    /// Decodes the data, whose length the caller has bounded.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Cursor::new(bytes);
        let decoded = match fields.u16()? {
            info::EXPORT => Self::Export {
                size: fields.u64()?,
                flags: fields.u16()?,
            },
            info::NAME => Self::Name(fields.rest()?),
            info::DESCRIPTION => Self::Description(fields.rest()?),
            info::BLOCK_SIZE => Self::BlockSize(
                BlockSizes {
                    minimum: fields.u32()?,
                    preferred: fields.u32()?,
                    maximum: fields.u32()?,
                }
                .checked()?,
            ),
            other => return Ok(Self::Unknown(other)),
        };
        fields.end()?;
        Ok(decoded)
    }
}
