//! Peers that break the protocol, stop halfway, or go away: they are cut off, and nobody else notices.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rhea_async_io::{IoVector, block_on, spawn};
use rhea_block::{BlockNode, OpenFlags, WriteFlags};
use rhea_nbd::ServerConfig;
use rhea_nbd::protocol::{
    CommandFlags, HeaderStyle, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, Request, command, option, reply,
};
use support::{Folder, TestServer, export, memory, noise, open};

const SIZE: usize = 1 << 20;

fn start(folder: &Folder, limit: Duration) -> (TestServer, Arc<BlockNode>) {
    let disk = memory(noise(SIZE, 1));
    let config = ServerConfig { handshake_limit: limit, ..ServerConfig::default() };
    (TestServer::start(&folder.path("s"), config, vec![export(&disk, "", true)]), disk)
}

fn connect(server: &TestServer) -> UnixStream {
    let stream = UnixStream::connect(&server.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Greets the server as a client with fixed newstyle negotiation.
fn greet(stream: &mut UnixStream) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
}

fn send_option(stream: &mut UnixStream, option: u32, length: u32, data: &[u8]) {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.extend(data);
    // The server may be gone.
    let _ = stream.write_all(&message);
}

fn option_reply(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut header = [0; 20];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[..8], OPTION_REPLY_MAGIC.to_be_bytes());
    let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let mut data = vec![0; field(16) as usize];
    stream.read_exact(&mut data).unwrap();
    (field(12), data)
}

/// Enters transmission with simple replies.
fn go(stream: &mut UnixStream) {
    greet(stream);
    send_option(stream, option::GO, 6, &[0; 6]);
    loop {
        match option_reply(stream).0 {
            reply::ACK => return,
            kind => assert_eq!(kind, reply::INFO),
        }
    }
}

