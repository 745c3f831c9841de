//! Device properties, declared once: they parse `-device` arguments and print `-device X,help`.

/// Kind of value a property takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyKind {
    /// Unsigned integer (decimal, or hexadecimal with `0x`), at most this many bits.
    Unsigned(u32),
    /// `on` or `off`.
    Bool,
    /// Any text.
    Text,
    /// The id of a character device back end.
    Chardev,
}

impl PropertyKind {
    /// Name of the type in help texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsigned(8) => "uint8",
            Self::Unsigned(16) => "uint16",
            Self::Unsigned(32) => "uint32",
            Self::Unsigned(_) => "uint64",
            Self::Bool => "bool",
            Self::Text | Self::Chardev => "str",
        }
    }
}

/// One property of a device.
#[derive(Clone, Copy, Debug)]
pub struct PropertySpec {
    /// Key.
    pub name: &'static str,
    /// Type of the value.
    pub kind: PropertyKind,
    /// What it does, one line.
    pub doc: &'static str,
    /// Default, as it would be written; empty if there is none.
    pub default: &'static str,
}

/// What `-device help` and `-device NAME,help` say of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceDescription {
    /// Name of the device.
    pub name: &'static str,
    /// Bus it sits on.
    pub bus: &'static str,
    /// What it is, one line.
    pub doc: &'static str,
    /// Its properties.
    pub properties: &'static [PropertySpec],
}

impl DeviceDescription {
    /// The property called `name`.
    pub fn property(&self, name: &str) -> Option<&'static PropertySpec> {
        self.properties.iter().find(|property| property.name == name)
    }

    /// Help text: a line for each property.
    pub fn help(&self) -> String {
        let mut text = format!("{} options:\n", self.name);
        for property in self.properties {
            let head = format!("{}=<{}>", property.name, property.kind.name());
            let default = if property.default.is_empty() {
                String::new()
            } else {
                format!(" (default: {})", property.default)
            };
            text.push_str(&format!("  {head:<22} - {}{default}\n", property.doc));
        }
        text
    }
}

/// A property that cannot be set as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// No such property.
    #[error("{device}: there is no property '{name}'")]
    Unknown {
        /// Device name.
        device: &'static str,
        /// Key given.
        name: String,
    },
    /// The value is not of the property's type.
    #[error("{device}: property '{name}' does not take '{value}' (a {kind} is wanted)")]
    BadValue {
        /// Device name.
        device: &'static str,
        /// Key.
        name: &'static str,
        /// Value given.
        value: String,
        /// Name of the type.
        kind: &'static str,
    },
    /// A property without default was not given.
    #[error("{device}: property '{name}' must be given")]
    Missing {
        /// Device name.
        device: &'static str,
        /// Key.
        name: &'static str,
    },
}

/// Parses an unsigned integer of at most `bits` bits: decimal, `0x` hexadecimal or `0` octal.
pub fn parse_number(text: &str, bits: u32) -> Option<u64> {
    let value = if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?
    } else if text.len() > 1 && text.starts_with('0') {
        u64::from_str_radix(&text[1..], 8).ok()?
    } else if text.starts_with(|c: char| c.is_ascii_digit()) {
        text.parse().ok()?
    } else {
        return None;
    };
    (bits >= 64 || value < 1 << bits).then_some(value)
}

/// A type of value a property field can have.
pub trait PropertyValue: Sized {
    /// Parses the text of a value of `kind`.
    fn parse(text: &str, kind: PropertyKind) -> Option<Self>;
}

impl PropertyValue for u64 {
    fn parse(text: &str, kind: PropertyKind) -> Option<Self> {
        let PropertyKind::Unsigned(bits) = kind else { return None };
        parse_number(text, bits)
    }
}

impl PropertyValue for bool {
    fn parse(text: &str, _: PropertyKind) -> Option<Self> {
        match text {
            "on" | "yes" | "true" | "y" => Some(true),
            "off" | "no" | "false" | "n" => Some(false),
            _ => None,
        }
    }
}

