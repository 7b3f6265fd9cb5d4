//! NBD URIs: refused in one printable line, or parts that make sense.
#![no_main]

use cairn_engine::nbd::uri::{Address, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let is_meant = Uri::is_meant(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Uri::parse(text) {
        Ok(uri) => {
            assert!(is_meant, "what parses is recognised");
            assert_eq!(uri.to_string(), text);
            assert!(uri.export().len() <= 4096 && !uri.export().contains('\0'));
            match uri.address() {
                Address::Unix(path) => assert!(!path.as_os_str().is_empty()),
                Address::Tcp { host, port } => assert!(!host.is_empty() && *port > 0),
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
