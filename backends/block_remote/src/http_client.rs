//! Requests to a web server, made by `ureq` on a thread that may wait.
//!
//! Redirects are followed here rather than by `ureq`, so that user, password and cookies go to the server they were given
//! for and to no other.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use parking_lot::Mutex;
use rhea_block::{BlockError, Result};
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};
use zeroize::Zeroizing;

use crate::url::Url;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;

/// What a server is asked with.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) verify: bool,
    pub(crate) timeout: Duration,
    pub(crate) cookie: Option<String>,
    pub(crate) user: Option<(String, Zeroizing<String>)>,
    pub(crate) proxy_user: Option<(String, Zeroizing<String>)>,
}

/// A file on a web server.
pub(crate) struct Client {
    agent: Agent,
    url: Url,
    /// Where redirects led to.
    target: Mutex<Url>,
    authorization: Option<Zeroizing<String>>,
    cookie: Option<String>,
}

/// What the server says of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct About {
    /// Bytes; `None`: it does not tell.
    pub(crate) length: Option<u64>,
    /// It says that it sends ranges.
    pub(crate) ranges: bool,
}

fn request_failed(error: ureq::Error) -> BlockError {
    match error {
        ureq::Error::Io(error) => BlockError::from(error),
        ureq::Error::Timeout(what) => {
            BlockError::new(libc::ETIMEDOUT, format!("the server took too long ({what})"))
        }
        ureq::Error::HostNotFound => BlockError::new(libc::EHOSTUNREACH, "Could not resolve the host's name"),
        ureq::Error::ConnectionFailed => {
            BlockError::new(libc::ECONNREFUSED, "Could not connect to the server")
        }
        other => BlockError::new(libc::EIO, other.to_string()),
    }
}

fn status_failed(status: StatusCode) -> BlockError {
    let errno = match status.as_u16() {
        401 | 403 | 407 => libc::EACCES,
        404 | 410 => libc::ENOENT,
        _ => libc::EIO,
    };
    BlockError::new(errno, format!("The requested URL returned error: {}", status.as_u16()))
}

fn header_text(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// `bytes 0-99/1234`: first, last and total (if it is known).
fn content_range(response: &Response<Body>) -> Option<(u64, u64, Option<u64>)> {
    let text = header_text(response, header::CONTENT_RANGE)?.trim();
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()))
}

/// The proxy that the environment names for a scheme, as curl reads it.
fn proxy(scheme: &str, user: Option<&(String, Zeroizing<String>)>) -> Result<Option<Proxy>> {
    let names = match scheme {
        "https" => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"][..],
        // In upper case it could be a header of a request to a CGI program.
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let Some(text) = names.iter().find_map(|name| std::env::var(name).ok()).filter(|text| !text.is_empty())
    else {
        return match user {
            Some(_) => Err(BlockError::invalid("proxy-username is set, but no proxy in the environment")),
            None => Ok(None),
        };
    };
    let named = Proxy::new(&text).map_err(|error| BlockError::invalid(format!("proxy '{text}': {error}")))?;
    let mut built = Proxy::builder(named.protocol()).host(named.host()).port(named.port());
    let given = user.map(|(user, password)| (user.as_str(), Some(password.as_str())));
    if let Some((user, password)) = given.or_else(|| named.username().map(|user| (user, named.password()))) {
        built = built.username(user).password(password.unwrap_or_default());
    }
    let exceptions = std::env::var("no_proxy").or_else(|_| std::env::var("NO_PROXY")).unwrap_or_default();
    for exception in exceptions.split(',').map(str::trim).filter(|exception| !exception.is_empty()) {
        built = built.no_proxy(exception);
    }
    built.build().map(Some).map_err(|error| BlockError::invalid(format!("proxy '{text}': {error}")))
}

fn tls(verify: bool) -> TlsConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Without verification nothing is read from the system, which may have no certificates at all.
    let roots: Vec<Certificate<'static>> = match verify {
        true => rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect(),
        false => Vec::new(),
    };
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::from(roots))
        .disable_verification(!verify)
        .build()
}

