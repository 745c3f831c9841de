//! Options declared once, as a struct: extraction with types, refusal of unknown keys, and the help text.

use crate::value::OptionValue;
use crate::{OptionError, Options};

/// One key in a help text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDoc {
    /// The key.
    pub key: &'static str,
    /// What it takes.
    pub placeholder: String,
    /// What it does.
    pub doc: String,
}

/// A struct that is filled from [`Options`]; declared with [`options!`](crate::options!).
pub trait FromOptions: Sized {
    /// The key that the first word has when it stands alone.
    const IMPLIED: Option<&'static str>;

    /// The keys, with what they take and do.
    fn fields() -> Vec<FieldDoc>;

    /// Takes every key the struct knows and refuses what is left.
    fn from_options(options: Options) -> Result<Self, OptionError>;

    /// Parses text to the struct.
    fn parse(text: &str) -> Result<Self, OptionError> {
        Self::from_options(Options::parse(text, Self::IMPLIED)?)
    }

    /// One line a key.
    fn help() -> String {
        let fields = Self::fields();
        let left: Vec<String> = fields.iter().map(|f| format!("{}={}", f.key, f.placeholder)).collect();
        let width = left.iter().map(String::len).max().unwrap_or(0);
        fields.iter().zip(left).map(|(f, left)| format!("  {left:width$}  {}\n", f.doc)).collect()
    }
}

/// A type that a field of such a struct can have.
pub trait OptionField: Sized {
    /// The type in a help text.
    fn placeholder() -> String;

    /// Takes the key (and its members) out of the options.
    fn take(options: &mut Options, key: &str) -> Result<Self, OptionError>;
}

impl<T: OptionValue> OptionField for Option<T> {
    fn placeholder() -> String {
        T::placeholder()
    }

    fn take(options: &mut Options, key: &str) -> Result<Self, OptionError> {
        options.take(key)
    }
}

impl<T: OptionValue> OptionField for Vec<T> {
    fn placeholder() -> String {
        T::placeholder()
    }

    fn take(options: &mut Options, key: &str) -> Result<Self, OptionError> {
        let mut values = options.take_all(key)?;
        values.extend(options.take_members(key)?);
        Ok(values)
    }
}

/// A member object (`server.host=…`) that is a declared struct itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nested<T>(pub T);

impl<T: FromOptions> OptionField for Nested<T> {
    fn placeholder() -> String {
        "<object>".into()
    }

    fn take(options: &mut Options, key: &str) -> Result<Self, OptionError> {
        T::from_options(options.take_object(key)).map(Self)
    }
}

macro_rules! required_fields {
    ($($type:ty),*) => {$(
        /// Required: the key must be there.
        impl OptionField for $type {
            fn placeholder() -> String {
                <$type as OptionValue>::placeholder()
            }

            fn take(options: &mut Options, key: &str) -> Result<Self, OptionError> {
                options.take(key)?.ok_or_else(|| OptionError::Missing(key.into()))
            }
        }
    )*};
}

required_fields!(
    bool,
    u8,
    u16,
    u32,
    u64,
    String,
    std::path::PathBuf,
    crate::Size,
    crate::MebiSize,
    crate::OnOffAuto
);

