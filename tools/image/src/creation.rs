//! The options of `-o`: what a format and its file take, their help text, and how they are told when an image is made.

use rhea_block::{BlockError, CreateOption, CreateOptionType, Driver, Registry};
use rhea_options::Options;
use std::sync::Arc;

use crate::failure::{Failure, Outcome};
use crate::size;

/// A format's options in the order, and with the defaults, in which `create` tells them.
struct Announced {
    format: &'static str,
    options: &'static [(&'static str, &'static str)],
}

/// Observed; options that are not here follow in the driver's order.
const ANNOUNCED: &[Announced] = &[
    Announced {
        format: "qcow2",
        options: &[
            ("encryption", ""),
            ("encrypt.format", ""),
            ("encrypt.key-secret", ""),
            ("encrypt.cipher-alg", ""),
            ("encrypt.cipher-mode", ""),
            ("encrypt.ivgen-alg", ""),
            ("encrypt.ivgen-hash-alg", ""),
            ("encrypt.hash-alg", ""),
            ("encrypt.iter-time", ""),
            ("cluster_size", "65536"),
            ("extended_l2", "off"),
            ("preallocation", ""),
            ("compression_type", "zlib"),
            ("size", ""),
            ("compat", ""),
            ("backing_file", ""),
            ("backing_fmt", ""),
            ("data_file", ""),
            ("data_file_raw", ""),
            ("lazy_refcounts", "off"),
            ("refcount_bits", "16"),
        ],
    },
    Announced {
        format: "vmdk",
        options: &[
            ("size", ""),
            ("adapter_type", ""),
            ("backing_file", ""),
            ("backing_fmt", ""),
            ("compat6", "off"),
            ("hwversion", "undefined"),
            ("toolsversion", ""),
            ("subformat", ""),
            ("zeroed_grain", ""),
        ],
    },
    Announced { format: "vdi", options: &[("size", ""), ("static", "off")] },
    Announced {
        format: "vhdx",
        options: &[
            ("size", ""),
            ("log_size", "1048576"),
            ("block_size", "0"),
            ("subformat", ""),
            ("block_state_zero", ""),
        ],
    },
    Announced { format: "vpc", options: &[("size", ""), ("subformat", ""), ("force_size", "")] },
    Announced {
        format: "qed",
        options: &[
            ("size", ""),
            ("backing_file", ""),
            ("backing_fmt", ""),
            ("cluster_size", "65536"),
            ("table_size", ""),
        ],
    },
    Announced { format: "parallels", options: &[("size", ""), ("cluster_size", "1048576")] },
    Announced {
        format: "qcow",
        options: &[
            ("size", ""),
            ("backing_file", ""),
            ("backing_fmt", ""),
            ("encryption", ""),
            ("encrypt.format", ""),
            ("encrypt.key-secret", ""),
        ],
    },
    Announced {
        format: "luks",
        options: &[
            ("size", ""),
            ("key-secret", ""),
            ("cipher-alg", ""),
            ("cipher-mode", ""),
            ("ivgen-alg", ""),
            ("ivgen-hash-alg", ""),
            ("hash-alg", ""),
            ("iter-time", ""),
            ("detached-header", ""),
        ],
    },
    Announced { format: "raw", options: &[("size", "")] },
];

/// The order in which a file's own options are told.
const FILE_ORDER: [&str; 3] = ["nocow", "preallocation", "extent_size_hint"];

/// The options an image of a format takes when it is made in a file of a protocol.
pub(crate) struct Known {
    options: Vec<CreateOption>,
    format: String,
    /// Options that only the file takes; formats that make their file themselves do not know them.
    file_only: Vec<&'static str>,
}

/// Finds the driver of a format to be made, or says why there is none.
pub(crate) fn format_driver<'a>(registry: &'a Registry, format: &str) -> Outcome<&'a Arc<dyn Driver>> {
    registry.driver(format).ok_or_else(|| Failure::new(format!("Unknown file format '{format}'")))
}

/// The driver of the protocol that a file name asks for.
pub(crate) fn protocol_driver<'a>(registry: &'a Registry, filename: &str) -> Outcome<&'a Arc<dyn Driver>> {
    let name = match Registry::protocol_of(filename) {
        // A name that describes a file that is yet to be made.
        Some("json") => "file".to_owned(),
        _ => registry.protocol_options(filename)?.get("driver").unwrap_or("file").to_owned(),
    };
    registry.driver(&name).ok_or_else(|| Failure::new(format!("Unknown protocol '{name}'")))
}

fn refuse_creation(driver: &Arc<dyn Driver>, what: &str) -> Outcome<()> {
    match driver.create_options().is_empty() {
        true => {
            Err(Failure::new(format!("{what} driver '{}' does not support image creation", driver.name())))
        }
        false => Ok(()),
    }
}

impl Known {
    /// What a format takes, with what the file of that name takes.
    pub fn new(registry: &Registry, format: &str, filename: Option<&str>) -> Outcome<Self> {
        let driver = format_driver(registry, format)?;
        let protocol = filename.map(|name| protocol_driver(registry, name)).transpose()?;
        refuse_creation(driver, "Format")?;
        // What raw hands on to its file is no option of its own.
        let is_raw = format == "raw";
        let own = |o: &&CreateOption| !is_raw || o.name == "size";
        let mut options: Vec<CreateOption> = driver.create_options().iter().filter(own).copied().collect();
        let mut file_only = Vec::new();
        if let Some(protocol) = protocol {
            refuse_creation(protocol, "Protocol")?;
            for option in protocol.create_options() {
                if !options.iter().any(|o| o.name == option.name) {
                    if !is_raw {
                        file_only.push(option.name);
                    }
                    options.push(*option);
                }
            }
        }
        Ok(Self { options, format: format.into(), file_only })
    }