fn is_cut_off(stream: &mut UnixStream) -> bool {
    // The end, or an error of the connection; but not silence.
    !matches!(stream.read_to_end(&mut Vec::new()), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The server still serves.
fn assert_serves(server: &TestServer) {
    let node = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    let mut bytes = vec![0; SIZE];
    block_on(node.read_bytes(0, &mut bytes)).unwrap();
    assert!(bytes == noise(SIZE, 1));
    block_on(node.close()).unwrap();
}

#[test]
fn garbage_is_answered_by_the_end_of_the_connection() {
    let folder = Folder::new();
    let (server, _) = start(&folder, Duration::from_secs(10));
    for seed in 0..20 {
        let mut stream = connect(&server);
        let _ = stream.write_all(&noise(2000, seed));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(is_cut_off(&mut stream));
    }
    // Garbage in place of requests.
    for seed in 0..20 {
        let mut stream = connect(&server);
        go(&mut stream);
        let _ = stream.write_all(&noise(2000, seed));
        assert!(is_cut_off(&mut stream));
    }
    assert_serves(&server);
}

#[test]
fn lengths_beyond_reason_are_refused() {
    let folder = Folder::new();
    let (server, _) = start(&folder, Duration::from_secs(10));
    let mut stream = connect(&server);
    greet(&mut stream);
    send_option(&mut stream, option::LIST, u32::MAX, &[]);
    assert!(is_cut_off(&mut stream));
    // Long, but within reason: skipped.
    let mut stream = connect(&server);
    greet(&mut stream);
    send_option(&mut stream, option::INFO, 1 << 20, &vec![0; 1 << 20]);
    assert_eq!(option_reply(&mut stream).0, reply::ERR_TOO_BIG);
    // Inner lengths that lie.
    for data in [&[0xff; 6][..], &[0, 0, 0, 1, 0, 0], &[0, 0, 0, 0, 0xff, 0xff, 0, 0]] {
        send_option(&mut stream, option::INFO, data.len() as u32, data);
        assert_eq!(option_reply(&mut stream).0, reply::ERR_INVALID);
    }
    send_option(&mut stream, option::STRUCTURED_REPLY, 0, &[]);
    assert_eq!(option_reply(&mut stream).0, reply::ACK);
    for data in [&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &[0; 9], &[0xff; 8]] {
        send_option(&mut stream, option::SET_META_CONTEXT, data.len() as u32, data);
        assert_eq!(option_reply(&mut stream).0, reply::ERR_INVALID);
    }
    send_option(&mut stream, 4711, 3, b"abc");
    assert_eq!(option_reply(&mut stream).0, reply::ERR_UNSUP);
    // A write of more than the server takes.
    let mut stream = connect(&server);
    go(&mut stream);
    let request = Request {
        flags: CommandFlags::empty(),
        command: command::WRITE,
        cookie: 1,
        offset: 0,
        length: 0xffff_ffff,
    };
    let (header, len) = request.encode(HeaderStyle::Simple);
    stream.write_all(&header[..len]).unwrap();
    assert!(is_cut_off(&mut stream));
    assert_serves(&server);
}

fn simple_request(
    stream: &mut UnixStream,
    flags: CommandFlags,
    command: u16,
    offset: u64,
    length: u64,
) -> u32 {
    let request = Request { flags, command, cookie: 77, offset, length };
    let (header, len) = request.encode(HeaderStyle::Simple);
    stream.write_all(&header[..len]).unwrap();
    if command == command::WRITE {
        stream.write_all(&vec![0; length as usize]).unwrap();
    }
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[8..], 77_u64.to_be_bytes());
    u32::from_be_bytes(answer[4..8].try_into().unwrap())
}

#[test]
fn wrong_requests_fail_and_the_connection_goes_on() {
    let folder = Folder::new();
    let (server, disk) = start(&folder, Duration::from_secs(10));
    let mut stream = connect(&server);
    go(&mut stream);
    let none = CommandFlags::empty();
    let size = SIZE as u64;
    for (flags, command, offset, length, error) in [
        (none, command::READ, size, 1, 22),
        (none, command::READ, u64::MAX, 10, 22),
        (none, command::READ, 0, 0xffff_ffff, 22),
        (none, command::WRITE, size - 1, 2, 28),
        (none, command::WRITE_ZEROES, u64::MAX - 5, 10, 28),
        (none, command::TRIM, size, 1, 22),
        (none, command::CACHE, 0, 0xffff_ffff, 22),
        (none, command::BLOCK_STATUS, 0, 512, 22),
        (none, 99, 0, 0, 22),
        (CommandFlags::DF, command::WRITE, 0, 512, 22),
        (CommandFlags::from_bits_retain(0x8000), command::FLUSH, 0, 0, 22),
        (CommandFlags::PAYLOAD_LEN, command::TRIM, 0, 512, 22),
        (none, command::CACHE, 3, 4097, 0),
        (none, command::FLUSH, 0, 0, 0),
    ] {
        assert_eq!(
            simple_request(&mut stream, flags, command, offset, length),
            error,
            "{command} {offset} {length}"
        );
    }
    drop(stream);
    let mut bytes = vec![0; SIZE];
    block_on(disk.read_bytes(0, &mut bytes)).unwrap();
    assert!(bytes == noise(SIZE, 1), "nothing was changed");
    assert_serves(&server);
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let folder = Folder::new();
    let (mut server, _) = start(&folder, Duration::from_millis(300));
    let silent = connect(&server);
    let mut halfway = connect(&server);
    halfway.write_all(&3_u32.to_be_bytes()).unwrap();
    halfway.write_all(&OPTION_MAGIC.to_be_bytes()[..5]).unwrap();
    let begun = Instant::now();
    for mut stream in [silent, halfway] {
        assert!(is_cut_off(&mut stream));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    // In transmission, a client may be silent for as long as it likes.
    let mut stream = connect(&server);
    go(&mut stream);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(simple_request(&mut stream, CommandFlags::empty(), command::FLUSH, 0, 0), 0);
    assert_serves(&server);
    // Neither a silent client nor one in the middle of a request keeps the server from ending.
    let request =
        Request { flags: CommandFlags::empty(), command: command::WRITE, cookie: 1, offset: 0, length: 4096 };
    let (header, len) = request.encode(HeaderStyle::Simple);
    stream.write_all(&header[..len]).unwrap();
    server.stop();
}

#[test]
fn a_client_that_takes_no_replies_is_bounded_and_hurts_nobody() {
    let folder = Folder::new();
    let (mut server, _) = start(&folder, Duration::from_secs(10));
    let mut stream = connect(&server);
    go(&mut stream);
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = Request {
        flags: CommandFlags::empty(),
        command: command::READ,
        cookie: 1,
        offset: 0,
        length: SIZE as u64,
    };
    let (header, len) = request.encode(HeaderStyle::Simple);
    let mut sent = 0;
    // Some gigabytes of replies are asked for; the server stops to listen long before.
    while sent < 1 << 20 && stream.write_all(&header[..len]).is_ok() {
        sent += len;
    }
    assert!(sent < 1 << 20, "the server goes on to take requests");
    assert_serves(&server);
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn clients_beyond_the_limit_wait() {
    let folder = Folder::new();
    let disk = memory(noise(SIZE, 1));
    let config = ServerConfig { max_clients: 1, ..ServerConfig::default() };
    let server = TestServer::start(&folder.path("s"), config, vec![export(&disk, "", true)]);
    let mut first = connect(&server);
    go(&mut first);
    let mut second = connect(&server);
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read_exact(&mut [0; 8]).is_err(), "nobody answers yet");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    go(&mut second);
}

/// A server that answers each client with what `act` does, on a thread.
fn fake_server(path: &Path, act: impl Fn(usize, UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { return };
            act(index, stream);
        }
    });
}

