//! The command line.

use rhea_block::OpenFlags;
use rhea_nbd::protocol::{DEFAULT_PORT, MAX_STRING};
use rhea_options::{LongOption, Options, getopt, parse_integer};

use crate::help;

const SHORT: &str = "hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L";

const fn long(name: &'static str, takes_argument: bool, id: char) -> LongOption {
    LongOption { name, takes_argument, id }
}

const LONG: &[LongOption] = &[
    long("help", false, 'h'),
    long("version", false, 'V'),
    long("bind", true, 'b'),
    long("port", true, 'p'),
    long("socket", true, 'k'),
    long("offset", true, 'o'),
    long("read-only", false, 'r'),
    long("bitmap", true, 'B'),
    long("allocation-depth", false, 'A'),
    long("connect", true, 'c'),
    long("disconnect", false, 'd'),
    long("list", false, 'L'),
    long("snapshot", false, 's'),
    long("load-snapshot", true, 'l'),
    long("nocache", false, 'n'),
    long("cache", true, '1'),
    long("aio", true, '2'),
    long("discard", true, '3'),
    long("detect-zeroes", true, '4'),
    long("shared", true, 'e'),
    long("format", true, 'f'),
    long("persistent", false, 't'),
    long("verbose", false, 'v'),
    long("object", true, '5'),
    long("export-name", true, 'x'),
    long("description", true, 'D'),
    long("tls-creds", true, '6'),
    long("tls-hostname", true, '7'),
    long("tls-authz", true, '8'),
    long("image-opts", false, '9'),
    long("trace", true, 'T'),
    long("fork", false, 'F'),
    long("pid-file", true, 'P'),
    long("selinux-label", true, 'S'),
    long("handshake-limit", true, 'H'),
];

/// Which internal snapshot to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// An id, or else a name.
    Either(String),
    /// Exactly.
    Exact {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
}

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Config {
    /// The image, or with `disconnect` the device.
    pub file: Option<String>,
    /// `-L`
    pub list: bool,
    /// `-d`
    pub disconnect: bool,
    /// `-c`
    pub device: Option<String>,
    /// `-b`
    pub bind: Option<String>,
    /// `-p`
    pub port: Option<String>,
    /// `-k`
    pub socket: Option<String>,
    /// `-e`; 0: any number.
    pub shared: usize,
    /// `-t`
    pub persistent: bool,
    /// `-v`
    pub verbose: bool,
    /// `-x`
    pub export_name: String,
    /// `-D`
    pub description: String,
    /// Seconds.
    pub handshake_limit: u32,
    /// `-o`
    pub offset: u64,
    /// `-A`
    pub allocation_depth: bool,
    /// `-B`
    pub bitmap: Option<String>,
    /// `--object`, in order.
    pub objects: Vec<String>,
    /// `--tls-creds`
    pub tls_creds: Option<String>,
    /// `--tls-authz`
    pub tls_authz: Option<String>,
    /// `--tls-hostname`
    pub tls_hostname: Option<String>,
    /// `--fork`
    pub fork: bool,
    /// `--pid-file`
    pub pid_file: Option<String>,
    /// `-f`
    pub format: Option<String>,
    /// `-s`
    pub snapshot: bool,
    /// `-l`
    pub load_snapshot: Option<SnapshotName>,
    /// How to open the image.
    pub flags: OpenFlags,
    /// `--image-opts`
    pub image_opts: bool,
}

/// What to do.
pub enum Parsed {
    /// Print this.
    Say(String),
    /// Serve, list, or disconnect.
    Run(Box<Config>),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            list: false,
            disconnect: false,
            device: None,
            bind: None,
            port: None,
            socket: None,
            shared: 1,
            persistent: false,
            verbose: false,
            export_name: String::new(),
            description: String::new(),
            handshake_limit: 10,
            offset: 0,
            allocation_depth: false,
            bitmap: None,
            objects: Vec::new(),
            tls_creds: None,
            tls_authz: None,
            tls_hostname: None,
            fork: false,
            pid_file: None,
            format: None,
            snapshot: false,
            load_snapshot: None,
            flags: OpenFlags::empty(),
            image_opts: false,
        }
    }
}

/// The options that say how the image is opened, while the command line is read.
#[derive(Default)]
struct ImageOptions {
    cache: bool,
    aio: bool,
    discard: bool,
    detect_zeroes: Option<String>,
    /// Any option of the image or the export was given.
    any: bool,
}

