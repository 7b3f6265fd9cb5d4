//! Users, groups and modes as they are typed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::exit::CliError;

/// Returns the id of a user.
pub fn user(text: &str) -> Result<u32> {
    id(text, "user", Path::new("/etc/passwd"))
}

/// Returns the id of a group.
pub fn group(text: &str) -> Result<u32> {
    id(text, "group", Path::new("/etc/group"))
}

/// Parses a mode.
pub fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    let mode = mode.filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "a mode is octal, from 0 to 0777".to_owned())
}

fn id(text: &str, what: &str, file: &Path) -> Result<u32> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let list = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = find(&String::from_utf8_lossy(&list), text);
    let unknown = || format!("{} has no {what} `{text}`; give a number", file.display());
    Ok(found.ok_or_else(|| CliError::Usage(unknown()))?)
}

/// Finds a name in a list of `NAME:PASSWORD:ID:…`.
fn find(list: &str, name: &str) -> Option<u32> {
    let mut entries = list.lines().map(|line| line.split(':'));
    let mut entry = entries.find(|entry| entry.clone().next() == Some(name))?;
    entry.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_ids() {
        let list = "root:x:0:0::/:/bin/sh\nlibvirt-qemu:x:64055:994::/:/bin/false\nodd:x\n";
        assert_eq!(find(list, "libvirt-qemu"), Some(64055));
        assert_eq!((find(list, "libvirt"), find(list, "odd")), (None, None));
        assert_eq!(user("1234").ok(), Some(1234));
        assert_eq!(user("root").ok(), Some(0));
        assert!(group("no such group").is_err());
        assert_eq!(
            (mode("0660"), mode("888").ok(), mode("7777").ok()),
            (Ok(0o660), None, None)
        );
    }
}
