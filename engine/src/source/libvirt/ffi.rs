//! The calls of libvirt that the `virt` crate lacks, each with a safe face.
//!
//! What every block relies on: a [`Domain`] holds a reference to its `virDomain`, so its pointer is
//! valid while the borrow lasts; strings that go in are owned by a [`CString`] that outlives the
//! call; strings that come out are ours to free, but for names that live as long as their object;
//! and libvirt's calls may come from any thread.

#![expect(unsafe_code, reason = "these calls exist as C functions only")]

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::ptr;

use virt::domain::Domain;
use virt::sys;

use super::LibvirtError;

type Result<T> = std::result::Result<T, LibvirtError>;

fn text(call: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| LibvirtError::invalid(call, "a text holds a zero byte"))
}

fn raw(domain: &Domain) -> sys::virDomainPtr {
    // SAFETY: the pointer is used within the borrow's lifetime only.
    unsafe { domain.as_ptr() }
}

fn check(call: &'static str, answer: c_int) -> Result<u32> {
    u32::try_from(answer).map_err(|_| LibvirtError::last(call))
}

/// Takes over a string that libvirt allocated.
fn take(call: &'static str, string: *mut c_char) -> Result<String> {
    if string.is_null() {
        return Err(LibvirtError::last(call));
    }
    // SAFETY: libvirt returned a string that ends with a zero byte, and nobody else frees it.
    let taken = unsafe { CStr::from_ptr(string) };
    let taken = taken.to_string_lossy().into_owned();
    // SAFETY: libvirt allocates with malloc, and `string` is not used again.
    unsafe { libc::free(string.cast::<c_void>()) };
    Ok(taken)
}

/// Begins a backup job, and creates a checkpoint at the same moment.
pub(super) fn backup_begin(domain: &Domain, job: &str, checkpoint: Option<&str>) -> Result<()> {
    const CALL: &str = "begin a backup job";
    let job = text(CALL, job)?;
    let checkpoint = checkpoint.map(|xml| text(CALL, xml)).transpose()?;
    let checkpoint = checkpoint.as_ref().map_or(ptr::null(), |xml| xml.as_ptr());
    // SAFETY: see the module; the checkpoint may be null.
    let answer = unsafe { sys::virDomainBackupBegin(raw(domain), job.as_ptr(), checkpoint, 0) };
    check(CALL, answer).map(drop)
}

/// Returns the XML of the backup job at work.
pub(super) fn backup_xml(domain: &Domain) -> Result<String> {
    // SAFETY: see the module.
    let xml = unsafe { sys::virDomainBackupGetXMLDesc(raw(domain), 0) };
    take("describe the backup job", xml)
}

/// Ends the job at work.
pub(super) fn abort_job(domain: &Domain) -> Result<()> {
    // SAFETY: see the module.
    let answer = unsafe { sys::virDomainAbortJob(raw(domain)) };
    check("end the job", answer).map(drop)
}

/// Freezes all of the guest's file systems, and returns how many.
pub(super) fn freeze(domain: &Domain) -> Result<u32> {
    // SAFETY: see the module; without mount points there are none to point to.
    let answer = unsafe { sys::virDomainFSFreeze(raw(domain), ptr::null_mut(), 0, 0) };
    check("freeze the guest's file systems", answer)
}

/// Thaws all of the guest's file systems, and returns how many.
pub(super) fn thaw(domain: &Domain) -> Result<u32> {
    // SAFETY: see the module; without mount points there are none to point to.
    let answer = unsafe { sys::virDomainFSThaw(raw(domain), ptr::null_mut(), 0, 0) };
    check("thaw the guest's file systems", answer)
}

/// Lets calls to the guest agent fail after so many seconds.
pub(super) fn set_agent_timeout(domain: &Domain, seconds: i32) -> Result<()> {
    // SAFETY: see the module.
    let answer = unsafe { sys::virDomainAgentSetResponseTimeout(raw(domain), seconds, 0) };
    check("bound the agent's time", answer).map(drop)
}

/// A checkpoint's handle.
struct Checkpoint(sys::virDomainCheckpointPtr);

impl Checkpoint {
    fn find(domain: &Domain, name: &str) -> Result<Self> {
        const CALL: &str = "find a checkpoint";
        let name = text(CALL, name)?;
        // SAFETY: see the module.
        let found = unsafe { sys::virDomainCheckpointLookupByName(raw(domain), name.as_ptr(), 0) };
        Self::own(CALL, found)
    }

    fn own(call: &'static str, checkpoint: sys::virDomainCheckpointPtr) -> Result<Self> {
        match checkpoint.is_null() {
            true => Err(LibvirtError::last(call)),
            false => Ok(Self(checkpoint)),
        }
    }

    fn name(&self) -> Result<String> {
        // SAFETY: the handle is valid until it is dropped.
        let name = unsafe { sys::virDomainCheckpointGetName(self.0) };
        if name.is_null() {
            return Err(LibvirtError::last("name a checkpoint"));
        }
        // SAFETY: the name ends with a zero byte and lives as long as its checkpoint.
        let name = unsafe { CStr::from_ptr(name) };
        Ok(name.to_string_lossy().into_owned())
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and not used again.
        unsafe { sys::virDomainCheckpointFree(self.0) };
    }
}

