//! What can be wrong with an option's text.

use crate::suggest::closest;

/// Why an option was refused. The text names the key; the caller puts the option's name in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The text is not `key=value[,…]`.
    #[error("expected a parameter at '{0}'")]
    Syntax(String),
    /// The text began with `{` and is not a JSON object.
    #[error("malformed JSON: {0}")]
    Json(String),
    /// No such key.
    #[error("unknown parameter '{key}'{}", hint(.suggestion))]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The nearest key that exists.
        suggestion: Option<String>,
    },
    /// The value does not fit the key's type.
    #[error("parameter '{key}' expects {expected}, not '{value}'")]
    Invalid {
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What the key takes, as a phrase: "a size", "'on' or 'off'".
        expected: String,
    },
    /// The key stands without a value.
    #[error("parameter '{key}' needs a value ({expected})")]
    NoValue {
        /// The key.
        key: String,
        /// What the key takes.
        expected: String,
    },
    /// A key that must be there is not.
    #[error("parameter '{0}' is missing")]
    Missing(String),
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|s| format!("; did you mean '{s}'?")).unwrap_or_default()
}

impl OptionError {
    /// An unknown key, with the nearest of `known` as a hint.
    pub fn unknown_key<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::UnknownKey { key: key.into(), suggestion: closest(key, known).map(str::to_owned) }
    }
}
