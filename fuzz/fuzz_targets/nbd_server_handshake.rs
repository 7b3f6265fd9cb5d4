//! What clients say during the handshake: an agreement on what there is, or none, within bounds.
#![no_main]

use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use cairn_engine::extent::{Extent, ExtentStatus};
use cairn_engine::id::SnapshotId;
use cairn_engine::nbd::wire::OptionReplyHeader;
use cairn_nbd_export::context::CHOSEN_MAX;
use cairn_nbd_export::disk::{Changes, Disk, DiskError};
use cairn_nbd_export::exports::{Export, Exports};
use cairn_nbd_export::handshake::{Step, Tls, greet, haggle};
use libfuzzer_sys::fuzz_target;

struct Nothing;

impl Disk for Nothing {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), DiskError> {
        unreachable!("a handshake reads nothing")
    }

    fn try_read_at(&self, _: u64, _: &mut [u8]) -> bool {
        unreachable!("a handshake reads nothing")
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, DiskError> {
        Ok(vec![Extent {
            offset: range.start,
            len: range.end - range.start,
            status: ExtentStatus::Zero,
        }])
    }

    fn prefetch(&self, _: Range<u64>) {}
}

impl Changes for Nothing {
    fn bases(&self) -> Vec<SnapshotId> {
        vec![SnapshotId::from_bytes([0x11; 32])]
    }

    fn has(&self, base: SnapshotId) -> Result<bool, DiskError> {
        Ok(base.as_bytes()[0] == 0x11)
    }

    fn changed(&self, _: SnapshotId, _: Range<u64>) -> Result<Vec<Range<u64>>, DiskError> {
        Ok(Vec::new())
    }
}

/// A client that said all it has to say, and what it was told.
struct Client<'a> {
    said: &'a [u8],
    told: Vec<u8>,
}

impl Read for Client<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.said.read(buf)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.told.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exports() -> &'static Exports {
    static EXPORTS: OnceLock<Exports> = OnceLock::new();
    EXPORTS.get_or_init(|| {
        Exports::new(vec![Export {
            name: "vda".to_owned(),
            aliases: vec![String::new()],
            description: "a disk".to_owned(),
            disk: Arc::new(Nothing),
            changes: Some(Arc::new(Nothing)),
        }])
        .expect("the names differ")
    })
}

fuzz_target!(|said: &[u8]| {
    for tls in [Tls::Off, Tls::Required] {
        let told = Vec::new();
        let mut client = Client { said, told };
        let Ok(greeting) = greet(&mut client) else {
            continue;
        };
        let step = haggle(&mut client, exports(), greeting, tls);
        if let Ok(Step::Transmit(agreement)) = &step {
            assert!(tls == Tls::Off, "an export was given away before TLS");
            assert!(agreement.contexts.len() <= CHOSEN_MAX);
        }
        // Without the old way to choose an export, all that was told is replies to options.
        let mut rest = client.told.get(18..).expect("the server greets first");
        while let Some((header, data)) = rest.split_first_chunk::<{ OptionReplyHeader::LEN }>() {
            let Ok(header) = OptionReplyHeader::decode(header) else {
                assert!(matches!(step, Ok(Step::Transmit(_))));
                break;
            };
            rest = data.get(header.len as usize..).expect("a whole reply");
        }
    }
});
