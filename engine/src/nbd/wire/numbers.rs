//! The numbers and names of the protocol.

/// First bytes of a server's greeting: `NBDMAGIC`.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of a newstyle greeting, and first of every option: `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Second word of an oldstyle greeting, which nobody should speak any more.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Length of a string on the wire, such as the name of an export, at most, in bytes.
pub const STRING_LEN_MAX: usize = 4096;
/// Zeros that follow the answer to `NBD_OPT_EXPORT_NAME` unless both sides renounced them.
pub const EXPORT_NAME_ZEROES: usize = 124;
/// Bytes of data that a request may ask for where no block sizes were agreed on, by the
/// specification's advice; also what QEMU never exceeds.
pub const PAYLOAD_LEN_DEFAULT: u32 = 32 * 1024 * 1024;

/// Handshake flags.
pub mod handshake {
    /// Both sides: options may fail without ending the connection.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// Both sides: no zeros after the answer to `NBD_OPT_EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options, `NBD_OPT_*`.
pub mod opt {
    /// Chooses an export and ends the handshake; the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the connection.
    pub const ABORT: u32 = 2;
    /// Lists exports.
    pub const LIST: u32 = 3;
    /// Goes over to TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Chooses an export and ends the handshake.
    pub const GO: u32 = 7;
    /// Asks for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Lists metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Chooses metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Asks for 64-bit lengths in requests and replies.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options, `NBD_REP_*`.
pub mod rep {
    /// Set in every reply that is an error.
    pub const ERROR: u32 = 1 << 31;
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information on an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// The server does not want to.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// The option's data make no sense.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// The option is not possible where the server runs.
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    /// TLS must come first.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is ending.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The client must ask for block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    /// The request or the answer is too large.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// The client must ask for extended headers.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// Kinds of information on an export, `NBD_INFO_*`.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The export's canonical name.
    pub const NAME: u16 = 1;
    /// What the export is, for people.
    pub const DESCRIPTION: u16 = 2;
    /// Least, preferred and greatest block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags, `NBD_FLAG_*`.
pub mod flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writing is refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `NBD_CMD_FLUSH` works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// `NBD_CMD_FLAG_FUA` works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The disk has no use for random access.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// `NBD_CMD_TRIM` works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `NBD_CMD_WRITE_ZEROES` works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// `NBD_CMD_FLAG_DF` works.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see one another's flushed writes.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `NBD_CMD_CACHE` works.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// `NBD_CMD_FLAG_FAST_ZERO` works.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `NBD_CMD_BLOCK_STATUS` takes a payload that filters contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Commands, `NBD_CMD_*`.
pub mod cmd {
    /// Reads.
    pub const READ: u16 = 0;
    /// Writes.
    pub const WRITE: u16 = 1;
    /// Ends the connection.
    pub const DISC: u16 = 2;
    /// Makes what was written durable.
    pub const FLUSH: u16 = 3;
    /// Gives a range up.
    pub const TRIM: u16 = 4;
    /// Asks for a range to be brought near.
    pub const CACHE: u16 = 5;
    /// Writes zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Asks for the status of a range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags, `NBD_CMD_FLAG_*`.
pub mod cmd_flag {
    /// Durable before it is answered.
    pub const FUA: u16 = 1;
    /// Zeros must be allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// The answer must come in one chunk.
    pub const DF: u16 = 1 << 2;
    /// One run of each context is enough.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeros only if that is faster than writing them.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload that follows (extended headers).
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Flags of reply chunks, `NBD_REPLY_FLAG_*`.
pub mod reply_flag {
    /// The last chunk of a reply.
    pub const DONE: u16 = 1;
}

/// Types of reply chunks, `NBD_REPLY_TYPE_*`.
pub mod reply_type {
    /// No content.
    pub const NONE: u16 = 0;
    /// Bytes at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Status of one context, lengths of 32 bits.
    pub const BLOCK_STATUS: u16 = 5;
    /// Status of one context, lengths of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in every type that is an error.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// Failed.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// Failed at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Errors of the transmission phase, by their Linux numbers.
pub mod errno {
    /// Not permitted: a write to what is read-only.
    pub const EPERM: u32 = 1;
    /// The disk failed.
    pub const EIO: u32 = 5;
    /// No memory.
    pub const ENOMEM: u32 = 12;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// No space.
    pub const ENOSPC: u32 = 28;
    /// Too much was asked for at once.
    pub const EOVERFLOW: u32 = 75;
    /// Not supported in this way.
    pub const ENOTSUP: u32 = 95;
    /// The server is ending.
    pub const ESHUTDOWN: u32 = 108;
}

/// The metadata context that tells holes and zeros.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// What the names of QEMU's dirty bitmaps as metadata contexts begin with.
pub const QEMU_DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// Status flags of metadata contexts.
pub mod state {
    /// `base:allocation`: not allocated; says nothing of the content.
    pub const HOLE: u64 = 1;
    /// `base:allocation`: reads as zeros.
    pub const ZERO: u64 = 1 << 1;
    /// `qemu:dirty-bitmap:*`: written since.
    pub const DIRTY: u64 = 1;
}
