//! What a server says in the handshake. The first byte says what is asked of it.
#![no_main]

use std::io::{self, Read, Write};

use cairn_engine::nbd::client::handshake::{Wanted, greet, negotiate, start_tls};
use libfuzzer_sys::fuzz_target;

/// A server whose words are known beforehand, and who hears nothing.
struct Server<'s>(&'s [u8]);

impl Read for Server<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Server<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, words)) = bytes.split_first() else {
        return;
    };
    let contexts = ["base:allocation", "qemu:dirty-bitmap:b0"].map(str::to_owned);
    let wanted = Wanted {
        export: if choice & 1 == 0 { "" } else { "vda" },
        contexts: &contexts[..usize::from(choice >> 1) % 3],
        is_least: choice & 8 != 0,
    };
    let mut server = Server(words);
    let agreed = greet(&mut server).and_then(|greeting| {
        if choice & 16 != 0 {
            start_tls(&mut server, &greeting)?;
        }
        negotiate(&mut server, greeting, &wanted)
    });
    match agreed {
        Ok(agreed) => {
            assert_eq!(agreed.contexts.len(), wanted.contexts.len());
            assert!(agreed.contexts.iter().skip(1).all(Option::is_some));
            if let Some(sizes) = agreed.block_sizes {
                assert_eq!(sizes.checked(), Ok(sizes));
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
