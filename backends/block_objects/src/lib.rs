//! What `--object` makes: [`add_object`] turns its text into an object in the registry's [`Objects`], where options refer
//! to it by id.
//!
//! | kind | what is stored | found by |
//! |---|---|---|
//! | `secret` | bytes | [`Objects::get`] |
//! | `tls-creds-x509` | [`TlsCredentials`] | [`tls_credentials`] |
//! | `authz-simple`, `authz-list`, `authz-list-file` | [`Authorization`] | [`authorization`] |
//! | `throttle-group` | [`ThrottleGroup`] | [`throttle_group`] |
//!
//! Kinds that QEMU has and Rhea does not are refused by name.

mod authorization;
mod secret;
mod throttle;
mod tls;

use std::sync::Arc;

use rhea_block::{BlockError, Objects, Result};
use rhea_options::Options;

pub use authorization::Authorization;
pub use throttle::{Bucket, ThrottleGroup, ThrottleLimits};
pub use tls::{Endpoint, TlsCredentials, distinguished_name};

/// A kind of objects: its name, the properties its help lists, and how one is made.
struct Kind {
    name: &'static str,
    properties: &'static [&'static str],
    make: fn(&Objects, &str, &mut Options) -> Result<()>,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "authz-list",
        properties: &["policy=<QAuthZListPolicy>", "rules=<QAuthZListRule>"],
        make: |objects, id, options| {
            objects.add_object(id, "authz-list", Arc::new(Authorization::take_list(options)?))
        },
    },
    Kind {
        name: "authz-list-file",
        properties: &["filename=<string>", "refresh=<bool>"],
        make: |objects, id, options| {
            objects.add_object(id, "authz-list-file", Arc::new(Authorization::take_list_file(options)?))
        },
    },
    Kind {
        name: "authz-simple",
        properties: &["identity=<string>"],
        make: |objects, id, options| {
            objects.add_object(id, "authz-simple", Arc::new(Authorization::take_simple(options)?))
        },
    },
    Kind {
        name: "secret",
        properties: &[
            "data=<string>",
            "file=<string>",
            "format=<QCryptoSecretFormat>",
            "iv=<string>",
            "keyid=<string>",
        ],
        make: |objects, id, options| {
            let bytes = secret::take(options, objects)?;
            refuse_others(options)?;
            objects.add(id, bytes)
        },
    },
    Kind {
        name: "throttle-group",
        properties: throttle::PROPERTIES,
        make: |objects, id, options| {
            objects.add_object(id, "throttle-group", Arc::new(ThrottleGroup::take(options)?))
        },
    },
    Kind {
        name: "tls-creds-x509",
        properties: &[
            "dir=<string>",
            "endpoint=<QCryptoTLSCredsEndpoint>",
            "passwordid=<string>",
            "priority=<string>",
            "sanity-check=<bool>",
            "verify-peer=<bool>",
        ],
        make: |objects, id, options| {
            let credentials = TlsCredentials::take(options, objects)?;
            objects.add_object(id, "tls-creds-x509", Arc::new(credentials))
        },
    },
];

/// Kinds that QEMU's tools know and Rhea does not, and why.
const ABSENT: [(&str, &str); 9] = [
    ("authz-pam", "authorization by PAM"),
    ("iothread", "I/O threads chosen by the user"),
    ("main-loop", "tuning of the main loop"),
    ("pr-manager-helper", "persistent reservations"),
    ("secret_keyring", "secrets in the kernel's keyring"),
    ("thread-context", "thread contexts"),
    ("tls-creds", "TLS credentials of no kind"),
    ("tls-creds-anon", "anonymous TLS, which protects from nobody who can answer for the server"),
    ("tls-creds-psk", "TLS with pre-shared keys"),
];

/// Refuses properties that nobody took.
fn refuse_others(options: &Options) -> Result<()> {
    match options.entries().first() {
        Some(entry) => Err(BlockError::invalid(format!("Parameter '{}' is unexpected", entry.key))),
        None => Ok(()),
    }
}

fn bad_value(key: &str, word: &str) -> BlockError {
    BlockError::invalid(format!("Parameter '{key}' does not accept value '{word}'"))
}

fn missing(key: &str) -> BlockError {
    BlockError::invalid(format!("Parameter '{key}' is missing"))
}

