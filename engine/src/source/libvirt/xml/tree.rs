//! An XML document as a tree that can be changed, bounded in all directions: what comes from a
//! snapshot may be anything.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event};

use super::XmlError;

/// Longest text that is parsed, in bytes.
const TEXT_LEN_MAX: usize = 8 << 20;
/// Deepest nesting of elements. libvirt's own parser takes 256.
const DEPTH_MAX: usize = 64;
/// Most elements. A domain with a thousand disks has about ten thousand.
const ELEMENTS_MAX: usize = 200_000;

/// An element, with all that is in it. Comments and processing instructions are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Its name, with the prefix that it was written with.
    pub name: String,
    /// Its attributes, in the order written.
    pub attributes: Vec<(String, String)>,
    /// What is in it.
    pub children: Vec<Node>,
}

/// What an element holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Another element.
    Element(Element),
    /// Text, unescaped.
    Text(String),
}

impl Element {
    /// Makes an empty element.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Makes an element that holds a text.
    pub fn with_text(name: &str, text: &str) -> Self {
        Self::new(name).text(text)
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.children.push(Node::Text(text.to_owned()));
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// Adds an element.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// Parses a document, whose root must be `expected`.
    pub fn parse(text: &str, expected: &'static str) -> Result<Self, XmlError> {
        let root = parse(text)?;
        match root.name == expected {
            true => Ok(root),
            false => Err(XmlError::WrongRoot { expected }),
        }
    }

    /// Returns an attribute's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.attributes.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.attributes.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Takes an attribute away.
    pub fn unset(&mut self, name: &str) {
        self.attributes.retain(|(key, _)| key != name);
    }

    /// Returns the elements in it.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// Returns the elements in it, to be changed.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        self.children.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// Returns the elements of a name in it.
    pub fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Self> {
        self.elements().filter(move |element| element.name == name)
    }

    /// Returns the first element of a name in it.
    pub fn first(&self, name: &str) -> Option<&Self> {
        self.elements().find(|element| element.name == name)
    }

    /// Returns the first element of a name in it, to be changed.
    pub fn first_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.elements_mut().find(|element| element.name == name)
    }

    /// Returns the element that a path such as `devices/emulator` leads to by first elements.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('/')
            .try_fold(self, |element, name| element.first(name))
    }

    /// Returns the text of the element at a path, without the white space around it.
    pub fn text_at(&self, path: &str) -> Option<Cow<'_, str>> {
        let text = self.at(path)?.own_text();
        Some(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        })
    }

    /// Returns its own text.
    pub fn own_text(&self) -> Cow<'_, str> {
        let mut texts = self.children.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        let first = texts.next().unwrap_or_default();
        let rest: String = texts.collect();
        match rest.is_empty() {
            true => Cow::Borrowed(first),
            false => Cow::Owned(format!("{first}{rest}")),
        }
    }

    /// Replaces all that is in it by a text.
    pub fn set_text(&mut self, text: &str) {
        self.children = vec![Node::Text(text.to_owned())];
    }

    /// Keeps only the elements that a rule wants, and returns how many went.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Self) -> bool) -> usize {
        let before = self.children.len();
        self.children.retain(|node| match node {
            Node::Element(element) => wanted(element),
            Node::Text(_) => true,
        });
        before.saturating_sub(self.children.len())
    }

    /// Replaces the first element of the same name, or adds the element.
    pub fn put(&mut self, element: Self) {
        match self.first_mut(&element.name) {
            Some(old) => *old = element,
            None => self.children.push(Node::Element(element)),
        }
    }
}

fn parse(text: &str) -> Result<Element, XmlError> {
    let too_much = |what, limit| Err(XmlError::TooMuch { what, limit });
    if text.len() > TEXT_LEN_MAX {
        return too_much("bytes", TEXT_LEN_MAX);
    }
    if let Some(place) = text.find(is_forbidden) {
        let offset = place as u64;
        return Err(XmlError::Malformed { offset });
    }
    let mut reader = Reader::from_str(text);
    // The first is the document itself, which holds the root.
    let mut open = vec![Element::default()];
    let mut count = 0_usize;
    loop {
        let offset = reader.buffer_position();
        let malformed = || XmlError::Malformed { offset };
        let event = reader.read_event().map_err(|_| malformed())?;
        match event {
            Event::Start(tag) => {
                open.push(element(&tag).ok_or_else(malformed)?);
                count = count.saturating_add(1);
            }
            Event::Empty(tag) => {
                let element = element(&tag).ok_or_else(malformed)?;
                let parent = open.last_mut().ok_or_else(malformed)?;
                parent.children.push(Node::Element(element));
                count = count.saturating_add(1);
            }
            Event::End(_) => {
                let done = open.pop().ok_or_else(malformed)?;
                let parent = open.last_mut().ok_or_else(malformed)?;
                parent.children.push(Node::Element(done));
            }
            Event::Text(text) => push_text(&mut open, &text),
            Event::CData(text) => push_text(&mut open, &text),
            Event::GeneralRef(name) => {
                let resolved = resolve(&name).ok_or_else(malformed)?;
                push_text(&mut open, &resolved);
            }
            // A document type could define entities that grow without bounds.
            Event::DocType(_) => return Err(malformed()),
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
            Event::Eof => break,
        }
        if open.len() > DEPTH_MAX {
            return too_much("levels", DEPTH_MAX);
        }
        if count > ELEMENTS_MAX {
            return too_much("elements", ELEMENTS_MAX);
        }
    }
    let end = XmlError::Malformed {
        offset: reader.buffer_position(),
    };
    let [document] = <[Element; 1]>::try_from(open).map_err(|_| end.clone())?;
    let mut roots = document.children.into_iter().filter_map(|node| match node {
        Node::Element(element) => Some(element),
        Node::Text(_) => None,
    });
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        _ => Err(end),
    }
}

