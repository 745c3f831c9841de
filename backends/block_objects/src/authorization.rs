//! `authz-simple`, `authz-list` and `authz-list-file`: who may use an export, by the name a client has proved.

use rhea_block::{BlockError, Result};
use rhea_options::Options;
use serde_json::Value;

use crate::{bad_value, missing, refuse_others};

/// A file of rules beyond this is a mistake.
const MAX_FILE: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    Exact(String),
    Glob(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    matches: Match,
    policy: Policy,
}

/// Rules in order; the first that matches decides, else the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    policy: Policy,
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Kind {
    Simple(String),
    List(Rules),
    /// Read anew for each question (`refresh=on`).
    File(String),
}

/// Decides whether a client may do what it asks for.
#[derive(Debug)]
pub struct Authorization(Kind);

impl Policy {
    fn from_word(word: &str) -> Result<Self> {
        match word {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(bad_value("policy", word)),
        }
    }
}

impl Rule {
    fn new(matches: String, policy: &str, format: &str) -> Result<Self> {
        let matches = match format {
            "exact" => Match::Exact(matches),
            "glob" => Match::Glob(matches),
            _ => return Err(bad_value("format", format)),
        };
        Ok(Self { matches, policy: Policy::from_word(policy)? })
    }

    fn matches(&self, identity: &str) -> bool {
        match &self.matches {
            Match::Exact(text) => text == identity,
            Match::Glob(pattern) => glob(pattern.as_bytes(), identity.as_bytes()),
        }
    }
}

/// Whether text matches a shell's pattern: `*` any bytes, `?` one byte, `\` the next byte as it is.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // On a mismatch the last star takes one byte more; earlier ones need not be tried again.
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    loop {
        let (matched, width) = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => (t < text.len(), 1),
            Some(b'\\') if p + 1 < pattern.len() => (text.get(t) == Some(&pattern[p + 1]), 2),
            Some(byte) => (text.get(t) == Some(byte), 1),
            None if t == text.len() => return true,
            None => (false, 0),
        };
        if matched {
            p += width;
            t += 1;
            continue;
        }
        match &mut star {
            Some((after, from)) if *from < text.len() => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            _ => return false,
        }
    }
}

impl Rules {
    fn allows(&self, identity: &str) -> bool {
        let rule = self.rules.iter().find(|rule| rule.matches(identity));
        rule.map_or(self.policy, |rule| rule.policy) == Policy::Allow
    }

    /// `{"policy": "deny", "rules": [{"match": "*,CN=fred", "policy": "allow", "format": "glob"}]}`
    fn from_json(text: &str, filename: &str) -> Result<Self> {
        let malformed = |what: &str| {
            BlockError::invalid(format!("Unable to parse authorization list '{filename}': {what}"))
        };
        let value: Value = serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))?;
        let object = value.as_object().ok_or_else(|| malformed("not an object"))?;
        let word = |value: Option<&Value>, default: &str, key: &str| match value {
            None => Ok(default.to_owned()),
            Some(Value::String(word)) => Ok(word.clone()),
            Some(_) => Err(malformed(&format!("'{key}' is not a string"))),
        };
        if let Some(key) = object.keys().find(|key| !["policy", "rules"].contains(&key.as_str())) {
            return Err(malformed(&format!("'{key}' is unexpected")));
        }
        let policy = Policy::from_word(&word(object.get("policy"), "deny", "policy")?)?;
        let mut rules = Vec::new();
        let list = match object.get("rules") {
            None => &[][..],
            Some(Value::Array(list)) => list,
            Some(_) => return Err(malformed("'rules' is not a list")),
        };
        for rule in list {
            let rule = rule.as_object().ok_or_else(|| malformed("a rule is not an object"))?;
            if let Some(key) = rule.keys().find(|key| !["match", "policy", "format"].contains(&key.as_str()))
            {
                return Err(malformed(&format!("'{key}' is unexpected")));
            }
            let matches = rule.get("match").ok_or_else(|| missing("match"))?;
            let policy = rule.get("policy").ok_or_else(|| missing("policy"))?;
            rules.push(Rule::new(
                word(Some(matches), "", "match")?,
                &word(Some(policy), "", "policy")?,
                &word(rule.get("format"), "exact", "format")?,
            )?);
        }
        Ok(Self { policy, rules })
    }

    fn from_file(filename: &str) -> Result<Self> {
        let failed = |reason: BlockError| {
            BlockError::new(reason.errno(), format!("Unable to read '{filename}': {reason}"))
        };
        let length = std::fs::metadata(filename).map_err(|error| failed(error.into()))?.len();
        if length > MAX_FILE {
            return Err(failed(BlockError::os(libc::EFBIG)));
        }
        let text = std::fs::read_to_string(filename).map_err(|error| failed(error.into()))?;
        Self::from_json(&text, filename)
    }
}