/// Takes the command line apart. An error is the text to print.
pub fn parse(program: &str, arguments: &[String]) -> Result<Parsed, String> {
    let hint = format!("Try `{program} --help' for more information.");
    let parsed =
        getopt(arguments, SHORT, LONG).map_err(|error| format!("{program}: {error}\n{program}: {hint}"))?;
    let mut config = Config::default();
    let mut image = ImageOptions::default();
    for (letter, argument) in parsed.options {
        match letter {
            'h' => return Ok(Parsed::Say(help::text(program))),
            'V' => return Ok(Parsed::Say(help::version(program))),
            _ => {}
        }
        take(&mut config, &mut image, letter, argument.unwrap_or_default())
            .map_err(|error| format!("{program}: {error}"))?;
    }
    let failed = |error: String| format!("{program}: {error}");
    finish_flags(&mut config, &image).map_err(failed)?;
    let words = parsed.words;
    if config.list {
        if !words.is_empty() {
            return Err(failed("List mode is incompatible with a file name".into()));
        }
        if image.any || config.device.is_some() || config.disconnect {
            return Err(failed("List mode is incompatible with per-device settings".into()));
        }
        if config.fork {
            return Err(failed("List mode is incompatible with forking".into()));
        }
    } else if words.len() != 1 {
        return Err(format!("{program}: Invalid number of arguments\n{hint}"));
    }
    config.file = words.into_iter().next();
    check(&config).map_err(failed)?;
    Ok(Parsed::Run(Box::new(config)))
}

fn once(given: &mut bool, message: &str) -> Result<(), String> {
    match std::mem::replace(given, true) {
        true => Err(message.into()),
        false => Ok(()),
    }
}

fn take(config: &mut Config, image: &mut ImageOptions, letter: char, word: String) -> Result<(), String> {
    // What is about the image, and so means nothing to a list.
    image.any |= "orBAslnfxDte1234".contains(letter) || letter == '9';
    match letter {
        'b' => config.bind = Some(word),
        'p' => config.port = Some(word),
        'k' => {
            if !word.starts_with('/') {
                return Err("socket path must be absolute".into());
            }
            config.socket = Some(word);
        }
        'o' => config.offset = parse_offset(&word)?,
        'r' => config.flags |= OpenFlags::READ_ONLY,
        'A' => config.allocation_depth = true,
        'B' => config.bitmap = Some(word),
        'c' => config.device = Some(word),
        'd' => config.disconnect = true,
        'L' => config.list = true,
        's' => config.snapshot = true,
        'l' => {
            config.load_snapshot = Some(parse_snapshot(&word)?);
            config.flags |= OpenFlags::READ_ONLY;
        }
        'n' | '1' => {
            once(&mut image.cache, "-n and --cache can only be specified once")?;
            let mode = if letter == 'n' { "none" } else { &word };
            config.flags |= OpenFlags::cache(mode).ok_or(format!("Invalid cache mode `{word}'"))?;
        }
        '2' => {
            once(&mut image.aio, "--aio can only be specified once")?;
            config.flags |= match word.as_str() {
                "native" => OpenFlags::AIO_NATIVE,
                "threads" => OpenFlags::AIO_THREADS,
                "io_uring" => OpenFlags::AIO_IO_URING,
                _ => return Err(format!("Invalid aio mode '{word}'")),
            };
        }
        '3' => {
            once(&mut image.discard, "--discard can only be specified once")?;
            match word.as_str() {
                "unmap" | "on" => config.flags |= OpenFlags::UNMAP,
                "ignore" | "off" => config.flags -= OpenFlags::UNMAP,
                _ => return Err(format!("Invalid discard mode `{word}'")),
            }
        }
        '4' => image.detect_zeroes = Some(word),
        'e' => {
            config.shared = word
                .parse::<i32>()
                .ok()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| format!("Invalid shared device number '{word}'"))?;
        }
        'f' => config.format = Some(word),
        't' => config.persistent = true,
        'v' => config.verbose = true,
        'x' => {
            if word.len() > MAX_STRING {
                return Err(format!("export name '{word}' too long"));
            }
            config.export_name = word;
        }
        'D' => {
            if word.len() > MAX_STRING {
                return Err(format!("export description '{word}' too long"));
            }
            config.description = word;
        }
        'H' => {
            config.handshake_limit = word.parse().map_err(|_| format!("Invalid handshake limit '{word}'"))?;
        }
        '5' => config.objects.push(word),
        '6' => config.tls_creds = Some(word),
        '7' => config.tls_hostname = Some(word),
        '8' => config.tls_authz = Some(word),
        '9' => config.image_opts = true,
        'F' => config.fork = true,
        'P' => config.pid_file = Some(word),
        'T' => return Err("--trace is not supported".into()),
        'S' => return Err("--selinux-label is not supported: Rhea is built without SELinux support".into()),
        other => unreachable!("option '{other}' is not in the list"),
    }
    Ok(())
}

fn parse_offset(word: &str) -> Result<u64, String> {
    if word.starts_with('-') {
        return Err(format!("Value '{word}' is out of range for parameter 'offset'"));
    }
    parse_integer(word).ok_or_else(|| format!("Invalid offset '{word}'"))
}

