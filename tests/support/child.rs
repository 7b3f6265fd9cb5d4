//! Tests that need a process of their own: this test binary runs one of its tests as a child.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Names the repository that a child is to work on, or whatever else it is told.
const TOLD: &str = "CAIRN_TEST_CHILD";

/// Starts `test`, which does nothing unless it is told something, in a process of its own.
pub fn start(test: &str, told: &OsStr) -> Child {
    let program = std::env::current_exe().expect("the test binary has a path");
    Command::new(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(TOLD, told)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test binary can be run")
}

/// Waits for a child, fails unless it passed, and returns what it printed.
pub fn finish(child: Child) -> String {
    let output = child
        .wait_with_output()
        .expect("the child can be waited for");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    text
}

/// Returns what this process was told; `None` in one that nobody started as a child.
pub fn told() -> Option<PathBuf> {
    std::env::var_os(TOLD).map(PathBuf::from)
}
