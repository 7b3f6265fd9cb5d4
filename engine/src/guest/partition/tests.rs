use super::*;

struct Bytes(Vec<u8>);

impl Volume for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("test disks are small");
        let found = self.0.get(start..start + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

const MIB: usize = 1 << 20;

fn entry(bytes: &mut [u8], sector: usize, index: usize, kind: u8, start: u32, sectors: u32) {
    let at = sector * 512 + MBR_ENTRIES + index * MBR_ENTRY_LEN;
    bytes[at + 4] = kind;
    bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    bytes[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
}

fn found(bytes: Vec<u8>) -> Option<Table> {
    read(&Bytes(bytes)).expect("the disk can be read")
}

fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    let places = table.partitions.iter();
    places
        .map(|part| (part.number, part.offset / 512, part.size / 512))
        .collect()
}

#[test]
fn logical_partitions_count_from_five() {
    let mut bytes = vec![0; 4 * MIB];
    entry(&mut bytes, 0, 0, 0x83, 100, 200);
    entry(&mut bytes, 0, 2, 0x05, 1000, 3000);
    entry(&mut bytes, 1000, 0, 0x83, 10, 90);
    entry(&mut bytes, 1000, 1, 0x05, 500, 400);
    entry(&mut bytes, 1500, 0, 0x83, 20, 30);
    // The third says that the second comes after it.
    entry(&mut bytes, 1500, 1, 0x05, 0, 500);
    bytes[100 * 512] = 1;
    let table = found(bytes).expect("there is a table");
    assert_eq!(table.kind, TableKind::Mbr);
    assert_eq!(
        places(&table),
        [(1, 100, 200), (5, 1010, 90), (6, 1520, 30)]
    );
}

#[test]
fn long_sectors_are_found_out() {
    let mut bytes = vec![0; 4 * MIB];
    entry(&mut bytes, 0, 0, 0x83, 256, 512);
    bytes[256 * 4096 + 0x438] = 0x53;
    let table = found(bytes).expect("there is a table");
    assert_eq!(places(&table), [(1, 2048, 4096)]);
}

#[test]
fn partitions_end_with_the_disk() {
    let mut bytes = vec![0; MIB];
    entry(&mut bytes, 0, 0, 0x83, 1000, u32::MAX);
    entry(&mut bytes, 0, 1, 0x83, 5000, 10);
    entry(&mut bytes, 0, 3, 0x83, u32::MAX, u32::MAX);
    bytes[1000 * 512] = 1;
    let table = found(bytes).expect("there is a table");
    assert_eq!(places(&table), [(1, 1000, 1048)]);
}

#[test]
fn boot_sectors_and_noise_are_no_tables() {
    assert_eq!(found(vec![0; MIB]), None);
    assert_eq!(found(vec![0; 100]), None);
    let mut fat = vec![0; MIB];
    entry(&mut fat, 0, 0, 0x83, 1, 1);
    fat[54..62].copy_from_slice(b"FAT16   ");
    assert_eq!(found(fat), None);
    let mut noise = vec![0x7f; MIB];
    noise[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(found(noise), None);
}

/// A disk with a GPT that has one partition, and its copy.
fn gpt(sector_len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 4 * MIB];
    let last = bytes.len() / sector_len - 1;
    entry(&mut bytes, 0, 0, MBR_KIND_GPT, 1, u32::MAX);
    let mut list = vec![0; 128 * 4];
    list[128..144].copy_from_slice(b"Hah!IdontNeedEFI");
    list[128 + 32..128 + 40].copy_from_slice(&40_u64.to_le_bytes());
    list[128 + 40..128 + 48].copy_from_slice(&49_u64.to_le_bytes());
    list[128 + 56..128 + 60].copy_from_slice(&[b'o', 0, b's', 0]);
    for (at, list_at) in [(1, 2), (last, last - 1)] {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12] = 92;
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[72..80].copy_from_slice(&(list_at as u64).to_le_bytes());
        header[80] = 4;
        header[84] = 128;
        header[88..92].copy_from_slice(&(!crc32(u32::MAX, &list)).to_le_bytes());
        let checksum = !crc32(u32::MAX, &header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        bytes[at * sector_len..][..92].copy_from_slice(&header);
        bytes[list_at * sector_len..][..512].copy_from_slice(&list);
    }
    bytes
}

#[test]
fn either_copy_of_a_gpt_will_do() {
    for sector_len in [512, 4096] {
        let sectors = sector_len as u64 / 512;
        let expected = [(2, 40 * sectors, 10 * sectors)];
        let whole = gpt(sector_len);
        let table = found(whole.clone()).expect("there is a table");
        assert_eq!(
            (table.kind, &places(&table)[..]),
            (TableKind::Gpt, &expected[..])
        );
        assert_eq!(table.partitions[0].name.as_deref(), Some("os"));
        assert_eq!(table.partitions[0].purpose, Some("BIOS boot code"));
        for damaged in [sector_len + 20, 2 * sector_len + 130] {
            let mut bytes = whole.clone();
            bytes[damaged] ^= 1;
            let table = found(bytes).expect("the copy is whole");
            assert_eq!(places(&table), expected);
        }
    }
}

#[test]
fn a_gpt_without_its_guard_is_a_leftover() {
    let mut bytes = gpt(512);
    entry(&mut bytes, 0, 0, 0x83, 100, 10);
    bytes[100 * 512] = 1;
    let table = found(bytes).expect("there is a table");
    assert_eq!(table.kind, TableKind::Mbr);
}

#[test]
fn no_flipped_byte_leads_beyond_the_disk() {
    for (whole, len) in [(gpt(512), 4 * 512), (gpt(4096), 3 * 4096)] {
        for at in 0..len {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let size = bytes.len() as u64;
            for part in found(bytes).into_iter().flat_map(|table| table.partitions) {
                assert!(part.offset + part.size <= size, "{at}: {part:?}");
            }
        }
    }
}
