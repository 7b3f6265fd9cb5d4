//! Behaviour of the engine, one file each.

#[path = "../support/mod.rs"]
mod support;

mod backup_restore;
mod crash_backup;
mod crash_init;
mod damage_flips;
mod damage_hurts;
mod damage_objects;
mod disk_full;
mod encryption;
mod encryption_keys;
mod fastcdc_vectors;
mod format_vectors;
mod incremental_equals_full;
mod index_concurrent;
mod index_damage;
mod index_is_a_cache;
mod index_model;
mod index_world;
mod interrupted;
mod killed;
mod memory_bound;
mod qcow2_bitmaps;
mod qcow2_chains;
mod qcow2_flipped_bytes;
mod qcow2_in_use;
mod qcow2_kinds;
mod qcow2_malformed;
mod qemu;
mod raw_source;
mod source_spec;
mod storage_conformance;
mod storage_crash;
mod storage_sessions;
mod target_device;
mod target_qcow2;
mod target_raw;
mod target_support;
mod two_at_once;
mod verify_attribution;
mod verify_errors;
mod verify_lost_packs;
mod verify_moved_packs;
mod verify_named;
