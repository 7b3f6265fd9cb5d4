//! Behaviour of the command line, one file for each subcommand and for what they share.

mod guest_disks;
#[path = "../support/mounts.rs"]
mod mounts;
#[path = "../support/waiting.rs"]
mod waiting;
mod world;

mod absent;
mod analyze;
mod asked;
mod backup;
mod bare_root;
mod completions;
mod diff;
mod encryption;
mod exit_codes;
mod export;
mod export_clients;
mod files;
mod forget;
mod formats;
mod frozen;
mod full;
mod gc;
mod help;
mod homes;
mod incremental;
mod init;
mod interruption;
mod key;
mod lineage;
mod malformed;
mod many_processes;
mod modes;
mod mount;
mod names;
mod nbd_backup;
mod newest;
mod parity;
mod passwords;
mod prune;
mod readers;
mod repair;
mod repair_killed;
mod resting;
mod restore;
mod salvage;
mod snapshots;
mod stats;
mod umount;
mod verify;