/// Creates a checkpoint, or defines one anew; `flags` are libvirt's.
pub(super) fn checkpoint_create(domain: &Domain, xml: &str, flags: u32) -> Result<()> {
    const CALL: &str = "create a checkpoint";
    let xml = text(CALL, xml)?;
    // SAFETY: see the module.
    let made = unsafe { sys::virDomainCheckpointCreateXML(raw(domain), xml.as_ptr(), flags) };
    Checkpoint::own(CALL, made).map(drop)
}

/// Returns the names of the domain's checkpoints, parents first.
pub(super) fn checkpoint_names(domain: &Domain) -> Result<Vec<String>> {
    const CALL: &str = "list checkpoints";
    let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
    let flags = sys::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL;
    // SAFETY: see the module; libvirt sets `list` to an array that is ours.
    let count = unsafe { sys::virDomainListAllCheckpoints(raw(domain), &raw mut list, flags) };
    let count = check(CALL, count)?;
    let mut checkpoints = Vec::new();
    for place in 0..count as usize {
        // SAFETY: the array has `count` elements.
        let element = unsafe { list.add(place) };
        // SAFETY: the element is initialised, and each is taken once.
        checkpoints.push(Checkpoint(unsafe { *element }));
    }
    // SAFETY: libvirt allocates with malloc, and the array is not used again.
    unsafe { libc::free(list.cast::<c_void>()) };
    checkpoints.iter().map(Checkpoint::name).collect()
}

/// Returns a checkpoint's XML; `flags` are libvirt's.
pub(super) fn checkpoint_xml(domain: &Domain, name: &str, flags: u32) -> Result<String> {
    let checkpoint = Checkpoint::find(domain, name)?;
    // SAFETY: the handle is valid until it is dropped.
    let xml = unsafe { sys::virDomainCheckpointGetXMLDesc(checkpoint.0, flags) };
    take("describe a checkpoint", xml)
}

/// Deletes a checkpoint; `flags` are libvirt's.
pub(super) fn checkpoint_delete(domain: &Domain, name: &str, flags: u32) -> Result<()> {
    let checkpoint = Checkpoint::find(domain, name)?;
    // SAFETY: the handle is valid until it is dropped.
    let answer = unsafe { sys::virDomainCheckpointDelete(checkpoint.0, flags) };
    check("delete a checkpoint", answer).map(drop)
}

/// Fills a disk's top image from its backing chain; the job goes on after the call.
pub(super) fn block_pull(domain: &Domain, disk: &str, bandwidth: u64, flags: u32) -> Result<()> {
    const CALL: &str = "begin to pull a disk";
    let disk = text(CALL, disk)?;
    let bandwidth = c_ulong::from(bandwidth);
    // SAFETY: see the module.
    let answer = unsafe { sys::virDomainBlockPull(raw(domain), disk.as_ptr(), bandwidth, flags) };
    check(CALL, answer).map(drop)
}

/// Commits a disk's top image into `base`; the job goes on after the call.
pub(super) fn block_commit(domain: &Domain, disk: &str, base: &str, flags: u32) -> Result<()> {
    const CALL: &str = "begin to commit a disk";
    let disk = text(CALL, disk)?;
    let base = text(CALL, base)?;
    let (domain, disk, base) = (raw(domain), disk.as_ptr(), base.as_ptr());
    // SAFETY: see the module; without a top the whole chain above the base is meant.
    let answer = unsafe { sys::virDomainBlockCommit(domain, disk, base, ptr::null(), 0, flags) };
    check(CALL, answer).map(drop)
}

/// Copies a disk to where `target` says; the job goes on after the call.
pub(super) fn block_copy(domain: &Domain, disk: &str, target: &str, flags: u32) -> Result<()> {
    const CALL: &str = "begin to copy a disk";
    let disk = text(CALL, disk)?;
    let target = text(CALL, target)?;
    let (domain, disk, target) = (raw(domain), disk.as_ptr(), target.as_ptr());
    // SAFETY: see the module; there are no parameters.
    let answer =
        unsafe { sys::virDomainBlockCopy(domain, disk, target, ptr::null_mut(), 0, flags) };
    check(CALL, answer).map(drop)
}

/// Ends a disk's job; `flags` are libvirt's.
pub(super) fn block_job_abort(domain: &Domain, disk: &str, flags: u32) -> Result<()> {
    const CALL: &str = "end a disk's job";
    let disk = text(CALL, disk)?;
    // SAFETY: see the module.
    let answer = unsafe { sys::virDomainBlockJobAbort(raw(domain), disk.as_ptr(), flags) };
    check(CALL, answer).map(drop)
}

/// Returns the type, position and end of a disk's job, if there is one.
pub(super) fn block_job(domain: &Domain, disk: &str) -> Result<Option<(i32, u64, u64)>> {
    const CALL: &str = "ask for a disk's job";
    let disk = text(CALL, disk)?;
    let mut info = sys::virDomainBlockJobInfo {
        type_: 0,
        bandwidth: 0,
        cur: 0,
        end: 0,
    };
    let (domain, disk) = (raw(domain), disk.as_ptr());
    // SAFETY: see the module; `info` is ours, and has the size that libvirt fills.
    let answer = unsafe { sys::virDomainGetBlockJobInfo(domain, disk, &raw mut info, 0) };
    let found = check(CALL, answer)? > 0;
    Ok(found.then_some((info.type_, info.cur, info.end)))
}