impl PropertyValue for String {
    fn parse(text: &str, _: PropertyKind) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// Declares a device's properties: a struct with one field for each, its defaults, its parser and its help.
///
/// ```
/// rhea_device::properties! {
///     /// Settings of the example device.
///     pub struct ExampleProperties ("example-device", "ISA", "an example") {
///         iobase: u64 = ("iobase", Unsigned(16), "first port", "0x100"),
///     }
/// }
/// let settings = ExampleProperties::parse([("iobase", "0x200")]).unwrap();
/// assert_eq!(settings.iobase, 0x200);
/// ```
#[macro_export]
macro_rules! properties {
    ($(#[$meta:meta])* $vis:vis struct $ty:ident ($device:literal, $bus:literal, $ddoc:literal) {
        $($field:ident : $fty:ty =
            ($key:literal, $kind:ident $(($bits:literal))?, $doc:literal, $default:literal)),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $ty { $(#[doc = $doc] pub $field: $fty),* }
        impl $ty {
            /// Name, documentation and properties.
            pub const DESCRIPTION: $crate::DeviceDescription = $crate::DeviceDescription {
                name: $device,
                bus: $bus,
                doc: $ddoc,
                properties: &[$($crate::PropertySpec {
                    name: $key,
                    kind: $crate::PropertyKind::$kind $(($bits))?,
                    doc: $doc,
                    default: $default,
                }),*],
            };
            /// Reads the properties from keys and values; a key given twice counts the second time.
            ///
            /// # Errors
            /// An unknown key, a value of the wrong type, or a property without default that is not given.
            pub fn parse<'a>(
                given: impl IntoIterator<Item = (&'a str, &'a str)>,
            ) -> Result<Self, $crate::PropertyError> {
                $(let mut $field: Option<$fty> = None;)*
                for (key, value) in given {
                    match key {
                        $($key => {
                            let kind = $crate::PropertyKind::$kind $(($bits))?;
                            let parsed = <$fty as $crate::PropertyValue>::parse(value, kind);
                            $field = Some(parsed.ok_or_else(|| $crate::PropertyError::BadValue {
                                device: $device,
                                name: $key,
                                value: value.to_owned(),
                                kind: kind.name(),
                            })?);
                        })*
                        _ => {
                            return Err($crate::PropertyError::Unknown { device: $device, name: key.to_owned() });
                        }
                    }
                }
                Ok(Self { $($field: match $field {
                    Some(value) => value,
                    None => <$fty as $crate::PropertyValue>::parse(
                        $default,
                        $crate::PropertyKind::$kind $(($bits))?,
                    )
                    .filter(|_| !$default.is_empty())
                    .ok_or($crate::PropertyError::Missing { device: $device, name: $key })?,
                }),* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::properties! {
        /// Test device.
        struct Sample ("sample", "ISA", "a sample") {
            iobase: u64 = ("iobase", Unsigned(16), "first port", "0x501"),
            backend: String = ("chardev", Chardev, "output", ""),
        }
    }

    #[test]
    fn defaults_values_and_errors() {
        let sample = Sample::parse([("chardev", "c0")]).unwrap();
        assert_eq!((sample.iobase, sample.backend.as_str()), (0x501, "c0"));
        assert!(matches!(Sample::parse([]), Err(PropertyError::Missing { name: "chardev", .. })));
        let bad = Sample::parse([("iobase", "0x10000")]).unwrap_err();
        assert_eq!(bad.to_string(), "sample: property 'iobase' does not take '0x10000' (a uint16 is wanted)");
        assert!(matches!(Sample::parse([("nope", "1")]), Err(PropertyError::Unknown { .. })));
        assert!(Sample::DESCRIPTION.help().contains("iobase=<uint16>        - first port (default: 0x501)"));
    }
}
