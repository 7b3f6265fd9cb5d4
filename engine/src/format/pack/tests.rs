use super::*;
use crate::id::ContentId;
use crate::limits::{FOOTER_LEN_MAX, PACK_LEN_MAX};

fn entry(byte: u8, len: u32) -> FooterEntry {
    let id = ContentId::from_bytes([byte; 32]);
    FooterEntry { id, len }
}

fn header(sealed: bool) -> PackHeader {
    PackHeader {
        kind: PackKind::Data,
        sealed,
        salt: Salt::from_bytes([0x5a; 32]),
    }
}

/// Two frames: one compressed, of two chunks, and one plain, of one chunk.
fn footer(sealed: bool) -> Footer {
    let tag = if sealed { 16 } else { 0 };
    let frames = vec![
        FrameEntry {
            offset: 48,
            stored_len: 700 + tag,
            plain_len: 1000,
            codec: Codec::Zstd,
            chunks: 0..2,
        },
        FrameEntry {
            offset: 748 + u64::from(tag),
            stored_len: 50 + tag,
            plain_len: 50,
            codec: Codec::Plain,
            chunks: 2..3,
        },
    ];
    let entries = vec![entry(1, 600), entry(2, 400), entry(3, 50)];
    Footer {
        kind: PackKind::Data,
        frames,
        entries,
    }
}

fn frames_len(footer: &Footer) -> u64 {
    footer
        .frames
        .iter()
        .map(|frame| u64::from(frame.stored_len))
        .sum()
}

/// A whole pack, with zeros for frames and its footer not encrypted.
fn pack(sealed: bool) -> Vec<u8> {
    let header_bytes = header(sealed).encode();
    let footer = footer(sealed);
    let stored = footer.encode(&header(sealed)).expect("the footer is valid");
    let mut pack = header_bytes.to_vec();
    pack.resize(48 + frames_len(&footer) as usize, 0);
    pack.extend_from_slice(&stored);
    pack.extend_from_slice(&Trailer::new(&header_bytes, &stored).encode());
    pack
}

/// Reads a pack as a reader does that has no key.
fn read(pack: &[u8], sealed: bool) -> Result<Footer, FormatError> {
    let short = || FormatError::Truncated {
        what: "pack",
        needed: 48,
        had: pack.len() as u64,
    };
    let head: &[u8; PackHeader::LEN] = pack.first_chunk().ok_or_else(short)?;
    let header = PackHeader::decode(head, sealed)?;
    let tail = pack.last_chunk::<{ Trailer::LEN }>().ok_or_else(short)?;
    let trailer = Trailer::decode(tail)?;
    let range = trailer.footer_range(pack.len() as u64)?;
    let stored = &pack[range.start as usize..range.end as usize];
    trailer.check(head, stored)?;
    Footer::decode(&header, range.start - PackHeader::LEN as u64, stored)
}

#[test]
fn packs_round_trip() -> Result<(), FormatError> {
    for sealed in [false, true] {
        let decoded = read(&pack(sealed), sealed)?;
        assert_eq!(decoded, footer(sealed));
        let chunks = decoded.frame_entries(&decoded.frames[1]);
        assert_eq!(chunks, [entry(3, 50)]);
        assert!(read(&pack(sealed), !sealed).is_err());
    }
    Ok(())
}

