//! Options one by one: their data, their answers, and those that tell of exports.

use std::io::{self, Read, Write};

use cairn_engine::nbd::wire::{
    BlockSizes, GoQuery, Info, MetaQuery, OptionReplyHeader, PAYLOAD_LEN_DEFAULT, info, opt, rep,
};

use super::Agreement;
use super::haggler::Haggler;

/// What sizes of requests are taken. Any byte can be read and written alone, and a disk need not
/// be a multiple of anything. Holes and differences are told in blocks of 64 KiB, and no less is
/// decoded at once. No client that is known sends more than 32 MiB.
pub const BLOCK_SIZES: BlockSizes = BlockSizes {
    minimum: 1,
    preferred: 64 * 1024,
    maximum: PAYLOAD_LEN_DEFAULT,
};

/// Takes the data of an option, whose length the caller has bounded.
pub(super) fn take(stream: &mut impl Read, len: u32) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    stream.take(len.into()).read_to_end(&mut data)?;
    match u32::try_from(data.len()) == Ok(len) {
        true => Ok(data),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Takes bytes that nobody looks at.
pub(super) fn skip(stream: &mut impl Read, len: u32) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(len.into()), &mut io::sink())?;
    match skipped == u64::from(len) {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl<S: Read + Write> Haggler<'_, S> {
    /// Answers an option, or begins to.
    pub(super) fn answer(&mut self, option: u32, kind: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("answers are short");
        OptionReplyHeader { option, kind, len }.encode(&mut self.out);
        self.out.extend_from_slice(data);
    }

    /// Answers an option with an error.
    pub(super) fn refuse(&mut self, option: u32, kind: u32, text: &str) {
        self.answer(option, kind, text.as_bytes());
    }

    pub(super) fn list(&mut self, data: &[u8]) {
        if !data.is_empty() {
            let text = "the option takes no data";
            return self.refuse(opt::LIST, rep::ERR_INVALID, text);
        }
        let exports = self.exports;
        for (name, description) in exports.list() {
            let mut entry = Vec::new();
            MetaQuery::encode_server(name, description, &mut entry);
            self.answer(opt::LIST, rep::SERVER, &entry);
        }
        self.answer(opt::LIST, rep::ACK, &[]);
    }

    /// Tells of an export, for `NBD_OPT_INFO` and `NBD_OPT_GO`; returns what is agreed on if the
    /// answer is not an error.
    pub(super) fn info(&mut self, option: u32, data: &[u8]) -> Option<Agreement> {
        let Ok(query) = GoQuery::decode(data) else {
            let text = "the option makes no sense";
            self.refuse(option, rep::ERR_INVALID, text);
            return None;
        };
        let exports = self.exports;
        let Some(export) = exports.find(&query.name) else {
            let text = "there is no such export";
            self.refuse(option, rep::ERR_UNKNOWN, text);
            return None;
        };
        let agreement = self.agreement(&query.name, export);
        let mut infos = vec![Info::Export {
            size: export.disk.size(),
            flags: agreement.flags(),
        }];
        let asks_for = |kind: u16| query.infos.contains(&kind);
        if asks_for(info::NAME) {
            infos.push(Info::Name(export.name.clone()));
        }
        if asks_for(info::DESCRIPTION) {
            infos.push(Info::Description(export.description.clone()));
        }
        if asks_for(info::BLOCK_SIZE) {
            infos.push(Info::BlockSize(BLOCK_SIZES));
        }
        for info in infos {
            let mut data = Vec::new();
            info.encode(&mut data);
            self.answer(option, rep::INFO, &data);
        }
        self.answer(option, rep::ACK, &[]);
        Some(agreement)
    }
}
