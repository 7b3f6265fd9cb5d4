//! What a domain is called in a repository.
//!
//! libvirt takes names that no VM of a repository can have: `@` and `:` stand between a VM's name
//! and what is meant of it. Such a name is quoted, always in the same way, and no two names give
//! the same.

use crate::format::manifest::{NAME_LEN_MAX, check_name};

/// What stands before a UUID, in place of the end of a name that is too long. Quoting gives no such
/// two characters.
const CUT: &str = "%~";

/// Returns the name that a domain's snapshots have: its own, where a VM can have it; else
/// `%` and two digits for each byte that a VM's name cannot have, and for `%` itself.
pub fn vm_name(domain: &str, uuid: &str) -> String {
    if check_name(domain).is_ok() && !looks_quoted(domain) {
        return domain.to_owned();
    }
    let mut quoted = String::with_capacity(domain.len());
    let is_dots = matches!(domain, "." | "..");
    for char in domain.chars() {
        let is_kept = !matches!(char, '/' | '@' | ':' | '%') && !char.is_control() && !is_dots;
        match is_kept {
            true => quoted.push(char),
            false => quoted.push_str(&percent(char)),
        }
    }
    if quoted.is_empty() || quoted.len() > NAME_LEN_MAX {
        let room = NAME_LEN_MAX.saturating_sub(CUT.len() + uuid.len());
        let end = (0..=room.min(quoted.len())).rev();
        let end = end.into_iter().find(|end| quoted.is_char_boundary(*end));
        quoted.truncate(end.unwrap_or(0));
        quoted.push_str(CUT);
        quoted.push_str(uuid);
    }
    quoted
}

/// Returns whether a name might be taken for a quoted one. It is quoted, so that it is not.
fn looks_quoted(name: &str) -> bool {
    name.split('%').skip(1).any(|after| {
        let mut two = after.chars();
        match (two.next(), two.next()) {
            (Some('~'), _) => true,
            (Some(first), Some(second)) => first.is_ascii_hexdigit() && second.is_ascii_hexdigit(),
            _ => false,
        }
    })
}

fn percent(char: char) -> String {
    let mut bytes = [0; 4];
    let bytes = char.encode_utf8(&mut bytes).bytes();
    bytes.map(|byte| format!("%{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const UUID: &str = "3f8e5c0a-7c1b-4a51-9d6e-0a2f6d1c9b77";

    #[test]
    fn a_name_that_a_vm_can_have_stays() {
        for name in ["web1", "Büro 2", "100%", "a%b", "web%4"] {
            assert_eq!(vm_name(name, UUID), name);
        }
    }

    #[test]
    fn every_name_becomes_one_that_a_vm_can_have_and_no_two_the_same() {
        for (name, quoted) in [
            ("web@dc1", "web%40dc1"),
            ("a:b", "a%3Ab"),
            ("a%40b", "a%2540b"),
            ("a%~b", "a%25~b"),
            ("..", "%2E%2E"),
            ("a\u{85}b", "a%C2%85b"),
        ] {
            assert_eq!(vm_name(name, UUID), quoted);
        }
        let ends = ["@", ":", "%", "%40", "%2540", "%~", "a", ".", "é", "é@"];
        let lengths = [0, 1, 2, 80, 84, 85, 86, 252, 255, 300];
        let mut seen = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (begin, end) in ends.iter().flat_map(|a| ends.map(|b| (a, b))) {
            for len in lengths {
                names.insert(format!("{}{end}", begin.repeat(len)));
            }
        }
        for (number, name) in names.iter().enumerate() {
            let uuid = format!("3f8e5c0a-7c1b-4a51-9d6e-{number:012x}");
            let quoted = vm_name(name, &uuid);
            assert!(check_name(&quoted).is_ok(), "{name}: {quoted}");
            assert!(seen.insert(quoted), "{name}");
        }
    }
}
