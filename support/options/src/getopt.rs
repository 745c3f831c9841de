//! Short and long options of a command line, as GNU `getopt_long` takes them apart.
//!
//! `-abc` is `-a -b -c`; `-ofile`, `-o file`, `--output=file`, `--output file`, and unambiguous beginnings of long
//! names (`--out`). Words that are no options may stand between them; everything behind `--` is such a word.

use std::fmt;

/// A long option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongOption {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// Whether an argument follows.
    pub takes_argument: bool,
    /// What it is reported as: the short option of the same meaning, or any other character.
    pub id: char,
}

/// What was found, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The options, with their arguments.
    pub options: Vec<(char, Option<String>)>,
    /// The other words.
    pub words: Vec<String>,
}

impl Parsed {
    /// Whether an option was given.
    pub fn has(&self, id: char) -> bool {
        self.options.iter().any(|(o, _)| *o == id)
    }

    /// The argument of an option, the last one given.
    pub fn argument(&self, id: char) -> Option<&str> {
        self.options.iter().rev().find(|(o, _)| *o == id).and_then(|(_, a)| a.as_deref())
    }
}

/// Why a command line cannot be taken apart; the texts are those of the C library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetoptError {
    /// No such short option.
    InvalidOption(char),
    /// A short option without its argument.
    MissingArgument(char),
    /// No such long option; the word as given.
    Unrecognized(String),
    /// The beginning of several long options.
    Ambiguous(String, Vec<&'static str>),
    /// A long option without its argument.
    LongMissingArgument(&'static str),
    /// A long option with an argument it does not take.
    UnwantedArgument(&'static str),
}

impl fmt::Display for GetoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidOption(c) => write!(f, "invalid option -- '{c}'"),
            Self::MissingArgument(c) => write!(f, "option requires an argument -- '{c}'"),
            Self::Unrecognized(word) => write!(f, "unrecognized option '{word}'"),
            Self::Ambiguous(word, names) => {
                write!(f, "option '{word}' is ambiguous; possibilities:")?;
                names.iter().try_for_each(|name| write!(f, " '--{name}'"))
            }
            Self::LongMissingArgument(name) => write!(f, "option '--{name}' requires an argument"),
            Self::UnwantedArgument(name) => write!(f, "option '--{name}' doesn't allow an argument"),
        }
    }
}

impl std::error::Error for GetoptError {}

/// Takes `arguments` (without the program's name) apart. `short` lists the short options, each followed by `:` if it
/// takes an argument.
pub fn getopt(arguments: &[String], short: &str, long: &[LongOption]) -> Result<Parsed, GetoptError> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            parsed.words.extend(rest.cloned());
            break;
        } else if let Some(body) = word.strip_prefix("--") {
            parsed.options.push(long_option(word, body, long, &mut rest)?);
        } else if word.len() > 1 && word.starts_with('-') {
            short_options(&word[1..], short, &mut rest, &mut parsed.options)?;
        } else {
            parsed.words.push(word.clone());
        }
    }
    Ok(parsed)
}

fn long_option<'a>(
    word: &str,
    body: &str,
    long: &[LongOption],
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(char, Option<String>), GetoptError> {
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (body, None),
    };
    let matching: Vec<&LongOption> = match long.iter().find(|o| o.name == name) {
        Some(exact) => vec![exact],
        None => long.iter().filter(|o| o.name.starts_with(name)).collect(),
    };
    let option = match matching.as_slice() {
        [] => return Err(GetoptError::Unrecognized(format!("--{name}"))),
        [one] => *one,
        [first, others @ ..] if others.iter().all(|o| o.id == first.id) => *first,
        several => return Err(GetoptError::Ambiguous(word.into(), several.iter().map(|o| o.name).collect())),
    };
    match (option.takes_argument, value) {
        (false, None) => Ok((option.id, None)),
        (false, Some(_)) => Err(GetoptError::UnwantedArgument(option.name)),
        (true, Some(value)) => Ok((option.id, Some(value))),
        (true, None) => match rest.next() {
            Some(value) => Ok((option.id, Some(value.clone()))),
            None => Err(GetoptError::LongMissingArgument(option.name)),
        },
    }
}

fn short_options<'a>(
    letters: &str,
    short: &str,
    rest: &mut impl Iterator<Item = &'a String>,
    options: &mut Vec<(char, Option<String>)>,
) -> Result<(), GetoptError> {
    for (at, letter) in letters.char_indices() {
        let known = if letter == ':' { None } else { short.find(letter) };
        let known = known.ok_or(GetoptError::InvalidOption(letter))?;
        if !short[known + letter.len_utf8()..].starts_with(':') {
            options.push((letter, None));
            continue;
        }
        let attached = &letters[at + letter.len_utf8()..];
        let argument = match attached {
            "" => rest.next().cloned().ok_or(GetoptError::MissingArgument(letter))?,
            _ => attached.to_owned(),
        };
        options.push((letter, Some(argument)));
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &[LongOption] = &[
        LongOption { name: "output", takes_argument: true, id: 'o' },
        LongOption { name: "image-opts", takes_argument: false, id: '1' },
        LongOption { name: "image-size", takes_argument: true, id: '2' },
    ];

    fn parse(line: &str) -> Result<Parsed, GetoptError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        getopt(&words, "ab:o:", LONG)
    }

    #[test]
    fn all_ways_to_give_an_option() {
        let p = parse("x -ab1 -b 2 --output=y --out z --image-o w -- -a").unwrap();
        let options: Vec<(char, Option<&str>)> = p.options.iter().map(|(c, a)| (*c, a.as_deref())).collect();
        assert_eq!(
            options,
            [
                ('a', None),
                ('b', Some("1")),
                ('b', Some("2")),
                ('o', Some("y")),
                ('o', Some("z")),
                ('1', None)
            ]
        );
        assert_eq!(p.words, ["x", "w", "-a"]);
        assert_eq!(p.argument('b'), Some("2"));
    }

    #[test]
    fn errors_read_like_the_c_librarys() {
        let text = |line: &str| parse(line).unwrap_err().to_string();
        assert_eq!(text("-c"), "invalid option -- 'c'");
        assert_eq!(text("-:"), "invalid option -- ':'");
        assert_eq!(text("-ab"), "option requires an argument -- 'b'");
        assert_eq!(text("--bogus=1"), "unrecognized option '--bogus'");
        assert_eq!(text("--output"), "option '--output' requires an argument");
        assert_eq!(text("--image-opts=1"), "option '--image-opts' doesn't allow an argument");
        assert!(text("--image").contains("ambiguous; possibilities: '--image-opts' '--image-size'"));
    }
}