impl Authorization {
    pub(crate) fn take_simple(options: &mut Options) -> Result<Self> {
        let identity = options.take::<String>("identity")?.ok_or_else(|| missing("identity"))?;
        refuse_others(options)?;
        Ok(Self(Kind::Simple(identity)))
    }

    pub(crate) fn take_list(options: &mut Options) -> Result<Self> {
        let policy = Policy::from_word(&options.take::<String>("policy")?.unwrap_or_else(|| "deny".into()))?;
        let mut rules = Vec::new();
        loop {
            let mut rule = options.take_object(&format!("rules.{}", rules.len()));
            if rule.is_empty() {
                break;
            }
            let matches = rule.take::<String>("match")?.ok_or_else(|| missing("match"))?;
            let policy = rule.take::<String>("policy")?.ok_or_else(|| missing("policy"))?;
            let format = rule.take::<String>("format")?.unwrap_or_else(|| "exact".into());
            refuse_others(&rule)?;
            rules.push(Rule::new(matches, &policy, &format)?);
        }
        refuse_others(options)?;
        Ok(Self(Kind::List(Rules { policy, rules })))
    }

    pub(crate) fn take_list_file(options: &mut Options) -> Result<Self> {
        let filename = options.take::<String>("filename")?.ok_or_else(|| missing("filename"))?;
        let refresh = options.take::<bool>("refresh")?.unwrap_or(true);
        refuse_others(options)?;
        let rules = Rules::from_file(&filename)?;
        Ok(Self(if refresh { Kind::File(filename) } else { Kind::List(rules) }))
    }

    /// Whether the client of this name (a certificate's subject, see
    /// [`distinguished_name`](crate::distinguished_name)) is let in. An error (a list that cannot be read) means no.
    pub fn is_allowed(&self, identity: &str) -> Result<bool> {
        match &self.0 {
            Kind::Simple(name) => Ok(name == identity),
            Kind::List(rules) => Ok(rules.allows(identity)),
            Kind::File(filename) => Ok(Rules::from_file(filename)?.allows(identity)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rhea_block::Objects;

    use super::*;
    use crate::{add_object, authorization};

    #[test]
    fn the_first_rule_that_matches_decides() {
        let objects = Objects::default();
        let text = "authz-list,id=l,policy=deny,rules.0.match=CN=bad,,O=*,rules.0.policy=deny,rules.0.format=glob,\
                    rules.1.match=*,,O=us,rules.1.policy=allow,rules.1.format=glob,\
                    rules.2.match=CN=x*,rules.2.policy=allow";
        add_object(&objects, text).unwrap();
        let list = authorization(&objects, "l").unwrap();
        for (name, allowed) in [
            ("CN=bad,O=us", false),
            ("CN=ok,O=us", true),
            ("CN=ok,O=them", false),
            ("CN=x*", true),
            ("CN=xy", false),
        ] {
            assert_eq!(list.is_allowed(name).unwrap(), allowed, "{name}");
        }
    }

    #[test]
    fn files_are_read_again() {
        let path = std::env::temp_dir().join(format!("rhea-authz-{}", std::process::id()));
        let objects = Objects::default();
        std::fs::write(&path, r#"{"policy":"allow"}"#).unwrap();
        add_object(&objects, &format!("authz-list-file,id=f,filename={}", path.display())).unwrap();
        let list = authorization(&objects, "f").unwrap();
        assert!(list.is_allowed("a").unwrap());
        std::fs::write(&path, r#"{"rules":[{"match":"b","policy":"allow"}]}"#).unwrap();
        assert!(!list.is_allowed("a").unwrap());
        assert!(list.is_allowed("b").unwrap());
        std::fs::write(&path, "{").unwrap();
        assert!(list.is_allowed("b").is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn patterns() {
        for (pattern, text, matches) in [
            ("a*b*c", "a12b34c", true),
            ("a*b*c", "a12b34", false),
            ("?", "", false),
            ("*", "", true),
            ("**", "x", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("*aab", "aaaab", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }
}
