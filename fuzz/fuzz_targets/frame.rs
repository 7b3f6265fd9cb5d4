//! Frames as they are stored: one codec byte, the plain length that a footer would say, the bytes.
//! Never more plain bytes than said, and nothing left behind by what is refused.
#![no_main]

use cairn_engine::compress::Decompressor;
use cairn_engine::format::pack::Codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((codec, rest)) = bytes.split_first() else {
        return;
    };
    let Some((len, stored)) = rest.split_first_chunk::<4>() else {
        return;
    };
    let codec = match codec {
        0 => Codec::Plain,
        _ => Codec::Zstd,
    };
    let plain_len = u32::from_le_bytes(*len);
    let mut out = b"before".to_vec();
    let done = Decompressor::new().decompress(codec, stored, plain_len, &mut out);
    let grown = out.len() - b"before".len();
    assert_eq!(&out[..6], b"before");
    assert_eq!(grown, if done.is_ok() { plain_len as usize } else { 0 });
});
