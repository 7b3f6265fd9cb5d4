//! Snapshots as people name them: every text is refused, or leads to at most one snapshot, which
//! fits what was asked for.
#![no_main]

use cairn_engine::id::SnapshotId;
use cairn_engine::repository::newest::{Candidates, SnapshotSummary};
use cairn_engine::repository::reference::SnapshotRef;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the rule is valid");
    let Ok(reference) = SnapshotRef::parse(text, &zone) else {
        return;
    };
    assert_eq!(reference.to_string(), text);

    let snapshot = |day: u8| SnapshotSummary {
        id: SnapshotId::from_bytes([day; 32]),
        vm: if day % 2 == 0 { "web1" } else { "abcd" }.to_owned(),
        time: Timestamp::from_second(1_790_000_000 + i64::from(day) * 86_400)
            .expect("the moment is within bounds"),
        ordinal: u64::from(day % 3),
        parent: None,
        domain: None,
    };
    let among = Candidates {
        snapshots: (0..32).map(snapshot).collect(),
        ..Candidates::default()
    };
    if let Ok(found) = reference.resolve(&among) {
        let vm = &among.snapshots[usize::from(found.as_bytes()[0])].vm;
        assert!(text.starts_with(vm.as_str()) || found.to_hex().starts_with(text));
    }
});
