//! The protocol's numbers, and codecs for its messages. Both sides use them; no number of the
//! protocol stands anywhere else. All integers on the wire are big-endian.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod cursor;
mod numbers;
mod option;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use numbers::*;
pub use option::{BlockSizes, GoQuery, Info, MetaQuery, OptionHeader, OptionReplyHeader};
pub use reply::{
    BlockStatus, ErrorChunk, ReplyHeader, StatusRun, decode_offset_data, decode_offset_hole,
};
pub use request::{COMPACT_REQUEST_LEN, EXTENDED_REQUEST_LEN, Request};

/// A message that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The message ends before it should.
    #[error("the message is too short")]
    Short,
    /// The message goes on after its end.
    #[error("the message is too long")]
    Long,
    /// A magic number is another.
    #[error("the magic number is {found:#x}")]
    Magic {
        /// What stands there.
        found: u64,
    },
    /// A string is longer than the protocol allows, or is not UTF-8.
    #[error("a string is not UTF-8 of at most 4096 bytes")]
    String,
    /// The fields contradict one another.
    #[error("{rule} does not hold")]
    Rule {
        /// The rule that is broken.
        rule: &'static str,
    },
}
