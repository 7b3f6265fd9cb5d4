//! Licences: everything that goes into the product is under one that `.cargo/deny.toml` allows.
//!
//! The same rule as cargo-deny's, without building it: an expression holds if it can be satisfied
//! by allowed licences alone.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::assert_clean;
use crate::tree::root;

/// What the product is built for; packages of other systems are not part of it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Returns whether an SPDX expression (or an old `A/B`) is satisfied by allowed licences alone, or
/// `None` if it is no expression.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> Option<bool> {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let value = any_of(&mut words, allowed)?;
    words.next().is_none().then_some(value)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut value = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        value |= all_of(words, allowed)?;
    }
    Some(value)
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut value = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        value &= one(words, allowed)?;
    }
    Some(value)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let word = words
        .next()
        .filter(|word| !["AND", "OR", "WITH", ")"].contains(word))?;
    if word == "(" {
        let value = any_of(words, allowed)?;
        return (words.next()? == ")").then_some(value);
    }
    match words.next_if_eq(&"WITH") {
        None => Some(allowed.contains(word)),
        Some(_) => Some(allowed.contains(&format!("{word} WITH {}", words.next()?))),
    }
}

/// Reads the list `allow` of the file's section on licences.
fn allowed_licences(text: &str) -> BTreeSet<String> {
    let (_, section) = text
        .split_once("[licenses]")
        .expect("the file has a section [licenses]");
    let (_, list) = section
        .split_once("allow = [")
        .expect("the section has a list `allow`");
    let (list, _) = list.split_once(']').expect("the list ends");
    let lines = list.lines().map(str::trim);
    let entries = lines.filter(|line| !line.starts_with('#'));
    let names = entries.map(|line| line.trim_end_matches(',').trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            TARGET,
        ])
        .current_dir(root())
        .output()
        .expect("cargo, which built this test, can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed:\n{text}");
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn texts<'a>(values: &'a Value, field: &'a str) -> impl Iterator<Item = &'a str> {
    values
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(move |value| value[field].as_str())
}

#[test]
fn every_licence_is_allowed_and_every_source_known() {
    let file = fs::read_to_string(root().join(".cargo/deny.toml")).expect("the list can be read");
    let allowed = allowed_licences(&file);
    let metadata = metadata();
    let used: BTreeSet<&str> = texts(&metadata["resolve"]["nodes"], "id").collect();
    assert!(
        used.len() > 50,
        "only {} packages: the wrong question was asked",
        used.len()
    );

    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !package["id"].as_str().is_some_and(|id| used.contains(id)) {
            continue;
        }
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or(""));
        if satisfied(licence, &allowed) != Some(true) {
            faults.push(format!("{name}: licence `{licence}` is not allowed"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| !source.starts_with("registry+")) {
            faults.push(format!(
                "{name}: comes from {source:?}, not from a registry"
            ));
        }
    }
    assert_clean(&faults);
}

#[test]
fn expressions_are_understood() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]
        .map(str::to_owned)
        .into();
    for expression in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(GPL-3.0 OR MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        "MIT OR GPL-3.0 AND GPL-2.0",
    ] {
        assert_eq!(satisfied(expression, &allowed), Some(true), "{expression}");
    }
    for expression in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "Apache-2.0",
        "(MIT OR ISC) AND GPL-3.0",
    ] {
        assert_eq!(satisfied(expression, &allowed), Some(false), "{expression}");
    }
    for expression in ["", "MIT OR", "(MIT", "MIT)", "AND", "MIT ISC", "MIT WITH"] {
        assert_eq!(satisfied(expression, &allowed), None, "{expression}");
    }
}
