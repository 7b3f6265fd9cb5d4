//! Checksums that file systems and volume managers use.

/// CRC-32 of Castagnoli, reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;
/// CRC-32 of Ethernet, reflected.
const ETHERNET: u32 = 0xedb8_8320;

const CASTAGNOLI_TABLE: [u32; 256] = table(CASTAGNOLI);
const ETHERNET_TABLE: [u32; 256] = table(ETHERNET);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ polynomial
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

fn run(table: &[u32; 256], state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        let [low, ..] = state.to_le_bytes();
        (state >> 8) ^ table[usize::from(low ^ byte)]
    })
}

/// Goes on with a CRC-32C from `state`, with no inversion at either end.
pub(crate) fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    run(&CASTAGNOLI_TABLE, state, bytes)
}

/// Goes on with a CRC-32 from `state`, with no inversion at either end.
pub(crate) fn crc32(state: u32, bytes: &[u8]) -> u32 {
    run(&ETHERNET_TABLE, state, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogue_come_out() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32(!0, b"123456789"), 0xcbf4_3926);
    }
}
