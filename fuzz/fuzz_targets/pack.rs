//! The ends of a pack: header, footer and trailer. Whatever decodes has one encoding, and is inside
//! the pack.
#![no_main]

use cairn_engine::format::pack::{Footer, PackHeader, Trailer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((header_bytes, rest)) = bytes.split_first_chunk::<{ PackHeader::LEN }>() else {
        return;
    };
    // A header that is sealed is one in an encrypted repository only, and the other way round.
    let [plain, sealed] = [false, true].map(|sealed| PackHeader::decode(header_bytes, sealed));
    assert!(plain.is_err() || sealed.is_err());
    let Ok(header) = plain.or(sealed) else {
        return;
    };
    assert_eq!(header.encode(), *header_bytes);

    // Hashes would stop nearly every input here: the footer is tried without its trailer too.
    if let Some(frames) = rest.first_chunk::<8>() {
        check_footer(&header, u64::from_le_bytes(*frames) % (1 << 31), &rest[8..]);
    }
    let Some((rest, trailer)) = rest.split_last_chunk::<{ Trailer::LEN }>() else {
        return;
    };
    let Ok(trailer) = Trailer::decode(trailer) else {
        return;
    };
    let Ok(range) = trailer.footer_range(bytes.len() as u64) else {
        return;
    };
    let start = usize::try_from(range.start).expect("ranges lie in the pack") - PackHeader::LEN;
    let footer = &rest[start..];
    if trailer.check(header_bytes, footer).is_ok() {
        check_footer(&header, start as u64, footer);
    }
});

fn check_footer(header: &PackHeader, frames_len: u64, bytes: &[u8]) {
    let Ok(footer) = Footer::decode(header, frames_len, bytes) else {
        return;
    };
    assert_eq!(
        footer
            .encode(header)
            .expect("what was decoded is within its limits"),
        bytes
    );
    let entries = footer
        .frames
        .iter()
        .flat_map(|frame| footer.frame_entries(frame));
    assert_eq!(entries.count(), footer.entries.len());
}
