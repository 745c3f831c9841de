//! The text form: `[implied-value,]key=value,flag,…` to [`Options`] and back.

use std::fmt;

use crate::value::OptionValue;
use crate::{OptionError, json};

/// One parameter. A key without `=` has no value; what that means depends on the key's type (a switch is on).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, dotted for members of objects (`server.host`) and lists (`path.0`).
    pub key: String,
    /// The value with doubled commas undone.
    pub value: Option<String>,
}

/// The parameters of one option, in the order given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    entries: Vec<Entry>,
}

impl Options {
    /// Parses the text of an option. A first word without `=` is the value of `implied`, if there is one. Text that
    /// begins with `{` is a JSON object.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self, OptionError> {
        if text.starts_with('{') {
            return Ok(Self { entries: json::parse_object(text)? });
        }
        let mut entries = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = rest;
            let end = rest.find(['=', ',']).unwrap_or(rest.len());
            let entry = if rest[end..].starts_with('=') {
                let key = rest[..end].to_owned();
                let (value, after) = take_value(&rest[end + 1..]);
                rest = after;
                Entry { key, value: Some(value) }
            } else {
                let (word, after) = take_value(rest);
                rest = after;
                match implied {
                    Some(key) if entries.is_empty() && !is_help(&word) => {
                        Entry { key: key.into(), value: Some(word) }
                    }
                    _ => Entry { key: word, value: None },
                }
            };
            if entry.key.is_empty() {
                return Err(OptionError::Syntax(at.to_owned()));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// Options from entries made elsewhere.
    pub fn from_entries(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True when `help` or `?` stands among the parameters.
    pub fn wants_help(&self) -> bool {
        self.entries.iter().any(|e| e.value.is_none() && is_help(&e.key))
    }

    /// The value of a key, the last one given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().rev().find(|e| e.key == key).and_then(|e| e.value.as_deref())
    }

    /// Sets a key, replacing what was there.
    pub fn set(&mut self, key: &str, value: &str) {
        self.entries.retain(|e| e.key != key);
        self.entries.push(Entry { key: key.into(), value: Some(value.into()) });
    }

    /// Appends another option's parameters: a later one of the same key wins.
    pub fn merge(&mut self, later: Options) {
        self.entries.extend(later.entries);
    }

    /// Removes a key and returns its value, the last one given.
    pub fn take<T: OptionValue>(&mut self, key: &str) -> Result<Option<T>, OptionError> {
        Ok(self.take_all(key)?.pop())
    }

    /// Removes a key and returns all its values; `key=…` repeated and list members `key.0`, `key.1`… alike.
    pub fn take_all<T: OptionValue>(&mut self, key: &str) -> Result<Vec<T>, OptionError> {
        let (matching, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|e| e.key == key);
        self.entries = others;
        matching.iter().map(T::from_entry).collect()
    }

    /// Removes the members `key.0`, `key.1`… of a list and returns them in the order of their indices.
    pub fn take_members<T: OptionValue>(&mut self, key: &str) -> Result<Vec<T>, OptionError> {
        let index = |e: &Entry| -> Option<u32> { e.key.strip_prefix(key)?.strip_prefix('.')?.parse().ok() };
        let (mut matching, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|e| index(e).is_some());
        self.entries = others;
        matching.sort_by_key(index);
        matching.iter().map(T::from_entry).collect()
    }

    /// Removes the members `key.*` of an object and returns them without the prefix.
    pub fn take_object(&mut self, key: &str) -> Options {
        let mut taken = Vec::new();
        self.entries.retain(|e| match e.key.strip_prefix(key).and_then(|k| k.strip_prefix('.')) {
            Some(member) if !member.is_empty() => {
                taken.push(Entry { key: member.into(), value: e.value.clone() });
                false
            }
            _ => true,
        });
        Options { entries: taken }
    }

    /// Ends extraction: a key that nobody took is unknown.
    pub fn finish<'a>(self, known: impl IntoIterator<Item = &'a str>) -> Result<(), OptionError> {
        match self.entries.first() {
            None => Ok(()),
            Some(entry) => Err(OptionError::unknown_key(&entry.key, known)),
        }
    }
}