/// Declares an option's parameters as a struct.
///
/// ```
/// rhea_options::options! {
///     /// `-smp`
///     pub struct Smp(implied "cpus") {
///         /// processors present at start
///         "cpus" => cpus: Option<u32>,
///         /// processors at most
///         "maxcpus" => maxcpus: Option<u32>,
///     }
/// }
/// use rhea_options::FromOptions;
/// assert_eq!(Smp::parse("4").unwrap().cpus, Some(4));
/// let error = Smp::parse("4,maxcpu=8").unwrap_err();
/// assert_eq!(error.to_string(), "unknown parameter 'maxcpu'; did you mean 'maxcpus'?");
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $((implied $implied:literal))? {
            $( $(#[doc = $doc:literal])+ $key:literal => $field:ident : $type:ty ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        impl $crate::FromOptions for $name {
            const IMPLIED: Option<&'static str> = {
                let implied: Option<&'static str> = None;
                $( let implied = { let _ = implied; Some($implied) }; )?
                implied
            };

            fn fields() -> Vec<$crate::FieldDoc> {
                vec![$( $crate::FieldDoc {
                    key: $key,
                    placeholder: <$type as $crate::OptionField>::placeholder(),
                    doc: [$($doc),+].map(str::trim).join(" "),
                } ),*]
            }

            fn from_options(mut options: $crate::Options) -> Result<Self, $crate::OptionError> {
                let this = Self { $( $field: $crate::OptionField::take(&mut options, $key)?, )* };
                options.finish([$($key),*])?;
                Ok(this)
            }
        }
    };
}

/// Declares an option's value that is one of a few words.
#[macro_export]
macro_rules! option_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $( $(#[doc = $doc])+ $variant ),* }

        #[allow(dead_code, reason = "a declaration need not use all that comes with it")]
        impl $name {
            /// The words with what they mean, for help texts.
            pub const WORDS: &'static [(&'static str, &'static [&'static str])] = &[$( ($word, &[$($doc),+]) ),*];

            /// The word on the command line.
            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word ),* }
            }
        }

        impl $crate::OptionValue for $name {
            fn expected() -> String {
                let words = [$( concat!("'", $word, "'") ),*];
                match words.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => words.concat(),
                }
            }

            fn placeholder() -> String {
                [$($word),*].join("|")
            }

            fn from_text(text: &str) -> Option<Self> {
                match text { $( $word => Some(Self::$variant), )* _ => None }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::{FromOptions, Nested, OptionError};

    option_enum! {
        /// How.
        pub enum Mode {
            /// quickly
            Fast = "fast",
            /// with care
            Slow = "slow",
        }
    }

    options! {
        /// The inner object.
        pub struct Inner {
            /// where
            "host" => host: Option<String>,
        }
    }

    options! {
        /// All kinds of fields.
        pub struct Sample(implied "name") {
            /// who
            "name" => name: String,
            /// how,
            /// in two lines
            "mode" => mode: Option<Mode>,
            /// many
            "path" => path: Vec<String>,
            /// an object
            "server" => server: Nested<Inner>,
            /// a switch
            "on-top" => on_top: Option<bool>,
        }
    }

    #[test]
    fn fields_take_their_values() {
        let s = Sample::parse("n,mode=slow,path=a,path=b,server.host=h,on-top").unwrap();
        assert_eq!(s.name, "n");
        assert_eq!(s.mode, Some(Mode::Slow));
        assert_eq!(s.path, ["a", "b"]);
        assert_eq!(s.server.0.host.as_deref(), Some("h"));
        assert_eq!(s.on_top, Some(true));
    }

    #[test]
    fn the_last_of_a_repeated_key_wins() {
        assert_eq!(Sample::parse("a,name=b").unwrap().name, "b");
    }

    #[test]
    fn errors_name_the_key() {
        let text = |t: &str| Sample::parse(t).unwrap_err().to_string();
        assert_eq!(text("mode=fast"), "parameter 'name' is missing");
        assert_eq!(text("n,mode=quick"), "parameter 'mode' expects 'fast' or 'slow', not 'quick'");
        assert_eq!(text("n,mod=fast"), "unknown parameter 'mod'; did you mean 'mode'?");
        assert_eq!(text("n,server.hots=x"), "unknown parameter 'hots'; did you mean 'host'?");
        assert_eq!(
            Sample::parse("n,zzz"),
            Err(OptionError::UnknownKey { key: "zzz".into(), suggestion: None })
        );
    }

    #[test]
    fn help_lists_every_key() {
        let help = Sample::help();
        assert!(help.contains("mode=fast|slow   how, in two lines\n"), "{help}");
        assert_eq!(help.lines().count(), 5);
    }
}
