//! The language of LVM's metadata: sections of names with numbers, texts, lists and sections.

use super::super::tree::GuestError;
use super::damaged;

/// Sections in sections; real metadata has four.
const DEPTH_MAX: usize = 16;
/// Values in all texts: some thousand for each MiB of memory, and enough for 50 000 volumes.
const VALUES_MAX: usize = 1 << 20;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Names with their values, in the order in which they stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Section(Vec<(String, Value)>);

impl Section {
    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// Returns the sections in this one.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    /// Takes the sections out of this one.
    pub fn into_sections(self) -> impl Iterator<Item = (String, Self)> {
        self.0.into_iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name, section)),
            _ => None,
        })
    }

    /// Returns the section of a name.
    pub fn section(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    /// Returns the number of a name.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns the text of a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> &[Value] {
        match self.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// Returns whether a list has a word in it.
    pub fn has_word(&self, name: &str, word: &str) -> bool {
        let list = self.list(name).iter();
        { list }.any(|value| matches!(value, Value::Text(text) if text == word))
    }

    /// Returns a list of names that are each followed by a number.
    pub fn places(&self, name: &str) -> impl Iterator<Item = (&str, u64)> {
        self.list(name)
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [Value::Text(name), Value::Number(number)] => Some((name.as_str(), *number)),
                _ => None,
            })
    }
}

/// Reads a text, which may end in zeros. `values` counts what is in all texts that are read.
pub(super) fn parse(text: &[u8], values: &mut usize) -> Result<Section, GuestError> {
    let mut parser = Parser { rest: text, values };
    parser.section(0)
}

struct Parser<'t> {
    rest: &'t [u8],
    values: &'t mut usize,
}

fn malformed() -> GuestError {
    damaged("its metadata does not follow its grammar")
}

impl<'t> Parser<'t> {
    /// Leaves out what stands between words, and returns the next byte.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.rest {
                [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] => self.rest = rest,
                [b'#', rest @ ..] => {
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    self.rest = rest.get(end.unwrap_or(rest.len())..).unwrap_or_default();
                }
                [0, ..] | [] => return None,
                [byte, ..] => return Some(*byte),
            }
        }
    }

    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    fn expect(&mut self, byte: u8) -> Result<(), GuestError> {
        if self.peek() != Some(byte) {
            return Err(malformed());
        }
        self.skip();
        Ok(())
    }

    /// Takes the bytes up to one that is none of a word.
    fn word(&mut self) -> &'t [u8] {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+.".contains(byte);
        let end = self.rest.iter().position(|byte| !is_word(byte));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn section(&mut self, depth: usize) -> Result<Section, GuestError> {
        let mut section = Section::default();
        loop {
            match self.peek() {
                None if depth == 0 => return Ok(section),
                Some(b'}') if depth > 0 => {
                    self.skip();
                    return Ok(section);
                }
                _ => {}
            }
            let name = self.word();
            if name.is_empty() || depth >= DEPTH_MAX {
                return Err(malformed());
            }
            self.count()?;
            let name = String::from_utf8_lossy(name).into_owned();
            let value = match self.peek() {
                Some(b'{') => {
                    self.skip();
                    Value::Section(self.section(depth.saturating_add(1))?)
                }
                _ => {
                    self.expect(b'=')?;
                    self.value()?
                }
            };
            section.0.push((name, value));
        }
    }

    fn count(&mut self) -> Result<(), GuestError> {
        *self.values = self.values.saturating_add(1);
        if *self.values > VALUES_MAX {
            return Err(damaged("its metadata has too many values"));
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value, GuestError> {
        if self.peek() != Some(b'[') {
            return self.scalar();
        }
        self.skip();
        let mut list = Vec::new();
        loop {
            match self.peek() {
                Some(b']') => {
                    self.skip();
                    return Ok(Value::List(list));
                }
                Some(b',') => self.skip(),
                _ => {
                    self.count()?;
                    list.push(self.scalar()?);
                }
            }
        }
    }

    fn scalar(&mut self) -> Result<Value, GuestError> {
        if self.peek() == Some(b'"') {
            self.skip();
            return self.text();
        }
        let word = self.word();
        let number = std::str::from_utf8(word)
            .ok()
            .and_then(|word| word.parse().ok());
        // Numbers with a sign or a fraction stand in places that nobody asks for.
        let is_number = word
            .first()
            .is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
        match number {
            Some(number) => Ok(Value::Number(number)),
            None if is_number => Ok(Value::Text(String::from_utf8_lossy(word).into_owned())),
            None => Err(malformed()),
        }
    }

    fn text(&mut self) -> Result<Value, GuestError> {
        let mut text = Vec::new();
        loop {
            match self.rest {
                [b'\\', byte, rest @ ..] => {
                    text.push(*byte);
                    self.rest = rest;
                }
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(Value::Text(String::from_utf8_lossy(&text).into_owned()));
                }
                [byte, rest @ ..] => {
                    text.push(*byte);
                    self.rest = rest;
                }
                [] => return Err(malformed()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Section, GuestError> {
        super::parse(text, &mut 0)
    }

    const TEXT: &[u8] = br#"# Generated
contents = "Text Format Volume Group"
version = 1
vg0 {
    id = "a\"b"
    status = ["RESIZEABLE", "READ"] # remark
    empty = []
    lv { stripes = [ "pv0", 0, "pv1", 17 ] }
}
"#;

    #[test]
    fn metadata_is_understood() {
        let root = parse(&[TEXT, b"\0junk"].concat()).expect("the text is valid");
        assert_eq!(root.number("version"), Some(1));
        let group = root.section("vg0").expect("it is there");
        assert_eq!(group.text("id"), Some("a\"b"));
        assert!(group.has_word("status", "READ"));
        assert!(!group.has_word("empty", "READ"));
        let volume = group.section("lv").expect("it is there");
        let places: Vec<_> = volume.places("stripes").collect();
        assert_eq!(places, [("pv0", 0), ("pv1", 17)]);
    }

    #[test]
    fn what_is_cut_off_or_too_deep_is_refused() {
        let whole = parse(TEXT).expect("the text is valid");
        for len in 0..TEXT.len() {
            // What ends between two values of the outermost section is a shorter text.
            if let Ok(section) = parse(&TEXT[..len]) {
                assert!(
                    section == whole || section.section("vg0").is_none(),
                    "{len}"
                );
            }
        }
        assert!(parse("a {".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"a = [1").is_err());
        assert!(parse(b"= 1").is_err());
    }

    #[test]
    fn values_of_all_texts_are_bounded() {
        let (text, mut values) = ("a=1 ".repeat(VALUES_MAX / 2), 0);
        assert!(super::parse(text.as_bytes(), &mut values).is_ok());
        assert!(super::parse(text.as_bytes(), &mut values).is_ok());
        assert!(super::parse(b"a = 1", &mut values).is_err());
    }
}