/// `help` and its short form.
fn is_help(word: &str) -> bool {
    word == "help" || word == "?"
}

/// Takes a value up to a single comma, undoing doubled ones; returns it and what follows the comma.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        value.push_str(&rest[..comma]);
        let after = &rest[comma + 1..];
        match after.strip_prefix(',') {
            Some(next) => {
                value.push(',');
                rest = next;
            }
            None => return (value, after),
        }
    }
    value.push_str(rest);
    (value, "")
}

/// The text form, which parses to the same options (without an implied key).
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            if index != 0 {
                f.write_str(",")?;
            }
            match &entry.value {
                Some(value) => write!(f, "{}={}", entry.key, value.replace(',', ",,"))?,
                None => f.write_str(&entry.key.replace(',', ",,"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(options: &Options) -> Vec<(&str, Option<&str>)> {
        options.entries().iter().map(|e| (e.key.as_str(), e.value.as_deref())).collect()
    }

    #[test]
    fn first_word_takes_the_implied_key() {
        let o = Options::parse("4,cores=2", Some("cpus")).unwrap();
        assert_eq!(pairs(&o), [("cpus", Some("4")), ("cores", Some("2"))]);
    }

    #[test]
    fn doubled_commas_are_one() {
        let o = Options::parse("path=a,,b,,,flag", None).unwrap();
        assert_eq!(pairs(&o), [("path", Some("a,b,")), ("flag", None)]);
        let o = Options::parse("a,,b", Some("file")).unwrap();
        assert_eq!(pairs(&o), [("file", Some("a,b"))]);
    }

    #[test]
    fn a_value_may_contain_equals_signs() {
        let o = Options::parse("k=a=b", None).unwrap();
        assert_eq!(pairs(&o), [("k", Some("a=b"))]);
    }

    #[test]
    fn an_empty_key_is_refused() {
        assert_eq!(Options::parse("=x", None), Err(OptionError::Syntax("=x".into())));
        assert!(Options::parse("a=1,,=2", None).is_ok());
        assert!(Options::parse("a=1,=2", None).is_err());
    }

    #[test]
    fn help_is_seen_before_the_implied_key() {
        assert!(Options::parse("help", Some("type")).unwrap().wants_help());
        assert!(Options::parse("q35,?", Some("type")).unwrap().wants_help());
        assert!(!Options::parse("type=help", None).unwrap().wants_help());
    }

    #[test]
    fn members_of_objects_and_lists() {
        let mut o = Options::parse("server.host=h,server.port=1,path.1=b,path.0=a", None).unwrap();
        assert_eq!(pairs(&o.take_object("server")), [("host", Some("h")), ("port", Some("1"))]);
        assert_eq!(o.take_members::<String>("path").unwrap(), ["a", "b"]);
        assert!(o.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Options::parse(&text, None);
            let _ = Options::parse(&text, Some("implied"));
        }

        #[test]
        fn no_dense_text_panics(text in "[{}\\[\\]\":,=.a0?]{0,40}") {
            let _ = Options::parse(&text, None);
            let _ = Options::parse(&text, Some("implied"));
        }

        #[test]
        fn what_is_printed_parses_back(
            entries in prop::collection::vec(("[a-z+?-][a-z0-9._-]{0,8}", prop::option::of(any::<String>())), 0..6)
        ) {
            let entries: Vec<Entry> = entries.into_iter().map(|(key, value)| Entry { key, value }).collect();
            let options = Options::from_entries(entries);
            let text = options.to_string();
            // An empty trailing value leaves nothing to see after the comma it would need.
            prop_assert_eq!(Options::parse(&text, None).unwrap(), options);
        }
    }
}
