//! The http and https drivers against a server made here, which can be told to misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use rhea_async_io::{block_on, spawn};
use rhea_block::{BlockNode, OpenFlags, RawDriver, Registry};
use rhea_block_remote::{FtpDriver, HttpDriver};
use rhea_options::Options;

/// How the server behaves.
#[derive(Clone, Default)]
struct Manner {
    no_ranges: bool,
    no_head: bool,
    /// Answers 200 with everything where a range is asked for, though it says that it has them.
    ignores_ranges: bool,
    /// Sends this many bytes and hangs up.
    cut_at: Option<usize>,
    /// Needs these headers.
    wants: Vec<(&'static str, &'static str)>,
    /// `/moved` redirects there.
    moved_to: Option<String>,
    /// Says another total from the second range on.
    grows: bool,
    /// Answers so late.
    delay: Option<std::time::Duration>,
}

struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    gets: Arc<AtomicUsize>,
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|i| (i.wrapping_mul(2654435761) >> 24).to_le_bytes()[..1].to_vec()).collect()
}

/// Answers one request; `false` when the connection is over.
fn answer(
    stream: &mut BufReader<impl Read + Write>,
    manner: &Manner,
    contents: &[u8],
    gets: &AtomicUsize,
    log: &Mutex<Vec<String>>,
) -> bool {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    log.lock().unwrap().push(lines.join("\n"));
    let header = |name: &str| {
        lines[1..].iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let head = lines[0].starts_with("HEAD");
    let moved = lines[0].contains(" /moved ");
    let out = stream.get_mut();
    if let (true, Some(to)) = (moved, &manner.moved_to) {
        let _ = write!(out, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        return true;
    }
    let refusal = match () {
        () if manner.wants.iter().any(|(name, value)| header(name).as_deref() != Some(value)) => Some(401),
        () if lines[0].contains(" /none ") => Some(404),
        () if head && manner.no_head => Some(405),
        () => None,
    };
    if let Some(status) = refusal {
        let _ = write!(out, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
        return true;
    }
    if let Some(delay) = manner.delay {
        std::thread::sleep(delay);
    }
    let ranges = if manner.no_ranges { "" } else { "Accept-Ranges: bytes\r\n" };
    if head {
        let _ = write!(out, "HTTP/1.1 200 OK\r\n{ranges}Content-Length: {}\r\n\r\n", contents.len());
        return true;
    }
    let count = gets.fetch_add(1, SeqCst);
    let range = header("range").filter(|_| !manner.no_ranges && !manner.ignores_ranges);
    let body = match range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((first, last)) => {
            let first: usize = first.parse().unwrap();
            let last: usize = last.parse::<usize>().unwrap().min(contents.len() - 1);
            let total = contents.len() + usize::from(manner.grows && count > 0);
            let _ = write!(
                out,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{total}\r\nContent-Length: {}\r\n\r\n",
                last + 1 - first
            );
            &contents[first..=last]
        }
        None => {
            let _ = write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", contents.len());
            contents
        }
    };
    let len = manner.cut_at.unwrap_or(body.len()).min(body.len());
    out.write_all(&body[..len]).is_ok() && out.flush().is_ok() && len == body.len()
}

impl Server {
    fn start(contents: Vec<u8>, manner: Manner) -> Self {
        Self::start_with(contents, manner, |stream| stream)
    }

    fn start_with<S: Read + Write>(
        contents: Vec<u8>,
        manner: Manner,
        wrap: impl Fn(TcpStream) -> S + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let gets = Arc::new(AtomicUsize::new(0));
        let (log, counter) = (requests.clone(), gets.clone());
        let wrap = Arc::new(wrap);
        std::thread::spawn(move || {
            let contents = Arc::new(contents);
            for stream in listener.incoming() {
                let (wrap, manner, contents) = (wrap.clone(), manner.clone(), contents.clone());
                let (log, counter) = (log.clone(), counter.clone());
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(wrap(stream.unwrap()));
                    while answer(&mut stream, &manner, &contents, &counter, &log) {}
                });
            }
        });
        Self { port, requests, gets }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(HttpDriver::HTTP);
    registry.add(HttpDriver::HTTPS);
    registry.add(FtpDriver::FTP);
    registry.add(RawDriver);
    registry.secrets().add("p", b"geheim".to_vec()).unwrap();
    registry.secrets().add("c", b"session=1".to_vec()).unwrap();
    registry
}

fn open(options: &str) -> rhea_block::Result<Arc<BlockNode>> {
    let options = Options::parse(options, None).unwrap();
    block_on(registry().open_node(options, OpenFlags::READ_ONLY, true))
}

fn open_url(url: &str, options: &str) -> rhea_block::Result<Arc<BlockNode>> {
    let scheme = url.split(':').next().unwrap();
    open(&format!("driver={scheme},url={url}{options}"))
}

fn read(node: &Arc<BlockNode>, offset: u64, len: usize) -> rhea_block::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    block_on(node.read_bytes(offset, &mut bytes))?;
    Ok(bytes)
}

