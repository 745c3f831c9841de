//! What of URLs (RFC 3986) is needed here: their parts, and relative references.

use rhea_block::{BlockError, Result};

/// The parts of an absolute `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// In lower case.
    pub(crate) scheme: String,
    /// `user` and `password`, decoded.
    pub(crate) user: Option<(String, String)>,
    /// With the port, as it stands in the URL.
    pub(crate) authority: String,
    /// From the path's `/` on, with the query, without the fragment.
    pub(crate) path: String,
}

/// Undoes `%41`; what is no such escape stays.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |at: usize| bytes.get(at).and_then(|&b| (b as char).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Characters that may not stand in a request are escaped, as users paste names with spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if !b"\"<>\\^`{|}".contains(&byte) => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = || BlockError::invalid(format!("'{text}' is not a valid URL"));
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                (Some((percent_decode(user), percent_decode(password))), authority)
            }
            None => (None, authority),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:[]%".contains(c);
        if authority.is_empty() || !authority.chars().all(plain) {
            return Err(invalid());
        }
        let path = match path.strip_prefix('/') {
            Some(_) => escape(path),
            None => format!("/{}", escape(path)),
        };
        let authority = authority.to_ascii_lowercase();
        Ok(Self { scheme: scheme.to_ascii_lowercase(), user, authority, path })
    }

    /// The URL without user and password.
    pub(crate) fn text(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.path)
    }

    /// Whether two URLs are on the same server, which may see the same credentials.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.authority == other.authority
    }

    /// The URL that a reference (a redirect's `Location`) means, seen from this one.
    pub(crate) fn join(&self, reference: &str) -> Result<Self> {
        if reference.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(['/', '?', '#'])) {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme));
        }
        let reference = reference.split('#').next().unwrap_or_default();
        let folder_end = self.path.split('?').next().and_then(|path| path.rfind('/')).map_or(0, |at| at + 1);
        let path = match reference.chars().next() {
            Some('/') => reference.to_owned(),
            Some('?') => format!("{}{reference}", self.path.split('?').next().unwrap_or_default()),
            Some(_) => format!("{}{reference}", &self.path[..folder_end]),
            None => self.path.clone(),
        };
        let path = remove_dots(&escape(&path));
        Ok(Self { path, user: None, ..self.clone() })
    }
}

/// Resolves `.` and `..` (RFC 3986, section 5.2.4).
fn remove_dots(path: &str) -> String {
    let (path, query) = match path.find('?') {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_found() {
        let url = Url::parse("HTTPS://us%40er:p%3Aw@Host:8443/a b?c=d#e").unwrap();
        assert_eq!(url.user, Some(("us@er".into(), "p:w".into())));
        assert_eq!(url.text(), "https://host:8443/a%20b?c=d");
        assert_eq!(Url::parse("http://[::1]:80").unwrap().text(), "http://[::1]:80/");
        assert!(Url::parse("http:///x").is_err());
        assert!(Url::parse("http://a b/x").is_err());
    }

    #[test]
    fn references_are_resolved() {
        let url = Url::parse("http://h/a/b?q").unwrap();
        for (reference, expected) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "http://x/y"),
            ("/c", "http://h/c"),
            ("c?http://x", "http://h/a/c?http://x"),
            ("../c", "http://h/c"),
            ("../../../c/.", "http://h/c/"),
            ("?r", "http://h/a/b?r"),
        ] {
            assert_eq!(url.join(reference).unwrap().text(), expected, "{reference}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), reference in "[a-z./?#:%]{0,20}") {
            if let Ok(url) = Url::parse(&format!("http://{text}")) {
                let _ = url.join(&reference);
                let _ = url.join(&text);
                prop_assert!(Url::parse(&url.text()).is_ok());
            }
        }
    }
}
