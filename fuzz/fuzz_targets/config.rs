//! The repository's settings: what decodes keeps its meaning when it is written anew.
#![no_main]

use cairn_engine::format::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = Config::decode(bytes) else {
        return;
    };
    let mac = |zeroed: &[u8]| {
        let first = zeroed.first().copied().unwrap_or_default();
        [first ^ 0xa5; 32]
    };
    let written = config
        .encode(mac)
        .expect("what was decoded is within its limits");
    Config::verify(&written, mac).expect("the MAC was made the same way");
    assert_eq!(
        Config::decode(&written).expect("what was written decodes"),
        config
    );
});
