//! Codecs against bytes written by hand from the specification, and against damage.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "tests may panic"
)]

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(digits).expect("hex digits")
}

#[test]
fn a_compact_request_is_as_specified() {
    let request = Request {
        flags: cmd_flag::DF,
        command: cmd::READ,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1_0000_0000,
        len: 0x1000,
    };
    let expected = hex("25609513 0004 0000 0102030405060708 0000000100000000 00001000");
    let mut bytes = Vec::new();
    request.encode(false, &mut bytes);
    assert_eq!(bytes, expected);
    assert_eq!(bytes.len(), Request::header_len(false));
    assert_eq!(Request::decode(&bytes, false), Ok(request));
    assert!(Request::decode(&bytes, true).is_err());
    assert_eq!(Request::decode(&bytes[..27], false), Err(WireError::Short));
}

#[test]
fn an_extended_request_is_as_specified() {
    let request = Request {
        flags: 0,
        command: cmd::BLOCK_STATUS,
        cookie: 9,
        offset: 0,
        len: 1 << 40,
    };
    let expected = hex("21e41c71 0000 0007 0000000000000009 0000000000000000 0000010000000000");
    let mut bytes = Vec::new();
    request.encode(true, &mut bytes);
    assert_eq!(bytes, expected);
    assert_eq!(bytes.len(), Request::header_len(true));
    assert_eq!(Request::decode(&bytes, true), Ok(request));
}

#[test]
fn reply_headers_are_as_specified() {
    let cases = [
        (
            ReplyHeader::Simple {
                error: 5,
                cookie: 1,
            },
            "67446698 00000005 0000000000000001",
        ),
        (
            ReplyHeader::Structured {
                flags: reply_flag::DONE,
                kind: reply_type::OFFSET_HOLE,
                cookie: 2,
                len: 12,
            },
            "668e33ef 0001 0002 0000000000000002 0000000c",
        ),
        (
            ReplyHeader::Extended {
                flags: 0,
                kind: reply_type::ERROR_OFFSET,
                cookie: 3,
                offset: 4,
                len: 14,
            },
            "6e8a278c 0000 8002 0000000000000003 0000000000000004 000000000000000e",
        ),
    ];
    for (header, text) in cases {
        let expected = hex(text);
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(bytes, expected);
        let magic = bytes[..4].try_into().expect("four bytes");
        assert_eq!(ReplyHeader::len_by_magic(magic), Ok(bytes.len()));
        assert_eq!(ReplyHeader::decode(&bytes), Ok(header));
        bytes[0] ^= 1;
        assert!(ReplyHeader::decode(&bytes).is_err());
    }
}

#[test]
fn block_status_is_as_specified() {
    let run = |len, flags| StatusRun { len, flags };
    let status = BlockStatus {
        context: 7,
        runs: vec![run(0x1_0000, 0), run(0x2_0000, 3)],
    };
    let narrow = hex("00000007 00010000 00000000 00020000 00000003");
    let wide = hex(
        "00000007 00000002 0000000000010000 0000000000000000 0000000000020000 0000000000000003",
    );
    for (extended, expected) in [(false, narrow), (true, wide)] {
        let mut bytes = Vec::new();
        status.encode(extended, &mut bytes);
        assert_eq!(bytes, expected);
        assert_eq!(BlockStatus::decode(&bytes, extended).as_ref(), Ok(&status));
        assert!(BlockStatus::decode(&bytes[..bytes.len() - 1], extended).is_err());
    }
    let lying = hex("00000007 ffffffff 0000000000010000 0000000000000000");
    assert!(BlockStatus::decode(&lying, true).is_err());
}

#[test]
fn error_chunks_carry_a_message_and_perhaps_an_offset() {
    for offset in [None, Some(77)] {
        let chunk = ErrorChunk {
            error: errno::EIO,
            message: "the disk is on fire".to_owned(),
            offset,
        };
        let mut bytes = Vec::new();
        chunk.encode(&mut bytes);
        assert_eq!(ErrorChunk::decode(chunk.kind(), &bytes), Ok(chunk.clone()));
        assert!(ErrorChunk::decode(chunk.kind(), &bytes[..bytes.len() - 1]).is_err());
        bytes.push(0);
        assert!(ErrorChunk::decode(chunk.kind(), &bytes).is_err());
        assert!(ErrorChunk::decode(reply_type::ERROR_BIT | 99, &bytes).is_ok());
    }
    let long = ErrorChunk {
        error: 1,
        message: "ä".repeat(STRING_LEN_MAX),
        offset: None,
    };
    let mut bytes = Vec::new();
    long.encode(&mut bytes);
    assert_eq!(bytes.len(), 6 + STRING_LEN_MAX);
    assert!(ErrorChunk::decode(reply_type::ERROR, &bytes).is_ok());
}

