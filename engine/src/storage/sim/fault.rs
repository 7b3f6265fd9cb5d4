//! Failures to come, and promises that the disk breaks.

/// Which calls a [`Fault`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOn {
    /// Calls that change the disk, as `SimFs::op_count` counts them.
    Changes,
    /// Calls that only look, as `SimFs::read_count` counts them.
    Reads,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The device fails. An fsync that fails so loses what it should have made durable, and a
    /// later one says nothing of it.
    Io,
    /// The disk is full. An fsync may find that out too, with the same consequence.
    NoSpace,
    /// Half of what was to be appended is appended before the disk is full; half of what was to
    /// be read is there. Other calls fail as with `NoSpace` or `Io`.
    Short,
    /// The calling process dies just before the call.
    Death,
}

/// A failure to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which calls count.
    pub on: FaultOn,
    /// The number of the call, from 0.
    pub at: usize,
    /// Whether all later calls fail too.
    pub lasting: bool,
    /// How.
    pub kind: FaultKind,
}

/// A way in which the disk breaks its promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Fsyncs of files do nothing.
    FileSyncs,
    /// Fsyncs of folders do nothing.
    FolderSyncs,
    /// An fsync of a file happens only after the next rename: as if the code above had its order
    /// wrong.
    LateFileSyncs,
}
