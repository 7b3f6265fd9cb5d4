//! Pipes of shell scripts, which must be read to their end.
//!
//! A reader that has seen enough ends what still writes, and with `pipefail` the pipe has failed
//! then. Whether it does depends on who is faster: `needed | grep -q` was false now and then.

use crate::assert_clean;
use crate::tree::{TextFile, text_files};

fn is_script(file: &TextFile) -> bool {
    file.path.ends_with(".sh") || file.text.starts_with("#!")
}

/// Returns the statements with the number of their first line: what a pipe or a backslash continues
/// belongs together.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let code = line.trim();
        match statements.last_mut() {
            Some((_, statement)) if continues => statement.push_str(code),
            _ => statements.push((index + 1, code.to_owned())),
        }
        continues = !code.starts_with('#') && code.ends_with(['|', '\\']);
        if let Some((_, statement)) = statements.last_mut().filter(|_| code.ends_with('\\')) {
            statement.pop();
            statement.push(' ');
        }
    }
    statements
}

/// Returns whether the end of a pipe may end before what feeds it.
fn ends_early(reader: &str, is_script: bool) -> bool {
    let mut words = reader.split_whitespace();
    let (name, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    // In Rust these words may also name things.
    let is_call = is_script || rest.starts_with('-');
    let option = |letter: char| {
        let mut options = reader
            .split_whitespace()
            .filter(|word| word.starts_with('-'));
        options.any(|word| !word.starts_with("--") && word.contains(letter))
    };
    let is_long = |name: &str| reader.contains(name);
    match name {
        "head" => is_call,
        // grep looks no further than it does for `-q` if nobody sees what it finds.
        "grep" | "egrep" | "fgrep" => {
            is_call
                && (['q', 'm', 'l', 'L'].into_iter().any(option)
                    || is_long("--quiet")
                    || is_long("--max-count")
                    || (is_long(">/dev/null") && !reader.contains("2>/dev/null")))
        }
        "sed" => ["q'", "q}", "q;", "Q'", "Q}"]
            .iter()
            .any(|quit| reader.contains(quit)),
        "awk" => is_call && reader.contains("exit"),
        _ => false,
    }
}

fn unread_pipes(file: &TextFile) -> Vec<String> {
    let is_script = is_script(file);
    if !is_script && !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, statement) in statements(&file.text) {
        // Whoever writes `|| true` has thought of it.
        if statement.starts_with(['#', '/']) || statement.contains("|| true") {
            continue;
        }
        let readers = statement.replace("||", " or ");
        for reader in readers
            .split('|')
            .skip(1)
            .filter(|part| ends_early(part, is_script))
        {
            let (path, reader) = (&file.path, reader.trim());
            faults.push(format!(
                "{path}:{number}: `{reader}` ends its pipe early; read it whole: `case $(…) in`, \
                 `sed -n 1p`, `find -quit`"
            ));
        }
    }
    faults
}

#[test]
fn pipes_are_read_to_their_end() {
    assert_clean(
        &text_files()
            .iter()
            .flat_map(unread_pipes)
            .collect::<Vec<_>>(),
    );
    let bad = [
        concat!("needed | gr", "ep -q x"),
        concat!("needed | gr", "ep -e x -m 1"),
        concat!("needed | gr", "ep x >/dev/null"),
        concat!("needed |\n    he", "ad -n 1"),
        concat!("needed \\\n    | se", "d '/x/q'"),
        concat!("needed | aw", "k '/x/ { print; exit }'"),
    ];
    for script in bad {
        let file = TextFile::sample("tests/a.sh", script);
        assert_eq!(unread_pipes(&file).len(), 1, "{script}");
    }
    let in_rust = concat!("sh(\"needed | gr", "ep -q x\")");
    assert_eq!(unread_pipes(&TextFile::sample("a.rs", in_rust)).len(), 1);
    let good = concat!(
        "needed | grep x 2>/dev/null\ngrep -q x file\na || grep -q x file\n# a | he",
        "ad\nneeded | sed -n 1p\n(yes || true) | he",
        "ad -c 5\nneeded | awk '{ print }'\n"
    );
    assert_clean(&unread_pipes(&TextFile::sample("tests/a.sh", good)));
    let names = TextFile::sample(
        "a.rs",
        "a.map(|head| head + 1); match b { tail | head => 1 }\n",
    );
    assert_clean(&unread_pipes(&names));
}
