//! Domains of a libvirt host, backed up and brought back: puts the operations together with what
//! libvirt does.

pub mod rewrite;