/// Takes a client through the handshake to simple replies.
fn fake_handshake(stream: &mut UnixStream, size: u64, flags: u16) -> std::io::Result<()> {
    let mut greeting = INIT_MAGIC.to_be_bytes().to_vec();
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend(3_u16.to_be_bytes());
    stream.write_all(&greeting)?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let (option, length) = (field(8), field(12));
        stream.read_exact(&mut vec![0; length as usize])?;
        let mut answer = |kind: u32, data: &[u8]| {
            let mut message = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            message.extend(option.to_be_bytes());
            message.extend(kind.to_be_bytes());
            message.extend((data.len() as u32).to_be_bytes());
            message.extend(data);
            stream.write_all(&message)
        };
        if option != option::GO {
            answer(reply::ERR_UNSUP, &[])?;
            continue;
        }
        let mut facts = 0_u16.to_be_bytes().to_vec();
        facts.extend(size.to_be_bytes());
        facts.extend(flags.to_be_bytes());
        answer(reply::INFO, &facts)?;
        return answer(reply::ACK, &[]);
    }
}

fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let mut header = [0; 28];
    stream.read_exact(&mut header).ok()?;
    Request::decode(HeaderStyle::Simple, &header)
}

fn uri(folder: &Folder) -> String {
    format!("nbd+unix:///?socket={}", folder.text("s"))
}

#[test]
fn servers_that_talk_nonsense_are_given_up() {
    for seed in 0..30_u64 {
        let folder = Folder::new();
        fake_server(&folder.path("s"), move |_, mut stream| {
            let mut answer = INIT_MAGIC.to_be_bytes().to_vec();
            if seed % 3 > 0 {
                answer.extend(OPTION_MAGIC.to_be_bytes());
                answer.extend(3_u16.to_be_bytes());
            }
            if seed % 3 > 1 {
                answer.extend(OPTION_REPLY_MAGIC.to_be_bytes());
                answer.extend(option::EXTENDED_HEADERS.to_be_bytes());
            }
            answer.extend(noise(500, seed));
            let _ = stream.write_all(&answer);
        });
        assert!(open(&uri(&folder), OpenFlags::READ_ONLY).is_err());
    }
}

#[test]
fn replies_that_fit_no_request_break_the_connection() {
    // Each is sent for a read of 512 bytes: wrong magic, unknown cookie, an end halfway, a structured reply.
    let wrong: [fn(u64) -> Vec<u8>; 4] = [
        |_| vec![0xab; 64],
        |cookie| {
            [&0x6744_6698_u32.to_be_bytes()[..], &[0; 4], &(cookie + 1).to_be_bytes(), &[0; 512]].concat()
        },
        |cookie| [&0x6744_6698_u32.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes(), &[0; 100]].concat(),
        |cookie| {
            let chunk = [0, 1, 0, 1];
            [&0x668e_33ef_u32.to_be_bytes()[..], &chunk, &cookie.to_be_bytes(), &[0; 520]].concat()
        },
    ];
    for answer in wrong {
        let folder = Folder::new();
        fake_server(&folder.path("s"), move |_, mut stream| {
            if fake_handshake(&mut stream, 1 << 20, 1).is_ok()
                && let Some(request) = read_request(&mut stream)
            {
                let _ = stream.write_all(&answer(request.cookie));
            }
        });
        let node = open(&uri(&folder), OpenFlags::READ_ONLY).unwrap();
        let error = block_on(node.read(0, &mut IoVector::zeroed(512))).unwrap_err();
        assert_eq!(error.errno(), libc::EIO);
    }
}

/// A server that acknowledges writes but, as if it had crashed, keeps only what was flushed.
struct Forgetful {
    durable: Vec<u8>,
    volatile: Vec<u8>,
}

