use super::*;
use crate::limits::{GIB, KIB, MIB};

const PACK: PackId = PackId::from_bytes([7; 32]);

fn directory(pack_len: u64, percent: u8) -> ParityDirectory {
    let layout = ParityLayout::new(pack_len, percent).expect("within limits");
    ParityDirectory {
        head: ParityHead { pack: PACK, layout },
        checks: (0..layout.blocks().into()).collect(),
    }
}

#[test]
fn every_block_is_one_member_of_one_group() -> Result<(), FormatError> {
    for len in [1, 4095, 4096, 4097, 4 * MIB, 4 * MIB + 1, 9 * MIB + 5000] {
        let layout = ParityLayout::new(len, 5)?;
        let groups = 0..layout.groups();
        let all = groups.flat_map(|group| {
            (0..layout.members()).filter_map(move |member| layout.member(group, member))
        });
        let mut all: Vec<u32> = all.collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..layout.blocks()), "{len}");
        let lens = (0..layout.blocks()).map(|block| layout.block_len(block) as u64);
        assert_eq!(lens.sum::<u64>(), len);
        assert!(layout.members() <= PARITY_GROUP_LEN_MAX);
    }
    Ok(())
}

#[test]
fn the_spare_blocks_are_the_part_that_was_asked_for_or_more() -> Result<(), FormatError> {
    for (len, percent, groups, spares) in [
        (1, 1, 1, 1),
        (4096, 100, 1, 1),
        (64 * MIB, 5, 16, 52),
        (64 * MIB, 100, 16, 1024),
        (40 * KIB, 11, 1, 2),
        (GIB, 1, 256, 11),
    ] {
        let layout = ParityLayout::new(len, percent)?;
        assert_eq!(
            (layout.groups(), layout.spares()),
            (groups, spares),
            "{len}"
        );
        let records = u64::from(groups) * u64::from(spares) * 4104;
        let directory = 96 + 8 * len.div_ceil(4096);
        assert_eq!(layout.file_len(), records + 2 * directory);
    }
    for (len, percent) in [(0, 5), (GIB + 1, 5), (1, 0), (1, 101)] {
        assert!(ParityLayout::new(len, percent).is_err(), "{len}, {percent}");
    }
    Ok(())
}

#[test]
fn directories_round_trip_and_no_flipped_bit_passes() -> Result<(), FormatError> {
    let directory = directory(70_000, 10);
    let whole = directory.encode();
    assert_eq!(whole.len(), directory.head.layout.directory_len());
    assert_eq!(ParityDirectory::decode(&whole, PACK)?, directory);
    let mirrored = directory.encode_mirrored();
    assert_eq!(
        ParityDirectory::decode_mirrored(&mirrored, PACK)?,
        directory
    );
    assert!(ParityDirectory::decode(&whole, PackId::from_bytes([8; 32])).is_err());
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(ParityDirectory::decode(&damaged, PACK).is_err(), "{bit}");
    }
    for len in 0..whole.len() {
        assert!(ParityDirectory::decode(&whole[..len], PACK).is_err());
        assert!(ParityDirectory::decode_mirrored(&mirrored[..len], PACK).is_err());
    }
    Ok(())
}

#[test]
fn heads_that_do_not_fit_their_pack_are_refused() {
    let good = directory(5 * MIB, 10).head.encode();
    assert!(ParityHead::decode(&good).is_ok());
    let with = |at: usize, bytes: &[u8]| {
        let mut head = good.clone();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        ParityHead::decode(&head)
    };
    assert!(with(0, b"CAIRNPAK").is_err());
    let newer = with(8, &[2, 0]);
    assert!(matches!(newer, Err(FormatError::UnsupportedVersion { .. })));
    assert!(with(10, &[1]).is_err());
    assert!(with(12, &8192_u32.to_le_bytes()).is_err());
    for len in [0, GIB + 1, u64::MAX] {
        assert!(with(16, &len.to_le_bytes()).is_err(), "{len}");
    }
    for groups in [0_u32, 1, 3, u32::MAX] {
        assert!(with(56, &groups.to_le_bytes()).is_err(), "{groups}");
    }
    for spares in [0_u32, 641, u32::MAX] {
        assert!(with(60, &spares.to_le_bytes()).is_err(), "{spares}");
    }
}

#[test]
fn a_record_is_whole_in_its_own_place_only() {
    let block = vec![3; PARITY_BLOCK_LEN];
    let record = encode_record(PACK, 9, &block);
    assert_eq!(decode_record(PACK, 9, &record), Some(block.as_slice()));
    assert_eq!(decode_record(PACK, 10, &record), None);
    assert_eq!(decode_record(PackId::from_bytes([8; 32]), 9, &record), None);
    for at in [0, 7, 8, 4103] {
        let mut damaged = record.clone();
        damaged[at] ^= 1;
        assert_eq!(decode_record(PACK, 9, &damaged), None, "{at}");
    }
    assert_eq!(decode_record(PACK, 9, &record[..4103]), None);
    assert_eq!(decode_record(PACK, 9, &[1; 3]), None);
}
