//! The folder of QEMU's socket on another host, and what tells a job with its socket there.

use std::path::{Path, PathBuf};

use crate::domain::checkpoint::is_drawn;

/// Where root's are, and the beginning of everybody else's.
pub(super) const ROOTS_FOLDER: &str = "/run/cairn";
const OTHERS_FOLDER: &str = "/tmp";
const OTHERS_NAME: &str = "cairn-";
const SOCKET: &str = "nbd.sock";

/// Returns the folder of a run of root's, or of another user's.
pub(super) fn folder(drawn: &str, is_root: bool) -> PathBuf {
    match is_root {
        true => Path::new(ROOTS_FOLDER).join(drawn),
        false => Path::new(OTHERS_FOLDER).join(format!("{OTHERS_NAME}{drawn}")),
    }
}

/// Returns whether a run with these digits has this folder on a host.
pub(in crate::domain) fn is_remote_folder(path: &Path, drawn: &str) -> bool {
    // As text: a path counts for equal to one with dots and slashes in it.
    let is_path = |is_root| path.as_os_str() == folder(drawn, is_root).as_os_str();
    is_drawn(drawn) && (is_path(true) || is_path(false))
}

/// Returns whether a folder is that of any run.
pub(super) fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let drawn = name.map(|name| name.strip_prefix(OTHERS_NAME).unwrap_or(name));
    drawn.is_some_and(|drawn| is_remote_folder(path, drawn))
}

/// Returns the path of QEMU's socket in a folder.
pub(super) fn server_socket(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}

/// Returns what the XML of a job with its socket in a folder holds, and no other's.
pub(in crate::domain) fn remote_mark(folder: &Path) -> String {
    server_socket(folder).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_runs_are_told_from_all_others() {
        for is_root in [true, false] {
            let path = folder("0123abcd", is_root);
            assert!(is_ours(&path) && is_remote_folder(&path, "0123abcd"));
            assert!(!is_remote_folder(&path, "0123abce"));
            assert!(!is_ours(&path.join("..")) && !is_ours(&path.join("x")));
        }
        for other in [
            "/run/cairn",
            "/run/cairn/",
            "/run/cairn/runs",
            "/tmp/cairn-x",
            "/",
            "",
        ] {
            assert!(!is_ours(Path::new(other)), "{other}");
        }
        assert!(!is_ours(Path::new("/run/cairn/./0123abcd")));
        assert!(!is_ours(Path::new("/tmp/0123abcd")));
    }
}
