//! Who may start a thread, and how: what starts one waits for it. See `docs/concurrency.md`.

use crate::assert_clean;
use crate::tree::{TextFile, rust_files};

/// What starts a thread that nobody waits for, lets one go, or ends the process below its threads.
const UNOWNED: &[&str] = &[
    "thread::spawn(",
    "JoinHandle",
    "ThreadPool",
    "rayon::",
    "BackgroundSession",
    "spawn_mount",
    ".let_run_on()",
    "process::exit",
    "low_level::exit",
    "mem::forget",
    "Box::leak(",
];

/// Where one of these is right, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "engine/src/threads.rs",
        "JoinHandle",
        "the one home of threads that are not scoped: it waits for them",
    ),
    ("engine/src/threads.rs", ".spawn(", "the same"),
    (
        "engine/src/pool.rs",
        "rayon::",
        "a pool in a scope, which waits for its threads",
    ),
    ("engine/src/pool.rs", "ThreadPool", "the same"),
    (
        "engine/src/source/libvirt/library.rs",
        "mem::forget",
        "a library that is in use stays loaded; no thread is in it",
    ),
    (
        "engine/src/nbd/client/connect.rs",
        ".let_run_on()",
        "nothing ends a look-up of a name; the thread touches its own socket and TLS session",
    ),
    (
        "engine/src/source/libvirt/events.rs",
        ".let_run_on()",
        "where libvirt's loop cannot be woken; without connections it has nothing to do",
    ),
    (
        "engine/src/domain/in_place.rs",
        "mem::forget",
        "paths, which the journal has taken over",
    ),
    (
        "cli/src/commands/mount.rs",
        "process::exit",
        "the process that only waited for another: nothing was opened, no thread started",
    ),
    (
        "cli/src/mount/serve.rs",
        "low_level::exit",
        "`_exit`: no static is destroyed below the threads that hang",
    ),
];

/// Returns the fault of a line of product code.
fn fault(line: &str, next: &str) -> Option<&'static str> {
    if let Some(word) = UNOWNED.iter().find(|word| line.contains(**word)) {
        return Some(word);
    }
    // A process is spawned without arguments, a thread with its work; a scope waits by itself.
    let (before, after) = line.split_once(".spawn(")?;
    let after = if after.is_empty() {
        next.trim_start()
    } else {
        after
    };
    let is_scoped = before.ends_with("scope");
    (!after.starts_with(')') && !is_scoped).then_some(".spawn(")
}

fn unowned(file: &TextFile) -> Vec<(usize, &'static str)> {
    if !file.is_product() {
        return Vec::new();
    }
    let lines: Vec<(usize, &str)> = file.code_lines().collect();
    let nexts = lines.iter().skip(1).map(|(_, line)| *line).chain([""]);
    let faults = lines.iter().zip(nexts);
    faults
        .filter_map(|((number, line), next)| Some((*number, fault(line, next)?)))
        .collect()
}

fn is_excepted(path: &str, word: &str) -> bool {
    EXCEPTIONS
        .iter()
        .any(|(file, excepted, _)| *file == path && *excepted == word)
}

#[test]
fn whoever_starts_a_thread_waits_for_it() {
    let mut faults = Vec::new();
    let mut used = Vec::new();
    for file in rust_files() {
        for (number, word) in unowned(&file) {
            used.push((file.path.clone(), word));
            if !is_excepted(&file.path, word) {
                faults.push(format!(
                    "{}:{number}: `{word}`: use a scope or `cairn_engine::threads::Joined`",
                    file.path
                ));
            }
        }
    }
    for (path, word, _) in EXCEPTIONS {
        if !used.iter().any(|(file, used)| file == path && used == word) {
            faults.push(format!("{path}: `{word}` is excepted and not used"));
        }
    }
    assert_clean(&faults);
}

#[test]
fn unowned_threads_are_found() {
    let of = |text: &str| {
        let found = unowned(&TextFile::sample("cli/src/a.rs", text));
        found
            .into_iter()
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
    };
    let wrong = "let a = std::thread::spawn(work);\n\
                 drop(Builder::new().name(n).spawn(move || work()));\n\
                 builder.spawn(\n    work);\n\
                 let h: JoinHandle<()> = h;\n\
                 thread.let_run_on();\n\
                 std::process::exit(1);\n";
    assert_eq!(of(wrong), [1, 2, 3, 5, 6, 7]);
    let right = "scope.spawn(|| work());\n\
                 builder.spawn_scoped(scope, work)?;\n\
                 let child = command.spawn()?;\n\
                 command\n    .spawn()\n    .context(\"no\")?;\n\
                 // thread::spawn(work)\n\
                 let t = Joined::start(\"t\", work)?;\n";
    assert_eq!(of(right), [0; 0]);
    let test = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{wrong}}}\n");
    assert_eq!(of(&test), [0; 0]);
}