impl Client {
    /// A client of the file at a URL. Reads the system's certificates for `https`.
    pub(crate) fn new(url: Url, settings: &Settings) -> Result<Self> {
        let user = match (&settings.user, &url.user) {
            (Some((user, password)), _) => Some((user.clone(), password.clone())),
            (None, Some((user, password))) => Some((user.clone(), Zeroizing::new(password.clone()))),
            (None, None) => None,
        };
        let authorization = user.map(|(user, password)| {
            let pair = Zeroizing::new(format!("{user}:{}", *password));
            Zeroizing::new(format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(pair.as_bytes())
            ))
        });
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rhea/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_global(Some(settings.timeout))
            .proxy(proxy(&url.scheme, settings.proxy_user.as_ref())?)
            .tls_config(tls(settings.verify))
            .build()
            .new_agent();
        let target = Mutex::new(url.clone());
        Ok(Self { agent, url, target, authorization, cookie: settings.cookie.clone() })
    }

    fn send(&self, head: bool, url: &Url, range: Option<(u64, u64)>) -> Result<Response<Body>> {
        let text = url.text();
        let mut request = if head { self.agent.head(&text) } else { self.agent.get(&text) };
        if let Some((first, last)) = range {
            request = request.header(header::RANGE, format!("bytes={first}-{last}"));
        }
        // Given for one server: no other may see them.
        if url.same_origin(&self.url) {
            if let Some(authorization) = &self.authorization {
                request = request.header(header::AUTHORIZATION, authorization.as_str());
            }
            if let Some(cookie) = &self.cookie {
                request = request.header(header::COOKIE, cookie);
            }
        }
        request.call().map_err(request_failed)
    }

    /// Sends a request, starting at a URL and following redirects.
    fn follow(&self, head: bool, start: Url, range: Option<(u64, u64)>) -> Result<Response<Body>> {
        let mut url = start;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(head, &url, range)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                if response.status().is_success() {
                    *self.target.lock() = url;
                }
                return Ok(response);
            }
            let next = header_text(&response, header::LOCATION)
                .ok_or_else(|| BlockError::new(libc::EIO, "the server redirects to nowhere"))?;
            let next = url.join(next)?;
            if !["http", "https"].contains(&next.scheme.as_str()) {
                return Err(BlockError::new(libc::EIO, format!("the server redirects to {}", next.text())));
            }
            if url.scheme == "https" && next.scheme == "http" {
                return Err(BlockError::new(libc::EIO, "the server redirects from https to http"));
            }
            url = next;
        }
        Err(BlockError::new(libc::ELOOP, "the server redirects too often"))
    }

    fn request(&self, head: bool, range: Option<(u64, u64)>) -> Result<Response<Body>> {
        let target = self.target.lock().clone();
        let redirected = target != self.url;
        match self.follow(head, target.clone(), range) {
            // Where a redirect led to may be good for a while only.
            Ok(response) if response.status().is_client_error() && redirected => {
                self.follow(head, self.url.clone(), range)
            }
            // A connection kept open from an earlier request may have been closed meanwhile.
            Err(error) if matches!(error.errno(), libc::ECONNRESET | libc::EPIPE) => {
                self.follow(head, target, range)
            }
            other => other,
        }
    }

    /// Asks for the file's length, and whether ranges of it can be had.
    pub(crate) fn about(&self) -> Result<About> {
        let head = self.request(true, None)?;
        let mut about = About { length: None, ranges: false };
        if head.status().is_success() {
            about.length =
                header_text(&head, header::CONTENT_LENGTH).and_then(|text| text.trim().parse().ok());
            about.ranges = header_text(&head, header::ACCEPT_RANGES)
                .is_some_and(|units| units.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes")));
            if about.ranges && about.length.is_some() {
                return Ok(about);
            }
        } else if !matches!(head.status().as_u16(), 403 | 405 | 501) {
            return Err(status_failed(head.status()));
        }
        // Some servers (and signed URLs) have no HEAD, or do not tell of ranges: try one.
        let first = self.request(false, Some((0, 0)))?;
        match first.status().as_u16() {
            206 => {
                about.ranges = true;
                about.length = content_range(&first).and_then(|range| range.2).or(about.length);
                Ok(about)
            }
            // An empty file has no first byte.
            416 if about.length == Some(0) => Ok(about),
            200 => {
                let length = header_text(&first, header::CONTENT_LENGTH);
                about.length = about.length.or_else(|| length.and_then(|text| text.trim().parse().ok()));
                Ok(about)
            }
            _ => Err(status_failed(first.status())),
        }
    }

    /// Reads a range of the file, which has `length` bytes in all.
    pub(crate) fn read(&self, offset: u64, len: usize, length: u64) -> Result<Vec<u8>> {
        let last = offset + len as u64 - 1;
        let response = self.request(false, Some((offset, last)))?;
        match response.status().as_u16() {
            206 => match content_range(&response) {
                Some((first, _, _)) if first != offset => {
                    return Err(BlockError::new(
                        libc::EIO,
                        format!("the server sent bytes from {first}, not from {offset}"),
                    ));
                }
                Some((_, _, Some(total))) if total != length => {
                    return Err(BlockError::new(
                        libc::EIO,
                        format!("the file on the server changed its length from {length} to {total}"),
                    ));
                }
                Some(_) => {}
                None => return Err(BlockError::new(libc::EIO, "the server did not say which bytes it sent")),
            },
            // The whole file, of which the beginning was asked for.
            200 if offset == 0 => {}
            200 => return Err(BlockError::new(libc::EIO, "the server ignored the range of bytes asked for")),
            _ => return Err(status_failed(response.status())),
        }
        let mut bytes = vec![0; len];
        let body = response.into_body();
        let mut reader = body.into_with_config().limit(u64::MAX).reader();
        reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                BlockError::new(libc::EIO, "the server sent fewer bytes than it was asked for")
            }
            std::io::ErrorKind::TimedOut => BlockError::os(libc::ETIMEDOUT),
            _ => BlockError::from(error),
        })?;
        Ok(bytes)
    }
}