/// Makes the object that the text of an `--object` option describes (`secret,id=sec0,data=…`, or a JSON object) and
/// returns its id.
pub fn add_object(objects: &Objects, text: &str) -> Result<String> {
    let mut options = Options::parse(text, Some("qom-type"))?;
    add_object_options(objects, &mut options)
}

/// Like [`add_object`], from parsed options with `qom-type` and `id` among them.
pub fn add_object_options(objects: &Objects, options: &mut Options) -> Result<String> {
    let name = options.take::<String>("qom-type")?.ok_or_else(|| missing("qom-type"))?;
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        match ABSENT.iter().find(|(absent, _)| *absent == name) {
            Some((_, what)) => {
                BlockError::unsupported(format!("object type '{name}' ({what}) is not supported"))
            }
            None => bad_value("qom-type", &name),
        }
    })?;
    let id = options.take::<String>("id")?.ok_or_else(|| missing("id"))?;
    if !is_identifier(&id) {
        return Err(BlockError::invalid("Parameter 'id' expects an identifier")
            .with_hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."));
    }
    (kind.make)(objects, &id, options)?;
    Ok(id)
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// The help that an `--object` option asks for (`help`, or `secret,help`); `None` if it asks for none.
pub fn object_help(text: &str) -> Option<String> {
    let options = Options::parse(text, Some("qom-type")).ok()?;
    if !options.wants_help() {
        return None;
    }
    let kind = options.get("qom-type").and_then(|name| KINDS.iter().find(|kind| kind.name == name));
    Some(match kind {
        Some(kind) => {
            let lines: String = kind.properties.iter().map(|line| format!("  {line}\n")).collect();
            format!("{} options:\n{lines}", kind.name)
        }
        None => {
            let lines: String = KINDS.iter().map(|kind| format!("  {}\n", kind.name)).collect();
            format!("List of user creatable objects:\n{lines}")
        }
    })
}

/// The TLS credentials of an id.
pub fn tls_credentials(objects: &Objects, id: &str) -> Result<Arc<TlsCredentials>> {
    match objects.object(id, "TLS credentials") {
        Err(error) if !objects.list().iter().any(|(other, _)| other == id) => {
            Err(BlockError::new(error.errno(), format!("No TLS credentials with id '{id}'")))
        }
        other => other,
    }
}

/// The authorization of an id.
pub fn authorization(objects: &Objects, id: &str) -> Result<Arc<Authorization>> {
    objects.object(id, "authz")
}

/// The throttle group of an id.
pub fn throttle_group(objects: &Objects, id: &str) -> Result<Arc<ThrottleGroup>> {
    objects.object(id, "throttle-group")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        add_object(&Objects::default(), text).unwrap_err().to_string()
    }

    #[test]
    fn objects_need_a_kind_and_an_id() {
        assert_eq!(refused("id=x"), "Parameter 'qom-type' is missing");
        assert_eq!(refused("foo,id=x"), "Parameter 'qom-type' does not accept value 'foo'");
        assert_eq!(refused("secret,data=a"), "Parameter 'id' is missing");
        assert_eq!(refused("secret,id=1x,data=a"), "Parameter 'id' expects an identifier");
        assert_eq!(refused("secret,id=x,data=a,foo=1"), "Parameter 'foo' is unexpected");
        assert!(refused("tls-creds-psk,id=x,dir=/tmp").contains("tls-creds-psk"));
        let objects = Objects::default();
        assert_eq!(add_object(&objects, r#"{"qom-type":"secret","id":"x","data":"a"}"#).unwrap(), "x");
        assert_eq!(
            add_object(&objects, "authz-simple,id=x,identity=b").unwrap_err().to_string(),
            "attempt to add duplicate property 'x' to object (type 'container')"
        );
        assert!(authorization(&objects, "x").is_err());
        assert!(tls_credentials(&objects, "y").is_err());
    }

    #[test]
    fn help_lists_kinds_and_properties() {
        assert!(object_help("help").unwrap().contains("  tls-creds-x509\n"));
        assert_eq!(object_help("authz-simple,help").unwrap(), "authz-simple options:\n  identity=<string>\n");
        assert_eq!(object_help("secret,id=x,data=help"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(secret|authz-list|throttle-group)?,?[a-z.=,0-9-]{0,60}") {
            let _ = add_object(&Objects::default(), &text);
            let _ = object_help(&text);
        }
    }
}