#[test]
fn options_are_as_specified() {
    let header = OptionHeader {
        option: opt::GO,
        len: 9,
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    assert_eq!(bytes, hex("49484156454f5054 00000007 00000009"));
    let array = bytes.as_slice().try_into().expect("16 bytes");
    assert_eq!(OptionHeader::decode(array), Ok(header));

    let reply = OptionReplyHeader {
        option: opt::GO,
        kind: rep::ERR_UNKNOWN,
        len: 0,
    };
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    assert_eq!(bytes, hex("0003e889045565a9 00000007 80000006 00000000"));
    let array = bytes.as_slice().try_into().expect("20 bytes");
    assert_eq!(OptionReplyHeader::decode(array), Ok(reply));

    let go = GoQuery {
        name: "vda".to_owned(),
        infos: vec![info::BLOCK_SIZE],
    };
    let mut bytes = Vec::new();
    go.encode(&mut bytes);
    assert_eq!(bytes, hex("00000003 766461 0001 0003"));
    assert_eq!(GoQuery::decode(&bytes), Ok(go));
    assert_eq!(GoQuery::decode(&bytes[..8]), Err(WireError::Short));
    bytes.push(0);
    assert_eq!(GoQuery::decode(&bytes), Err(WireError::Long));

    let query = MetaQuery {
        name: "a".to_owned(),
        queries: vec!["base:allocation".to_owned(), "qemu:".to_owned()],
    };
    let mut bytes = Vec::new();
    query.encode(&mut bytes);
    assert_eq!(MetaQuery::decode(&bytes), Ok(query));
    let endless = hex("00000001 61 ffffffff 00000000");
    assert_eq!(MetaQuery::decode(&endless), Err(WireError::Short));
}

#[test]
fn information_survives_the_wire_and_block_sizes_are_checked() {
    let sizes = BlockSizes {
        minimum: 1,
        preferred: 65536,
        maximum: 32 << 20,
    };
    let all = [
        Info::Export {
            size: 1 << 40,
            flags: flag::HAS_FLAGS | flag::CAN_MULTI_CONN,
        },
        Info::Name("x".to_owned()),
        Info::Description("a disk".to_owned()),
        Info::BlockSize(sizes),
    ];
    for info in all {
        let mut bytes = Vec::new();
        info.encode(&mut bytes);
        assert_eq!(Info::decode(&bytes), Ok(info));
    }
    assert_eq!(Info::decode(&hex("0009 01")), Ok(Info::Unknown(9)));
    let wrong = [
        (0, 512, 512),
        (3, 512, 512),
        (1 << 17, 1 << 17, 1 << 17),
        (1, 256, 512),
        (4096, 512, 4096),
        (512, 512, 513),
        (4096, 4096, 512),
    ];
    for (minimum, preferred, maximum) in wrong {
        let sizes = BlockSizes {
            minimum,
            preferred,
            maximum,
        };
        assert!(sizes.checked().is_err(), "{sizes:?}");
    }
    let unbounded = BlockSizes {
        maximum: u32::MAX,
        ..sizes
    };
    assert!(unbounded.checked().is_ok());
    assert!(
        BlockSizes {
            minimum: 512,
            ..unbounded
        }
        .checked()
        .is_ok()
    );
}

#[test]
fn strings_are_bounded_and_utf8() {
    let mut long = hex("00001001");
    long.resize(4 + 4097 + 2, b'a');
    assert_eq!(GoQuery::decode(&long), Err(WireError::String));
    assert_eq!(
        GoQuery::decode(&hex("00000001 ff 0000")),
        Err(WireError::String)
    );
    assert_eq!(
        MetaQuery::decode_context(&hex("00000001 ff")),
        Err(WireError::String)
    );
}
