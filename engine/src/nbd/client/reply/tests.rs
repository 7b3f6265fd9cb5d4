#![expect(
    clippy::arithmetic_side_effects,
    reason = "numbers of a test are its own"
)]

use super::*;
use crate::nbd::wire::{StatusRun, WireError, errno};

const OFFSET: u64 = 8192;
const LEN: usize = 4096;
const COOKIE: u64 = 77;

fn rules(replies: Replies) -> Rules {
    Rules {
        replies,
        contexts: vec![5, 9],
        size: 1 << 20,
        block_min: 512,
    }
}

/// Messages of a server, and what they are read by.
struct Script {
    rules: Rules,
    bytes: Vec<u8>,
}

impl Script {
    fn new(replies: Replies) -> Self {
        let rules = rules(replies);
        let bytes = Vec::new();
        Self { rules, bytes }
    }

    fn chunk(mut self, flags: u16, kind: u16, payload: &[u8]) -> Self {
        let len = u32::try_from(payload.len()).expect("small");
        let cookie = COOKIE;
        let header = match self.rules.replies {
            Replies::Extended => ReplyHeader::Extended {
                flags,
                kind,
                cookie,
                offset: OFFSET,
                len: len.into(),
            },
            _ => ReplyHeader::Structured {
                flags,
                kind,
                cookie,
                len,
            },
        };
        header.encode(&mut self.bytes);
        self.bytes.extend_from_slice(payload);
        self
    }

    fn simple(mut self, error: u32, payload: &[u8]) -> Self {
        let cookie = COOKIE;
        ReplyHeader::Simple { error, cookie }.encode(&mut self.bytes);
        self.bytes.extend_from_slice(payload);
        self
    }

    fn data(self, flags: u16, offset: u64, fill: u8, len: usize) -> Self {
        let mut payload = offset.to_be_bytes().to_vec();
        payload.resize(8 + len, fill);
        self.chunk(flags, reply_type::OFFSET_DATA, &payload)
    }

