//! The JSON form: an object, flattened to dotted keys.

use serde_json::Value;

use crate::{Entry, OptionError};

/// Parses `{"driver":"x","opts":{"a":[1,true]}}` to `driver=x`, `opts.a.0=1`, `opts.a.1=on`. The parser bounds nesting.
pub(crate) fn parse_object(text: &str) -> Result<Vec<Entry>, OptionError> {
    let value: Value = serde_json::from_str(text).map_err(|e| OptionError::Json(e.to_string()))?;
    let mut entries = Vec::new();
    let Value::Object(members) = value else {
        return Err(OptionError::Json("an object is expected".into()));
    };
    for (key, value) in members {
        flatten(key, value, &mut entries)?;
    }
    Ok(entries)
}

fn flatten(key: String, value: Value, entries: &mut Vec<Entry>) -> Result<(), OptionError> {
    let scalar = match value {
        Value::String(text) => text,
        Value::Bool(on) => if on { "on" } else { "off" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null => return Err(OptionError::Json(format!("member '{key}' is null"))),
        Value::Object(members) => {
            for (member, value) in members {
                flatten(format!("{key}.{member}"), value, entries)?;
            }
            return Ok(());
        }
        Value::Array(items) => {
            for (index, value) in items.into_iter().enumerate() {
                flatten(format!("{key}.{index}"), value, entries)?;
            }
            return Ok(());
        }
    };
    if key.is_empty() {
        return Err(OptionError::Json("a member has an empty name".into()));
    }
    entries.push(Entry { key, value: Some(scalar) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Options;

    #[test]
    fn json_is_the_same_as_dotted_text() {
        let json =
            Options::parse(r#"{"driver":"x,y","o":{"list":[1,true],"s":"1G"}}"#, Some("ignored")).unwrap();
        let text = Options::parse("driver=x,,y,o.list.0=1,o.list.1=on,o.s=1G", None).unwrap();
        assert_eq!(json, text);
    }

    #[test]
    fn malformed_json_is_refused() {
        for text in ["{", "{}x", r#"{"a":null}"#, r#"{"":1}"#] {
            assert!(Options::parse(text, None).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Options::parse(&deep, None).is_err());
    }
}