#[test]
fn what_a_crashed_server_has_forgotten_is_written_again() {
    const DISK: usize = 1 << 20;
    let folder = Folder::new();
    let state = Forgetful { durable: vec![0; DISK], volatile: vec![0; DISK] };
    let state = Arc::new(parking_lot::Mutex::new(state));
    let serving = state.clone();
    // HAS_FLAGS, SEND_FLUSH
    fake_server(&folder.path("s"), move |_, mut stream| {
        {
            let mut state = serving.lock();
            state.volatile = state.durable.clone();
        }
        if fake_handshake(&mut stream, DISK as u64, 0b101).is_err() {
            return;
        }
        let mut served = 0;
        while let Some(request) = read_request(&mut stream) {
            let mut state = serving.lock();
            let range = request.offset as usize..(request.offset + request.length) as usize;
            let mut answer = 0x6744_6698_u32.to_be_bytes().to_vec();
            answer.extend([0; 4]);
            answer.extend(request.cookie.to_be_bytes());
            match request.command {
                command::WRITE => {
                    let mut data = vec![0; range.len()];
                    if stream.read_exact(&mut data).is_err() {
                        return;
                    }
                    state.volatile[range].copy_from_slice(&data);
                }
                command::READ => answer.extend(&state.volatile[range]),
                command::FLUSH => state.durable = state.volatile.clone(),
                _ => return,
            }
            served += 1;
            // Now and then it goes away in the middle of a request.
            if served % 37 == 0 {
                let _ = stream.write_all(&answer[..7]);
                return;
            }
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let registry = rhea_block_drivers::registry();
    let mut options = rhea_options::Options::default();
    for (key, value) in [
        ("driver", "nbd"),
        ("server.type", "unix"),
        ("server.path", &folder.text("s")),
        ("reconnect-delay", "30"),
    ] {
        options.set(key, value);
    }
    let node = block_on(registry.open_node(options, OpenFlags::UNMAP, true)).unwrap();
    let mut expected = vec![0; DISK];
    block_on(async {
        for round in 0..300_u64 {
            let offset = (round * 7919) % 2000 * 512;
            let bytes = noise(512, round);
            node.write(offset, &IoVector::from_slice(&bytes), WriteFlags::empty()).await.unwrap();
            expected[offset as usize..offset as usize + 512].copy_from_slice(&bytes);
            if round % 15 == 14 {
                node.flush().await.unwrap();
            }
        }
        node.flush().await.unwrap();
    });
    assert!(state.lock().durable == expected);
}

#[test]
fn without_a_delay_a_vanished_server_is_an_error_at_once() {
    let folder = Folder::new();
    let (mut server, _) = start(&folder, Duration::from_secs(10));
    let node = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    block_on(node.read(0, &mut IoVector::zeroed(512))).unwrap();
    server.stop();
    drop(server);
    for _ in 0..3 {
        let begun = Instant::now();
        let error = block_on(node.write(0, &IoVector::zeroed(512), WriteFlags::empty())).unwrap_err();
        assert_eq!(error.errno(), libc::EIO);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn requests_wait_for_the_server_to_come_back_but_not_for_ever() {
    let folder = Folder::new();
    let (mut server, disk) = start(&folder, Duration::from_secs(10));
    let registry = rhea_block_drivers::registry();
    let mut options = rhea_options::Options::default();
    for (key, value) in [
        ("driver", "nbd"),
        ("server.type", "unix"),
        ("server.path", &folder.text("s")),
        ("reconnect-delay", "3"),
    ] {
        options.set(key, value);
    }
    let node = block_on(registry.open_node(options, OpenFlags::UNMAP, true)).unwrap();
    server.stop();
    drop(server);
    let path = folder.path("s");
    let back = disk.clone();
    let returning = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(800));
        TestServer::start(&path, ServerConfig::default(), vec![export(&back, "", true)])
    });
    let begun = Instant::now();
    block_on(async {
        let tasks: Vec<_> = (0..10_u64)
            .map(|i| {
                let node = node.clone();
                spawn(async move {
                    let data = IoVector::from_slice(&[i as u8 + 1; 512]);
                    node.write(i * 512, &data, WriteFlags::empty()).await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert!(begun.elapsed() > Duration::from_millis(700));
    let mut bytes = vec![0; 5120];
    block_on(disk.read_bytes(0, &mut bytes)).unwrap();
    assert!(bytes.chunks(512).enumerate().all(|(i, chunk)| chunk == [i as u8 + 1; 512]));
    let mut server = returning.join().unwrap();
    server.stop();
    drop(server);
    let begun = Instant::now();
    let error = block_on(node.read(0, &mut IoVector::zeroed(512))).unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
}
