//! Why a text is not the XML that it should be.

/// A fault of an XML text. Nothing of the text is taken then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// It is not well formed.
    #[error("malformed XML at byte {offset}")]
    Malformed {
        /// Where.
        offset: u64,
    },
    /// It is longer, deeper or has more elements than any domain's.
    #[error("the XML has more {what} than {limit}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much is taken.
        limit: usize,
    },
    /// Its root is another element.
    #[error("the XML describes no {expected}")]
    WrongRoot {
        /// The element that was expected.
        expected: &'static str,
    },
    /// Something that every domain has is not there.
    #[error("the XML has no {what}")]
    Missing {
        /// What is not there.
        what: &'static str,
    },
}