#[test]
fn every_flipped_bit_outside_the_frames_is_detected() {
    let whole = pack(true);
    let frames = 48..48 + frames_len(&footer(true)) as usize;
    for byte in (0..whole.len()).filter(|byte| !frames.contains(byte)) {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1 << bit;
            assert!(read(&damaged, true).is_err(), "byte {byte}, bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_detected() {
    let whole = pack(false);
    for len in 0..whole.len() {
        assert!(read(&whole[..len], false).is_err(), "{len} bytes");
    }
}

#[test]
fn footers_cut_short_or_drawn_out_are_refused() -> Result<(), FormatError> {
    let footer = footer(false);
    let header = header(false);
    let bytes = footer.encode(&header)?;
    for len in 0..bytes.len() {
        assert!(
            Footer::decode(&header, 750, &bytes[..len]).is_err(),
            "{len} bytes"
        );
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(Footer::decode(&header, 750, &longer).is_err());
    for frames_len in [0, 749, 751, u64::MAX] {
        assert!(
            Footer::decode(&header, frames_len, &bytes).is_err(),
            "{frames_len}"
        );
    }
    Ok(())
}

/// Every single bit of a footer counts, even where no hash stands guard: another value decodes
/// to another footer or not at all.
#[test]
fn no_bit_of_a_footer_is_ignored() -> Result<(), FormatError> {
    let header = header(false);
    let bytes = footer(false).encode(&header)?;
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = Footer::decode(&header, 750, &other) {
            assert_ne!(decoded, footer(false), "bit {bit}");
            assert_eq!(decoded.encode(&header)?, other, "bit {bit}");
        }
    }
    Ok(())
}

#[test]
fn counts_are_bounded_before_anything_is_allocated() {
    let header = header(false);
    let counts = [
        (u32::MAX, u32::MAX),
        (1, u32::MAX),
        (1, 262_145),
        (65_536, 1),
    ];
    for (frames, chunks) in counts {
        let bytes = [frames.to_le_bytes(), chunks.to_le_bytes()].concat();
        let refused = Footer::decode(&header, 1, &bytes);
        assert!(
            matches!(refused, Err(FormatError::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    // Within the limits, and not there.
    let bytes = [65_535_u32.to_le_bytes(), 262_144_u32.to_le_bytes()].concat();
    let refused = Footer::decode(&header, 1, &bytes);
    assert!(
        matches!(refused, Err(FormatError::Truncated { .. })),
        "{refused:?}"
    );
}

#[test]
fn footers_that_do_not_tile_are_not_written() {
    let refused = |change: fn(&mut Footer)| {
        let mut footer = footer(false);
        change(&mut footer);
        footer.encode(&header(false)).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|footer| footer.frames[1].offset += 1));
    assert!(refused(|footer| footer.frames[0].plain_len += 1));
    assert!(refused(|footer| footer.frames[0].stored_len = 1000));
    assert!(refused(|footer| footer.frames[1].codec = Codec::Zstd));
    assert!(refused(|footer| footer.frames[1].chunks = 1..3));
    assert!(refused(|footer| footer.frames[1].chunks.end = 1));
    assert!(refused(|footer| footer.entries[0].len = 0));
    assert!(refused(|footer| footer.entries.push(entry(4, 1))));
    assert!(refused(|footer| footer.kind = PackKind::Nodes));
    assert!(refused(|footer| footer.frames.clear()));
    assert!(refused(
        |footer| footer.frames = vec![footer.frames[1].clone(); 65_536]
    ));
}

#[test]
fn nodes_have_a_limit_of_their_own() {
    let header = PackHeader {
        kind: PackKind::Nodes,
        ..header(false)
    };
    let footer = |len| Footer {
        kind: PackKind::Nodes,
        frames: vec![FrameEntry {
            offset: 48,
            stored_len: len,
            plain_len: len,
            codec: Codec::Plain,
            chunks: 0..1,
        }],
        entries: vec![entry(1, len)],
    };
    assert!(footer(512 * 1024).encode(&header).is_ok());
    assert!(footer(512 * 1024 + 1).encode(&header).is_err());
}

#[test]
fn features_of_other_versions_are_refused_as_such() {
    let bytes = header(false).encode();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes;
        bytes[at] = value;
        PackHeader::decode(&bytes, false)
    };
    assert!(matches!(
        with(8, 2),
        Err(FormatError::UnsupportedVersion { found: 2, .. })
    ));
    assert!(matches!(
        with(10, 3),
        Err(FormatError::UnsupportedFeature { .. })
    ));
    assert!(matches!(
        with(11, 2),
        Err(FormatError::UnsupportedFeature { .. })
    ));
    assert!(matches!(with(15, 1), Err(FormatError::Malformed { .. })));
    assert!(matches!(with(0, 0), Err(FormatError::BadMagic { .. })));
    let feature = "zstd against base chunks".to_owned();
    assert_eq!(
        Codec::from_code(2),
        Err(FormatError::UnsupportedFeature { feature })
    );
}

#[test]
fn trailers_place_footers_inside_their_packs() -> Result<(), FormatError> {
    let trailer = Trailer {
        footer_len: 100,
        hash: [0; 32],
    };
    assert_eq!(trailer.footer_range(196)?, 48..148);
    for pack_len in [0, 48, 147, 195, PACK_LEN_MAX + 1, u64::MAX] {
        assert!(trailer.footer_range(pack_len).is_err(), "{pack_len}");
    }
    for footer_len in [0, FOOTER_LEN_MAX + 1, u32::MAX] {
        let bytes = Trailer {
            footer_len,
            ..trailer
        }
        .encode();
        assert!(Trailer::decode(&bytes).is_err(), "{footer_len}");
    }
    Ok(())
}
