//! Characters that a terminal shows, as against obeys.

/// Returns whether a terminal merely shows a character, so that two names that look the same are
/// the same.
///
/// Control characters move the cursor. Those that turn the direction of writing make one name look
/// like another: `exe.gpj` reads `jpg.exe`. And of those that are not seen at all there may be any
/// number in a name.
pub fn is_printable(c: char) -> bool {
    !c.is_control() && !turns(c) && !is_unseen(c)
}

/// Returns whether a character turns the direction of writing, or ends a line without a control
/// character.
fn turns(c: char) -> bool {
    let marks = '\u{200e}'..='\u{200f}';
    let embeddings = '\u{202a}'..='\u{202e}';
    let isolates = '\u{2066}'..='\u{2069}';
    c == '\u{61c}'
        || marks.contains(&c)
        || ('\u{2028}'..='\u{2029}').contains(&c)
        || embeddings.contains(&c)
        || isolates.contains(&c)
}

/// Returns whether a character takes no room: what Unicode calls `Default_Ignorable_Code_Point`,
/// and the annotations.
fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Returns a text of which nothing is obeyed: a line of it stays one.
pub fn text(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// Returns a character, or what stands for one that is not shown.
pub fn shown(c: char) -> char {
    match is_printable(c) {
        true => c,
        false => '\u{fffd}',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_the_writing_or_is_not_seen_is_not_shown() {
        let turned = "a\u{202e}gpj.exe\u{2066}\u{2069}\u{200f}\u{61c}\u{1b}[2J\u{9b}b\u{2028}c";
        let text: String = turned.chars().map(shown).collect();
        assert_eq!(
            text,
            "a\u{fffd}gpj.exe\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}[2J\u{fffd}b\u{fffd}c"
        );
        let unseen = "\u{ad}\u{200b}\u{200d}\u{2060}\u{feff}\u{fe0f}\u{3164}\u{e0041}\u{fff9}";
        assert!(!unseen.chars().any(is_printable));
        // Right-to-left letters are letters, and accents are seen.
        assert!(
            "größe e\u{301} 日本 שלום مرحبا 😀 \u{fffd}"
                .chars()
                .all(is_printable)
        );
    }
}
