//! libvirt's client library, loaded when a domain is asked for and not before: whoever restores on
//! a rescue system has none.
//!
//! The `virt` crate calls libvirt's functions by name, as things that are linked. This module
//! defines those names: each is a jump to where the library's own function turned out to be. So
//! nothing is left for the linker to look for in `libvirt.so`, and the program starts without it. A
//! call that is not in the list below is linked as ever, and the test `bare_root` says that it is
//! missing here.

#![expect(unsafe_code, reason = "functions are found by name and jumped to")]

use std::sync::OnceLock;

use super::{LibvirtError, Reason};

/// Makes libvirt's functions callable; the first call loads the library.
///
/// # Errors
///
/// [`Reason::NotInstalled`] where there is no library, or one that lacks what is called.
pub(super) fn load() -> Result<(), LibvirtError> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(implementation::load);
    loaded.clone().map_err(|message| LibvirtError {
        call: "be loaded",
        reason: Reason::NotInstalled,
        message,
    })
}

/// Elsewhere the library is linked.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod implementation {
    pub(super) fn load() -> Result<(), String> {
        Ok(())
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[expect(non_camel_case_types, reason = "libvirt's names")]
mod implementation {
    use std::arch::naked_asm;
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use libloading::Library;

    /// Defines each function that is called as a jump through its place in [`PLACES`].
    macro_rules! functions {
        ($($name:ident),* $(,)?) => {
            #[derive(Clone, Copy)]
            enum Function {
                $($name,)*
            }

            /// Every function, by its name.
            const FUNCTIONS: &[(&str, Function)] = &[$((stringify!($name), Function::$name),)*];

            /// Where each function is.
            static PLACES: [AtomicPtr<()>; FUNCTIONS.len()] =
                [const { AtomicPtr::new(not_loaded as *mut ()) }; FUNCTIONS.len()];

            $(
                // SAFETY: a jump changes neither stack nor arguments, so the function there sees
                // the call as it was made; at first that is `not_loaded`, which takes none.
                #[unsafe(naked)]
                // SAFETY: nothing else here defines libvirt's names; the library itself, when it is
                // loaded, finds its own first, or these, which lead to its own.
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $name() {
                    #[cfg(target_arch = "x86_64")]
                    naked_asm!(
                        "jmp qword ptr [rip + {places} + {at}]",
                        places = sym PLACES,
                        at = const Function::$name as usize * size_of::<AtomicPtr<()>>(),
                    );
                    #[cfg(target_arch = "aarch64")]
                    naked_asm!(
                        "adrp x16, {places} + {at}",
                        "ldr x16, [x16, :lo12:{places} + {at}]",
                        "br x16",
                        places = sym PLACES,
                        at = const Function::$name as usize * size_of::<AtomicPtr<()>>(),
                    );
                }
            )*
        };
    }

    functions! {
        virConnectClose, virConnectGetCapabilities, virConnectGetURI, virConnectIsAlive,
        virConnectListAllDomains, virConnectOpen, virConnectRef, virConnectSetKeepAlive,
        virDomainAbortJob, virDomainAgentSetResponseTimeout, virDomainBackupBegin,
        virDomainBackupGetXMLDesc, virDomainBlockCommit, virDomainBlockCopy,
        virDomainBlockJobAbort, virDomainBlockPull, virDomainCheckpointCreateXML,
        virDomainCheckpointDelete, virDomainCheckpointFree, virDomainCheckpointGetName,
        virDomainCheckpointGetXMLDesc, virDomainCheckpointLookupByName, virDomainCreate,
        virDomainCreateXML, virDomainDefineXML, virDomainDestroy, virDomainFSFreeze,
        virDomainFSThaw, virDomainFree, virDomainGetBlockInfo, virDomainGetBlockJobInfo,
        virDomainGetJobStats, virDomainGetName, virDomainGetState, virDomainGetUUIDString,
        virDomainGetXMLDesc, virDomainHasManagedSaveImage, virDomainIsPersistent,
        virDomainListAllCheckpoints, virDomainLookupByName, virDomainLookupByUUIDString,
        virDomainQemuAgentCommand, virDomainRestoreFlags, virDomainResume, virDomainScreenshot,
        virDomainSnapshotCreateXML, virDomainSnapshotFree, virDomainSuspend,
        virDomainUndefineFlags, virEventAddTimeout, virEventRegisterDefaultImpl,
        virEventRemoveTimeout, virEventRunDefaultImpl, virGetLastError, virSetErrorFunc,
        virStoragePoolFree, virStoragePoolGetXMLDesc, virStoragePoolLookupByName,
        virStoragePoolRefresh, virStreamEventRemoveCallback, virStreamFinish, virStreamFree,
        virStreamNew, virStreamRecv,
    }

    /// The libraries, and what only the second has.
    const LIBRARIES: [&str; 2] = ["libvirt.so.0", "libvirt-qemu.so.0"];

    /// Stands in each place until the library is loaded. A [`super::super::Connection`] loads it,
    /// and nothing can be called without one.
    extern "C" fn not_loaded() {
        std::process::abort()
    }

    pub(super) fn load() -> Result<(), String> {
        let mut libraries = Vec::new();
        for name in LIBRARIES {
            // SAFETY: libvirt's initialisers may run at any time, on any thread.
            let library = unsafe { Library::new(name) };
            libraries.push(library.map_err(|error| error.to_string())?);
        }
        let mut found = Vec::new();
        for (name, function) in FUNCTIONS {
            found.push((*function, find(&libraries, name)?));
        }
        for (function, place) in found {
            PLACES[function as usize].store(place, Ordering::Release);
        }
        // What is in use stays loaded for as long as the process lives.
        libraries.into_iter().for_each(std::mem::forget);
        Ok(())
    }

    fn find(libraries: &[Library], name: &str) -> Result<*mut (), String> {
        for library in libraries {
            // SAFETY: the symbol is only taken as an address here.
            let symbol = unsafe { library.get::<*mut ()>(name.as_bytes()) };
            let place = symbol.map_or(ptr::null_mut(), |symbol| *symbol);
            if !place.is_null() {
                return Ok(place);
            }
        }
        Err(format!("it is too old, and lacks {name}"))
    }
}
