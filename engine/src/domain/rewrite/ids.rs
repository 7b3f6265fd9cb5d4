//! Fresh ids.

use super::RewriteError;

/// Returns a random UUID.
pub fn new_uuid() -> Result<String, RewriteError> {
    let mut bytes = random::<16>()?;
    // Version 4, variant 1.
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex::encode(bytes);
    let (a, rest) = digits.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    Ok(format!("{a}-{b}-{c}-{d}-{e}"))
}

/// Returns a random MAC address of those that QEMU's guests have.
pub fn new_mac() -> Result<String, RewriteError> {
    let [a, b, c] = random::<3>()?;
    Ok(format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"))
}

fn random<const LEN: usize>() -> Result<[u8; LEN], RewriteError> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(|_| RewriteError::Random)?;
    Ok(bytes)
}