fn parse_snapshot(word: &str) -> Result<SnapshotName, String> {
    if !word.starts_with("snapshot.") {
        return Ok(SnapshotName::Either(word.into()));
    }
    let mut options = Options::parse(word, None).map_err(|error| error.to_string())?;
    let mut part = |key: &str| options.take::<String>(key).map_err(|error| error.to_string());
    let (id, name) = (part("snapshot.id")?, part("snapshot.name")?);
    match options.entries().first() {
        Some(entry) => Err(format!("Invalid parameter '{}'", entry.key)),
        None => Ok(SnapshotName::Exact { id, name }),
    }
}

fn finish_flags(config: &mut Config, image: &ImageOptions) -> Result<(), String> {
    match image.detect_zeroes.as_deref() {
        None | Some("off") => {}
        Some("on") => config.flags |= OpenFlags::DETECT_ZEROES,
        Some("unmap") if config.flags.contains(OpenFlags::UNMAP) => {
            config.flags |= OpenFlags::DETECT_ZEROES_UNMAP;
        }
        Some("unmap") => {
            return Err(
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
                    .into(),
            );
        }
        Some(word) => {
            return Err(format!("Failed to parse detect_zeroes mode: invalid parameter value: {word}"));
        }
    }
    Ok(())
}

fn check(config: &Config) -> Result<(), String> {
    if config.device.is_some() && config.disconnect {
        return Err("-c and -d cannot be used together".into());
    }
    if config.tls_creds.is_some() && config.device.is_some() {
        return Err("TLS is not supported with a host device".into());
    }
    if config.tls_authz.is_some() && config.list {
        return Err("TLS authorization is incompatible with export list".into());
    }
    if config.tls_hostname.is_some() && !config.list {
        return Err("TLS hostname is only supported with export list".into());
    }
    for (option, given) in [("--tls-hostname", &config.tls_hostname), ("--tls-authz", &config.tls_authz)] {
        if given.is_some() && config.tls_creds.is_none() {
            return Err(format!("{option} is not permitted without --tls-creds"));
        }
    }
    if config.image_opts && config.format.is_some() {
        return Err("--image-opts and -f are mutually exclusive".into());
    }
    Ok(())
}

impl Config {
    /// The TCP address, where no Unix socket is asked for.
    pub fn inet(&self) -> Result<rhea_nbd::Address, String> {
        let port = self.port.clone().unwrap_or_else(|| DEFAULT_PORT.to_string());
        let host = self.bind.as_deref().unwrap_or("0.0.0.0");
        rhea_nbd::Address::inet(host, &port).map_err(|_| {
            format!("address resolution failed for {host}:{port}: Servname not supported for ai_socktype")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse("qemu-nbd", &words) {
            Err(text) => text,
            Ok(_) => "accepted".into(),
        }
    }

    #[test]
    fn errors_read_like_those_of_debians_tool() {
        let try_help = "Try `qemu-nbd --help' for more information.";
        for (line, text) in [
            ("-r", format!("qemu-nbd: Invalid number of arguments\n{try_help}")),
            ("--foo", format!("qemu-nbd: unrecognized option '--foo'\nqemu-nbd: {try_help}")),
            ("-k x f", "qemu-nbd: socket path must be absolute".into()),
            ("-L x", "qemu-nbd: List mode is incompatible with a file name".into()),
            ("-x a -L", "qemu-nbd: List mode is incompatible with per-device settings".into()),
            ("--shared=-1 x", "qemu-nbd: Invalid shared device number '-1'".into()),
            ("--cache=foo x", "qemu-nbd: Invalid cache mode `foo'".into()),
            ("--aio=foo x", "qemu-nbd: Invalid aio mode 'foo'".into()),
            ("--discard=x y", "qemu-nbd: Invalid discard mode `x'".into()),
            (
                "--detect-zeroes=x y",
                "qemu-nbd: Failed to parse detect_zeroes mode: invalid parameter value: x".into(),
            ),
            ("-o -1 y", "qemu-nbd: Value '-1' is out of range for parameter 'offset'".into()),
            ("-o 1G y", "qemu-nbd: Invalid offset '1G'".into()),
            ("-n --cache=none x", "qemu-nbd: -n and --cache can only be specified once".into()),
            ("--image-opts -f raw x", "qemu-nbd: --image-opts and -f are mutually exclusive".into()),
            ("-c a --tls-creds b x", "qemu-nbd: TLS is not supported with a host device".into()),
            ("-L --tls-hostname=foo", "qemu-nbd: --tls-hostname is not permitted without --tls-creds".into()),
            ("-f raw -e 0 x", "accepted".into()),
        ] {
            assert_eq!(refused(line), text, "{line}");
        }
        assert!(refused("-T x y").contains("--trace"));
        assert!(refused("--selinux-label x y").contains("SELinux"));
    }
}
