//! File names that stand for exports: `nbd:…` and `nbd://…`.

use rhea_block::{BlockError, Result};
use rhea_options::Options;

use crate::protocol::DEFAULT_PORT;

/// The options that a file name stands for.
///
/// ```text
/// nbd:host:port[:exportname=name]         nbd:unix:/path[:exportname=name]
/// nbd://host[:port]/name                  nbd+unix:///name?socket=/path
/// ```
pub(crate) fn parse(filename: &str) -> Result<Options> {
    match filename.split_once("://") {
        Some((scheme, rest)) => parse_uri(scheme, rest),
        None => parse_legacy(filename),
    }
}

fn inet(options: &mut Options, host: &str, port: &str) {
    options.set("server.type", "inet");
    options.set("server.host", host);
    options.set("server.port", port);
}

fn unix(options: &mut Options, path: &str) {
    options.set("server.type", "unix");
    options.set("server.path", path);
}

fn parse_legacy(filename: &str) -> Result<Options> {
    let missing = || BlockError::invalid("NBD server address missing");
    let rest = filename.strip_prefix("nbd:").ok_or_else(missing)?;
    let mut options = Options::default();
    let address = match rest.split_once(":exportname=") {
        Some((address, name)) => {
            if !name.is_empty() {
                options.set("export", name);
            }
            address
        }
        None => rest,
    };
    if address.is_empty() {
        return Err(missing());
    }
    if let Some(path) = address.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(missing());
        }
        unix(&mut options, path);
        return Ok(options);
    }
    let wrong = || BlockError::invalid(format!("error parsing address '{address}'"));
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or_else(wrong)?,
        None => address.split_once(':').ok_or_else(wrong)?,
    };
    inet(&mut options, host, port);
    Ok(options)
}

/// Undoes `%41`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn parse_uri(scheme: &str, rest: &str) -> Result<Options> {
    let wrong = || BlockError::invalid("No valid URL specified");
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').map_or((rest, ""), |(place, query)| (place, query));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let mut options = Options::default();
    let name = unescape(path).ok_or_else(wrong)?;
    if !name.is_empty() {
        options.set("export", &name);
    }
    let mut socket = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
        let value = unescape(value).ok_or_else(wrong)?;
        match key {
            "socket" if socket.is_none() => socket = Some(value),
            _ => return Err(wrong()),
        }
    }
    match (scheme, socket) {
        ("nbd+unix", Some(path)) if authority.is_empty() && !path.is_empty() => unix(&mut options, &path),
        ("nbd" | "nbd+tcp", None) => {
            // A user's name means nothing here.
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let (host, port) = match host.strip_prefix('[') {
                Some(rest) => {
                    let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                    (host, rest.strip_prefix(':').unwrap_or(rest))
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            if host.is_empty() {
                return Err(wrong());
            }
            let default = DEFAULT_PORT.to_string();
            inet(
                &mut options,
                &unescape(host).ok_or_else(wrong)?,
                if port.is_empty() { &default } else { port },
            );
        }
        _ => return Err(wrong()),
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(filename: &str) -> String {
        match parse(filename) {
            Ok(options) => options.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_become_options() {
        let inet = |rest: &str| format!("{rest}server.type=inet,server.host=");
        assert_eq!(text("nbd:localhost:10809"), inet("") + "localhost,server.port=10809");
        assert_eq!(text("nbd:[::1]:1:exportname=a:b"), inet("export=a:b,") + "::1,server.port=1");
        assert_eq!(text("nbd://h/x%20y"), inet("export=x y,") + "h,server.port=10809");
        assert_eq!(text("nbd+tcp://u@[::1]:7"), inet("") + "::1,server.port=7");
        assert_eq!(text("nbd:unix:/a/b:exportname="), "server.type=unix,server.path=/a/b");
        assert_eq!(text("nbd+unix:///e?socket=/s"), "export=e,server.type=unix,server.path=/s");
        assert_eq!(text("nbd:foo"), "error parsing address 'foo'");
        assert_eq!(text("nbd:"), "NBD server address missing");
        for wrong in [
            "nbd://",
            "nbd+unix:///foo",
            "nbd://h/x?socket=a",
            "nbd+unix://h/x?socket=/s",
            "nbd://h/%zz",
            "nbd://h/%0",
        ] {
            assert_eq!(text(wrong), "No valid URL specified", "{wrong}");
        }
    }
}
