//! What is said of requests that a disk cannot answer: not each of thousands.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing more is said of an export once one failure was.
const PAUSE: Duration = Duration::from_secs(10);
/// Exports that are told apart.
const EXPORTS_MAX: usize = 1024;

/// The failures of each export.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<String, Told>>);

/// What was said of an export, and what was not.
struct Told {
    when: Instant,
    unsaid: u64,
}

impl Failures {
    /// Takes a failure in, and returns what to say of it now.
    pub fn line(&self, export: &str, failure: &str, now: Instant) -> Vec<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = all.get_mut(export)
            && now.duration_since(told.when) < PAUSE
        {
            told.unsaid += 1;
            return Vec::new();
        }
        if all.len() >= EXPORTS_MAX {
            all.clear();
        }
        let told = Told {
            when: now,
            unsaid: 0,
        };
        let before = all.insert(export.to_owned(), told);
        let mut lines = Vec::from_iter(before.and_then(|told| told.rest(export)));
        lines.push(format!("warning: export {export}: {failure}"));
        lines
    }

    /// Returns what is still to be said of an export that someone leaves.
    pub fn rest(&self, export: &str) -> Option<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = all.get_mut(export)?;
        let rest = told.rest(export);
        told.unsaid = 0;
        rest
    }
}

impl Told {
    fn rest(&self, export: &str) -> Option<String> {
        let count = self.unsaid;
        (count > 0).then(|| {
            format!(
                "warning: export {export}: {count} more requests failed. `cairn verify` names all \
                 that is damaged, and `cairn restore --salvage` writes the rest"
            )
        })
    }
}

/// Returns an error with its causes on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        line.push_str(": ");
        line.push_str(&source.to_string());
        cause = source.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_failures_few_are_told_and_all_are_counted() {
        let (failures, start) = (Failures::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(failures.line("vda", "x", at(0)), ["warning: export vda: x"]);
        for _ in 0..1000 {
            assert!(failures.line("vda", "y", at(9)).is_empty());
        }
        // Another one is told at once.
        assert_eq!(failures.line("vdb", "x", at(9)).len(), 1);
        let lines = failures.line("vda", "z", at(10));
        assert!(lines[0].contains("vda: 1000 more"), "{lines:?}");
        assert_eq!(lines[1..], ["warning: export vda: z"]);
        assert_eq!(failures.rest("vda"), None);
        failures.line("vda", "z", at(11));
        assert!(
            failures
                .rest("vda")
                .is_some_and(|rest| rest.contains(" 1 more"))
        );
        assert_eq!(failures.rest("vda"), None);
    }
}