/// Returns whether no XML may hold a character, not even by reference.
fn is_forbidden(c: char) -> bool {
    c.is_control() && !"\t\n\r".contains(c)
}

/// Returns whether a text may be the name of an element or an attribute. Letters beyond ASCII are
/// taken without a look at XML's list of them.
fn is_name(text: &str) -> bool {
    let may_be = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c) || !c.is_ascii();
    !text.is_empty() && text.chars().all(may_be)
}

fn element(tag: &BytesStart<'_>) -> Option<Element> {
    let name = tag.name().into_inner();
    let name = Some(name).filter(|name| is_name(name))?.to_owned();
    let mut attributes = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.ok()?;
        let key = Some(attribute.key.into_inner()).filter(|key| is_name(key))?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
        if value.contains(is_forbidden) {
            return None;
        }
        attributes.push((key.to_owned(), value.into_owned()));
    }
    Some(Element {
        name,
        attributes,
        children: Vec::new(),
    })
}

/// Returns what a reference such as `&lt;` or `&#10;` stands for.
fn resolve(name: &quick_xml::events::BytesRef<'_>) -> Option<String> {
    if let Some(character) = name.resolve_char_ref().ok()? {
        return (!is_forbidden(character)).then(|| character.to_string());
    }
    quick_xml::escape::resolve_predefined_entity(name).map(str::to_owned)
}

fn push_text(open: &mut [Element], text: &str) {
    let Some(element) = open.last_mut() else {
        return;
    };
    match element.children.last_mut() {
        Some(Node::Text(before)) => before.push_str(text),
        _ => element.children.push(Node::Text(text.to_owned())),
    }
}

impl Display for Element {
    /// Writes it as XML, as it was laid out.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        for (key, value) in &self.attributes {
            // A parser takes white space in attributes for blanks, unless it is written so.
            let escaped = escape(value.as_str()).replace('\n', "&#10;");
            let escaped = escaped.replace('\t', "&#9;").replace('\r', "&#13;");
            write!(f, " {key}='{escaped}'")?;
        }
        if self.children.is_empty() {
            return write!(f, "/>");
        }
        write!(f, ">")?;
        for node in &self.children {
            match node {
                Node::Element(element) => write!(f, "{element}")?,
                Node::Text(text) => {
                    let escaped = escape(text.as_str()).replace('\r', "&#13;");
                    write!(f, "{escaped}")?;
                }
            }
        }
        write!(f, "</{}>", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_written_back() -> Result<(), XmlError> {
        let text = "<domain type='kvm' xmlns:q='http://q'>\n  <name>a &lt; b</name>\n  \
                    <q:x y='1 &amp; &quot;2&apos;'/>\n</domain>";
        let root = Element::parse(text, "domain")?;
        assert_eq!(root.text_at("name").as_deref(), Some("a < b"));
        assert_eq!(root.at("q:x").and_then(|x| x.get("y")), Some("1 & \"2'"));
        assert_eq!(Element::parse(&root.to_string(), "domain")?, root);
        Ok(())
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let deep = "<a>".repeat(100_000);
        let wide = format!("<domain>{}</domain>", "<a/>".repeat(ELEMENTS_MAX + 1));
        for text in [
            "",
            "<a/>",
            "<domain>",
            "</domain>",
            "<domain/><domain/>",
            "<domain><a></domain></a>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><domain>&b;</domain>",
            "<domain>&b;</domain>",
            "<domain a='1' a='2'/>",
            "<domain><\t/></domain>",
            "<domain>\0</domain>",
            &deep,
            &wide,
        ] {
            assert!(Element::parse(text, "domain").is_err(), "{text:.60}");
        }
    }

    #[test]
    fn elements_are_found_changed_and_dropped() -> Result<(), XmlError> {
        let mut root = Element::parse("<d><a n='1'/>x<b/><a n='2'/></d>", "d")?;
        assert_eq!(root.all("a").count(), 2);
        assert_eq!(root.retain(|child| child.get("n") != Some("1")), 1);
        root.put(Element::with_text("b", "y"));
        assert_eq!(root.to_string(), "<d>x<b>y</b><a n='2'/></d>");
        Ok(())
    }
}