    fn hole(self, flags: u16, offset: u64, len: u32) -> Self {
        let payload = [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
        self.chunk(flags, reply_type::OFFSET_HOLE, &payload)
    }

    fn status(self, flags: u16, context: u32, runs: &[(u64, u64)]) -> Self {
        let runs = runs.iter().map(|&(len, flags)| StatusRun { len, flags });
        let runs = runs.collect();
        let is_extended = self.rules.replies == Replies::Extended;
        let mut payload = Vec::new();
        BlockStatus { context, runs }.encode(is_extended, &mut payload);
        let kind = match is_extended {
            true => reply_type::BLOCK_STATUS_EXT,
            false => reply_type::BLOCK_STATUS,
        };
        self.chunk(flags, kind, &payload)
    }

    fn play(&self, mut exchange: Exchange) -> Result<Answer, ClientError> {
        let mut input = self.bytes.as_slice();
        loop {
            let header = read_header(&mut input, &self.rules)?;
            assert_eq!(cookie(&header), COOKIE);
            if receive(&mut input, &self.rules, &header, &mut exchange)? {
                assert!(input.is_empty(), "all of the script is played");
                return exchange.finish();
            }
        }
    }

    fn read(&self) -> Result<Answer, ClientError> {
        self.play(Exchange::read(OFFSET, vec![0xee; LEN]))
    }

    fn ask(&self) -> Result<Answer, ClientError> {
        self.play(Exchange::status(OFFSET, LEN as u64, 2))
    }
}

/// Asserts that a rule is named.
fn refused(answer: &Result<Answer, ClientError>, words: &str) {
    match answer {
        Err(ClientError::Protocol { rule }) => assert!(rule.contains(words), "{rule}: {words}"),
        other => panic!("{words}: {other:?}"),
    }
}

const DONE: u16 = reply_flag::DONE;

#[test]
fn bytes_come_in_any_order_and_holes_are_zeros() {
    for replies in [Replies::Structured, Replies::Extended] {
        let script = Script::new(replies)
            .data(0, OFFSET + 3000, 7, 1096)
            .hole(0, OFFSET + 1000, 2000)
            .data(0, OFFSET, 9, 1000)
            .chunk(DONE, reply_type::NONE, &[]);
        let expected = [vec![9; 1000], vec![0; 2000], vec![7; 1096]].concat();
        assert_eq!(script.read().ok(), Some(Answer::Bytes(expected)));
    }
    let script = Script::new(Replies::Simple).simple(0, &[3; 4096]);
    assert_eq!(script.read().ok(), Some(Answer::Bytes(vec![3; 4096])));
}

#[test]
fn a_failure_is_told_and_ends_nothing_else() {
    let failed = ErrorChunk {
        error: errno::EIO,
        message: "bad sector".to_owned(),
        offset: Some(OFFSET + 512),
    };
    let mut payload = Vec::new();
    failed.encode(&mut payload);
    let script = Script::new(Replies::Structured)
        .data(0, OFFSET, 1, 512)
        .chunk(DONE, failed.kind(), &payload);
    let error = script.read().expect_err("the server failed").to_string();
    assert!(
        error.contains("EIO") && error.contains("bad sector"),
        "{error}"
    );
    let script = Script::new(Replies::Simple).simple(errno::EINVAL, &[]);
    let error = script.read().expect_err("the server failed").to_string();
    assert!(error.contains("EINVAL"), "{error}");
    // A kind of error that nobody knows yet is one all the same.
    let script = Script::new(Replies::Structured).chunk(
        DONE,
        reply_type::ERROR_BIT | 99,
        &[0, 0, 0, 5, 0, 0, 1, 2, 3],
    );
    assert!(matches!(script.read(), Err(ClientError::Failed { .. })));
}

#[test]
fn reads_that_break_a_rule_are_refused() {
    let script = || Script::new(Replies::Structured);
    refused(&script().data(DONE, OFFSET, 1, 4095).read(), "lacks bytes");
    refused(
        &script().chunk(DONE, reply_type::NONE, &[]).read(),
        "lacks bytes",
    );
    let twice = script()
        .data(0, OFFSET, 1, 4096)
        .data(DONE, OFFSET, 1, 4096);
    refused(&twice.read(), "twice");
    for overlap in [OFFSET + 999, OFFSET + 500, OFFSET] {
        let script = script().data(0, OFFSET, 1, 1000).hole(0, overlap, 1000);
        refused(&script.read(), "twice");
    }
    let inside = script().hole(0, OFFSET + 100, 10).data(0, OFFSET, 1, 300);
    refused(&inside.read(), "twice");
    refused(&script().data(DONE, OFFSET + 1, 1, 4096).read(), "beyond");
    refused(&script().data(DONE, OFFSET - 1, 1, 10).read(), "beyond");
    refused(&script().hole(DONE, OFFSET, 4097).read(), "beyond");
    refused(&script().hole(DONE, u64::MAX, 2).read(), "beyond");
    refused(&script().hole(DONE, OFFSET, 0).read(), "without length");
    refused(&script().data(DONE, OFFSET, 0, 0).read(), "without data");
    refused(
        &script().chunk(0, reply_type::NONE, &[]).read(),
        "not the last",
    );
    refused(&script().simple(0, &[1; 4096]).read(), "simple reply");
    refused(
        &script().status(DONE, 5, &[(512, 0)]).read(),
        "does not belong",
    );
    refused(&script().chunk(DONE, 3, &[]).read(), "does not belong");
    let no_error = [0, 0, 0, 0, 0, 0];
    refused(
        &script().chunk(DONE, reply_type::ERROR, &no_error).read(),
        "none",
    );
    let mut extended = Script::new(Replies::Extended).data(DONE, OFFSET, 1, 4096);
    assert!(extended.read().is_ok());
    extended.rules.replies = Replies::Structured;
    refused(&extended.read(), "not agreed on");
    extended.rules.replies = Replies::Simple;
    refused(&extended.read(), "not agreed on");
    let simple = Script::new(Replies::Extended).simple(0, &[1; 4096]);
    refused(&simple.read(), "not agreed on");
    let other = Script::new(Replies::Extended).data(DONE, OFFSET, 1, 4096);
    refused(
        &other.play(Exchange::read(OFFSET + 512, vec![0; 512])),
        "another request's",
    );
}

#[test]
fn lengths_are_believed_only_where_they_can_be_true() {
    // A chunk that announces 4 GiB takes no memory and is not waited for.
    for (kind, words) in [
        (reply_type::OFFSET_HOLE, "too long"),
        (reply_type::ERROR, "too long"),
        (reply_type::NONE, "does not belong"),
    ] {
        let header = ReplyHeader::Structured {
            flags: DONE,
            kind,
            cookie: COOKIE,
            len: u32::MAX,
        };
        let mut script = Script::new(Replies::Structured);
        header.encode(&mut script.bytes);
        refused(&script.read(), words);
    }
    let mut pieces = Script::new(Replies::Structured);
    for piece in 0..100 {
        pieces = pieces.hole(0, OFFSET + piece * 2, 1);
    }
    refused(&pieces.read(), "too many pieces");
    let failed = ErrorChunk {
        error: errno::EIO,
        message: String::new(),
        offset: None,
    };
    let mut payload = Vec::new();
    failed.encode(&mut payload);
    let mut errors = Script::new(Replies::Structured);
    for _ in 0..100 {
        errors = errors.chunk(0, failed.kind(), &payload);
    }
    refused(&errors.read(), "too many errors");
}

#[test]
fn a_million_runs_are_taken() {
    const RUNS: u64 = 1 << 20;
    for replies in [Replies::Structured, Replies::Extended] {
        let runs: Vec<_> = (0..RUNS).map(|run| (1, run % 2)).collect();
        let mut script = Script::new(replies).status(DONE, 5, &runs);
        script.rules.block_min = 1;
        script.rules.size = 1 << 30;
        script.rules.contexts = vec![5];
        let answer = script.play(Exchange::status(OFFSET, RUNS, 1));
        let Ok(Answer::Status(told)) = answer else {
            panic!("refused: {answer:?}");
        };
        assert_eq!(told.first().map(Vec::len), Some(1 << 20));
    }
}

#[test]
fn each_context_has_runs_of_its_own() {
    for replies in [Replies::Structured, Replies::Extended] {
        let script = Script::new(replies)
            .status(0, 9, &[(512, 1), (3584, 0)])
            .status(DONE, 5, &[(8192, 3)]);
        let run = |len, flags| StatusRun { len, flags };
        let expected = vec![vec![run(8192, 3)], vec![run(512, 1), run(3584, 0)]];
        assert_eq!(script.ask().ok(), Some(Answer::Status(expected)));
    }
}

#[test]
fn status_that_breaks_a_rule_is_refused() {
    let script = || Script::new(Replies::Structured);
    refused(
        &script().status(DONE, 5, &[(4096, 0)]).ask(),
        "without an answer",
    );
    refused(&script().status(0, 5, &[]).ask(), "without a run");
    refused(&script().status(0, 5, &[(0, 0)]).ask(), "without length");
    refused(
        &script().status(0, 5, &[(512, 0), (0, 0)]).ask(),
        "without length",
    );
    refused(&script().status(0, 5, &[(100, 0)]).ask(), "not aligned");
    refused(
        &script().status(0, 5, &[(1 << 20, 0)]).ask(),
        "beyond the disk",
    );
    refused(
        &script().status(0, 5, &[(4096, 0), (512, 0)]).ask(),
        "not asked for",
    );
    refused(
        &script().status(0, 6, &[(4096, 0)]).ask(),
        "unknown context",
    );
    let twice = script()
        .status(0, 5, &[(4096, 0)])
        .status(0, 5, &[(4096, 0)]);
    refused(&twice.ask(), "answered twice");
    refused(&script().data(0, OFFSET, 1, 512).ask(), "does not belong");
    refused(&script().simple(0, &[]).ask(), "simple reply");
    refused(
        &script()
            .chunk(0, reply_type::BLOCK_STATUS_EXT, &[0; 24])
            .ask(),
        "does not belong",
    );
    let torn = script().chunk(0, reply_type::BLOCK_STATUS, &[0; 13]);
    assert!(matches!(
        torn.ask(),
        Err(ClientError::Wire(WireError::Short))
    ));
    let end = Script::new(Replies::Extended).status(0, 5, &[(u64::MAX, 0)]);
    refused(&end.ask(), "beyond the disk");
    // The last run may end where the disk does, wherever that is.
    let mut odd = script()
        .status(0, 5, &[(1000, 0)])
        .status(DONE, 9, &[(1000, 0)]);
    odd.rules.size = OFFSET + 1000;
    assert!(odd.ask().is_ok());
}

#[test]
fn what_ends_too_early_is_a_server_that_is_gone() {
    let whole = Script::new(Replies::Structured).data(DONE, OFFSET, 1, 4096);
    for len in 0..whole.bytes.len() {
        let mut cut = Script::new(Replies::Structured);
        cut.bytes = whole.bytes.get(..len).expect("shorter").to_vec();
        assert!(matches!(cut.read(), Err(ClientError::Gone)), "{len}");
    }
}
