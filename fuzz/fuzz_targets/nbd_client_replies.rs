//! What a server answers to a read and to a question for block status. The first bytes say how
//! replies look, and what was asked.
#![no_main]

use cairn_engine::nbd::client::handshake::Replies;
use cairn_engine::nbd::client::reply::{Answer, Exchange, Rules, cookie, read_header, receive};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some(([choice, place, len], mut words)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let rules = Rules {
        replies: [Replies::Simple, Replies::Structured, Replies::Extended][usize::from(choice % 3)],
        contexts: vec![1, 2],
        size: SIZE - u64::from(choice >> 4),
        block_min: if choice & 8 == 0 { 1 } else { 512 },
    };
    let offset = u64::from(*place) * 512;
    let len = (u32::from(*len) + 1) * 16;
    let mut exchange = match choice & 4 {
        0 => Exchange::read(offset, vec![0xee; len as usize]),
        _ => Exchange::status(offset, len.into(), 2),
    };
    loop {
        let Ok(header) = read_header(&mut words, &rules) else {
            return;
        };
        let _cookie = cookie(&header);
        match receive(&mut words, &rules, &header, &mut exchange) {
            Ok(true) => break,
            Ok(false) => {}
            Err(_) => return,
        }
    }
    match exchange.finish() {
        Ok(Answer::Bytes(bytes)) => assert_eq!(bytes.len(), len as usize),
        Ok(Answer::Status(contexts)) => {
            assert_eq!(contexts.len(), 2);
            for runs in contexts {
                let told: u64 = runs.iter().map(|run| run.len).sum();
                assert!(!runs.is_empty() && runs.iter().all(|run| run.len > 0));
                assert!(offset + told <= rules.size);
                let last = runs.last().map_or(0, |run| run.len);
                assert!(told - last < u64::from(len), "the last run begins within");
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
