//! Behaviour of the exports, one file each.

mod disks;
mod peer;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the tests of other packages use the rest")]
mod support;
mod world;

mod clients;
mod ending;
mod handshake;
mod hostile;
mod overlay;
mod overlay_full;
mod overlay_killed;
mod overlay_refused;
mod overlay_world;
mod reads;
mod snapshots;
mod status;
mod tls;
mod writes;

/// Returns the seed of a random test: told, or drawn and printed.
fn seed() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a failed test is repeated by its seed"
    )]
    let given = std::env::var("CAIRN_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CAIRN_SEED={seed}");
    seed
}