    /// Whether there is such an option.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|o| o.name == name)
    }

    /// A line an option, in the order of the alphabet.
    pub fn help(&self) -> String {
        help(&self.options)
    }

    /// Reads the words of all `-o`. Sizes become bytes, switches `on` or `off`; the last of a key wins.
    pub fn parse(&self, words: &[&str]) -> Outcome<Options> {
        let mut options = Options::default();
        for word in words {
            for entry in
                Options::parse(word, None).map_err(|_| Failure::new("Invalid parameter ''"))?.entries()
            {
                let value = self.value(&entry.key, entry.value.as_deref())?;
                options.set(&entry.key, &value);
            }
        }
        Ok(options)
    }

    /// The normal form of an option's value.
    fn value(&self, key: &str, value: Option<&str>) -> Outcome<String> {
        let known = self.options.iter().find(|o| o.name == key);
        let Some(option) = known else {
            return Err(Failure::new(format!("Invalid parameter '{key}'")));
        };
        normal_value(option, value)
    }

    /// The line that tells what is made.
    pub fn announcement(&self, filename: &str, options: &Options) -> String {
        let mut line = format!("Formatting '{filename}', fmt={}", self.format);
        let table = ANNOUNCED.iter().find(|a| a.format == self.format).map_or(&[][..], |a| a.options);
        let rest = self.options.iter().map(|o| o.name).filter(|n| !FILE_ORDER.contains(n));
        let rest = rest.chain(FILE_ORDER).filter(|n| !table.iter().any(|(t, _)| t == n)).map(|n| (n, ""));
        for (name, default) in table.iter().copied().chain(rest) {
            let value = match options.get(name) {
                Some(value) => value,
                None if default.is_empty() => continue,
                None => default,
            };
            line += &format!(" {name}={}", printed(value));
        }
        line
    }

    /// The options as the format's driver takes them. What only the file takes cannot be passed through a format that
    /// makes its file by itself: harmless values are dropped, others refused by name.
    pub fn for_driver(&self, options: &Options) -> Outcome<Options> {
        let mut kept = options.clone();
        for name in &self.file_only {
            let Some(value) = kept.take::<String>(name).map_err(BlockError::from)? else { continue };
            let harmless = match *name {
                "nocow" => value == "off",
                "preallocation" => value == "off",
                "extent_size_hint" => value == "0" || value == "1048576",
                _ => false,
            };
            if !harmless {
                return Err(BlockError::unsupported(format!(
                    "Option '{name}={value}' of the file is not supported together with format '{}'",
                    self.format
                ))
                .into());
            }
        }
        Ok(kept)
    }
}

/// A value in the announcement: quoted where it would be ambiguous.
fn printed(value: &str) -> String {
    match value.contains(' ') {
        true => format!("\"{value}\""),
        false => value.to_owned(),
    }
}

/// The normal form of a value, as `key=value` of a typed option.
pub(crate) fn normal_value(option: &CreateOption, value: Option<&str>) -> Outcome<String> {
    let key = option.name;
    let wrong = |expected: &str| Failure::new(format!("Parameter '{key}' expects {expected}"));
    let value = value.unwrap_or("on");
    Ok(match option.kind {
        CreateOptionType::Text => value.to_owned(),
        CreateOptionType::Bool => match value {
            "on" | "yes" | "true" | "y" => "on".into(),
            "off" | "no" | "false" | "n" => "off".into(),
            _ => return Err(wrong("'on' or 'off'")),
        },
        CreateOptionType::Number => {
            rhea_options::parse_integer(value).ok_or_else(|| wrong("a number"))?.to_string()
        }
        CreateOptionType::Size => size::option_size(key, value)?.to_string(),
    })
}

/// A line an option, in the order of the alphabet.
pub(crate) fn help(options: &[CreateOption]) -> String {
    let mut lines: Vec<String> = options
        .iter()
        .map(|option| {
            let placeholder = match option.kind {
                CreateOptionType::Text => "<str>",
                CreateOptionType::Bool => "<bool (on/off)>",
                CreateOptionType::Number => "<num>",
                CreateOptionType::Size => "<size>",
            };
            let head = format!("{}={placeholder}", option.name);
            format!("  {head:<22} - {}\n", option.help)
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// Whether one of the `-o` words asks for help.
pub(crate) fn wants_help(words: &[&str]) -> bool {
    words.iter().any(|word| word.split(',').any(|part| part == "help" || part == "?"))
}

/// `-o help` of commands that make images.
pub(crate) fn print_help(registry: &Registry, format: &str, filename: Option<&str>) -> Outcome<()> {
    let known = Known::new(registry, format, filename)?;
    match filename {
        Some(_) => print!("Supported options:\n{}", known.help()),
        None => print!(
            "Supported {format} options:\n{}\nThe protocol level may support further options.\n\
             Specify the target filename to include those options.\n",
            known.help()
        ),
    }
    Ok(())
}