#[test]
fn any_range_can_be_read() {
    let contents = pattern(3_000_001);
    let server = Server::start(contents.clone(), Manner::default());
    let registry = registry();
    let flags = OpenFlags::READ_ONLY;
    let node = block_on(registry.open(&server.url("disk.img"), Some("raw"), flags)).unwrap();
    assert_eq!(node.length(), (contents.len() as u64).next_multiple_of(512));
    for (offset, len) in
        [(0, 512), (0, 3_000_001), (2_999_000, 1001), (1_234_567, 600_000), (5, 1), (262_000, 2000)]
    {
        assert!(read(&node, offset, len).unwrap() == contents[offset as usize..][..len], "{offset} {len}");
    }
    assert!(block_on(node.write_bytes(0, &[0])).is_err());
}

#[test]
fn small_reads_in_a_row_are_one_request() {
    let contents = pattern(1 << 20);
    let server = Server::start(contents.clone(), Manner::default());
    let node = open_url(&server.url("x"), ",readahead=512k").unwrap();
    block_on(async {
        // All at once: those that come later wait for the first one's piece.
        let reads: Vec<_> = (0..64)
            .map(|i| {
                let node = node.clone();
                spawn(async move {
                    let mut bytes = vec![0; 4096];
                    node.read_bytes(i * 4096, &mut bytes).await.unwrap();
                    bytes
                })
            })
            .collect();
        for (i, read) in reads.into_iter().enumerate() {
            assert!(read.await == contents[i * 4096..][..4096]);
        }
    });
    assert_eq!(server.gets.load(SeqCst), 1);
}

#[test]
fn servers_that_cannot_serve_disks_are_refused() {
    let url = |manner| Server::start(pattern(10_000), manner).url("x");
    let plain = url(Manner { no_ranges: true, ..Manner::default() });
    let error = open_url(&plain, "").unwrap_err();
    assert!(error.to_string().contains("Server does not support 'range' (byte ranges)."), "{error}");
    // Forced: the beginning can be read, and nothing else is taken for it.
    let node = open_url(&plain, ",force-range=on,readahead=0").unwrap();
    assert!(read(&node, 0, 100).unwrap() == pattern(100));
    assert!(read(&node, 100, 100).unwrap_err().to_string().contains("ignored the range"));

    let liar = open_url(&url(Manner { ignores_ranges: true, ..Manner::default() }), ",readahead=0").unwrap();
    assert!(read(&liar, 512, 100).is_err());
    let short = open_url(&url(Manner { cut_at: Some(70), ..Manner::default() }), "").unwrap();
    assert!(read(&short, 0, 100).unwrap_err().to_string().contains("fewer bytes"));
    let growing = open_url(&url(Manner { grows: true, ..Manner::default() }), ",readahead=0").unwrap();
    assert!(read(&growing, 0, 100).is_ok());
    assert!(read(&growing, 100, 100).unwrap_err().to_string().contains("changed its length"));
    let slow = Manner { delay: Some(std::time::Duration::from_secs(3)), ..Manner::default() };
    let error = open_url(&url(slow), ",timeout=1").unwrap_err();
    assert_eq!(error.errno(), libc_etimedout(), "{error}");

    let none = Server::start(pattern(10), Manner::default()).url("none");
    let error = open_url(&none, "").unwrap_err();
    assert!(error.to_string().contains("returned error: 404"), "{error}");
    assert!(open_url("http://127.0.0.1:1/x", "").is_err());
    assert!(open_url("ftp://127.0.0.1:1/x", "").unwrap_err().to_string().contains("'ftp' is not supported"));
}

fn libc_etimedout() -> i32 {
    rhea_block::BlockError::from(std::io::Error::from_raw_os_error(110)).errno()
}

#[test]
fn a_server_without_head_will_do() {
    let server = Server::start(pattern(5000), Manner { no_head: true, ..Manner::default() });
    let node = open_url(&server.url("x"), "").unwrap();
    assert_eq!(node.exact_length(), 5000);
    assert!(read(&node, 4000, 1000).unwrap() == pattern(5000)[4000..]);
    let empty = Server::start(vec![], Manner::default());
    assert_eq!(open_url(&empty.url("x"), "").unwrap().length(), 0);
}

#[test]
fn credentials_go_to_their_server_only() {
    let wants = vec![("authorization", "Basic YW5uYTpnZWhlaW0="), ("cookie", "session=1")];
    let server = Server::start(pattern(1000), Manner { wants, ..Manner::default() });
    let credentials = ",username=anna,password-secret=p,cookie-secret=c";
    let node = open_url(&server.url("x"), credentials).unwrap();
    assert!(read(&node, 0, 1000).unwrap() == pattern(1000));
    let in_url = format!("http://anna:geheim@127.0.0.1:{}/x", server.port);
    assert!(open_url(&in_url, ",cookie=session=1").is_ok());
    assert!(open_url(&server.url("x"), "").unwrap_err().to_string().contains("401"));
    // Another server gets the request and nothing else.
    let other = Server::start(pattern(1000), Manner::default());
    let manner = Manner { moved_to: Some(other.url("y")), ..Manner::default() };
    let first = Server::start(vec![], manner);
    let node = open_url(&first.url("moved"), credentials).unwrap();
    assert!(read(&node, 0, 1000).unwrap() == pattern(1000));
    assert!(first.requests.lock().unwrap()[0].to_lowercase().contains("authorization: basic"));
    for request in other.requests.lock().unwrap().iter() {
        let request = request.to_lowercase();
        assert!(!request.contains("authorization:") && !request.contains("cookie:"), "{request}");
    }
    let circle = Manner { moved_to: Some("/moved".into()), ..Manner::default() };
    let error = open_url(&Server::start(vec![], circle).url("moved"), "").unwrap_err();
    assert!(error.to_string().contains("redirects too often"), "{error}");
}

#[test]
fn mistaken_options_are_refused() {
    let server = Server::start(pattern(1000), Manner::default());
    for (options, message) in [
        (",readahead=100", "not a multiple of 512"),
        (",timeout=0", "timeout"),
        (",cookie=a,cookie-secret=c", "both cookie and cookie secret"),
        (",password-secret=p", "'password-secret' needs 'username'"),
        (",foo=1", "foo"),
    ] {
        let error = open_url(&server.url("x"), options).unwrap_err().to_string();
        assert!(error.contains(message), "{options}: {error}");
    }
    let error = open("driver=https,url=http://127.0.0.1/x").unwrap_err().to_string();
    assert!(error.contains("does not start with 'https://'"), "{error}");
    let options = Options::parse(&format!("driver=http,url={}", server.url("x")), None).unwrap();
    let error = block_on(registry().open_node(options, OpenFlags::empty(), true)).unwrap_err();
    assert!(error.to_string().contains("does not support writes"), "{error}");
    let options =
        Options::parse(&format!("driver=http,auto-read-only=on,url={}", server.url("x")), None).unwrap();
    let node = block_on(registry().open_node(options, OpenFlags::empty(), true)).unwrap();
    assert!(node.is_read_only());
}

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
        )
        .unwrap();
    let config = Arc::new(config);
    let server = Server::start_with(pattern(100_000), Manner::default(), move |stream| {
        rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream)
    });
    let url = format!("https://127.0.0.1:{}/x", server.port);
    assert!(open_url(&url, "").is_err());
    let node = open_url(&url, ",sslverify=off").unwrap();
    assert!(read(&node, 0, 100_000).unwrap() == pattern(100_000));
}
