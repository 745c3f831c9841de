//! The tool as a process: serving, listing, ending.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-nbd-tool-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn text(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tool: the example beside the test.
fn tool() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/qemu-nbd")
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(tool()).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

struct Serving(Child);

impl Serving {
    fn start(arguments: &[&str], socket: &str) -> Self {
        let child = Command::new(tool()).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut this = Self(child);
        wait_for(Path::new(socket), || this.0.try_wait().unwrap().is_none());
        this
    }

    fn terminate(&mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    }

    fn ended(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(path: &Path, mut alive: impl FnMut() -> bool) {
    for _ in 0..500 {
        if path.exists() {
            return;
        }
        assert!(alive(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{} does not appear", path.display());
}

fn image(folder: &Folder) -> String {
    let path = folder.text("image");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    path
}

#[test]
fn it_serves_until_the_last_client_has_left() {
    let folder = Folder::new("serves");
    let (image, socket) = (image(&folder), folder.text("s"));
    let mut serving =
        Serving::start(&["-f", "raw", "-x", "a", "-D", "a line", "-k", &socket, &image], &socket);
    // Looking at the list is no use of an export.
    let (status, text) = run(&["-L", "-k", &socket]);
    assert_eq!(status, 0, "{text}");
    assert_eq!(
        text,
        "exports available: 1\n export: 'a'\n  description: a line\n  size:  1048576\n  \
         flags: 0x1ced ( flush fua trim zeroes df cache fast-zero block-status-payload )\n  \
         min block: 1\n  opt block: 4096\n  max block: 33554432\n  transaction size: 64-bit\n  \
         available meta contexts: 1\n   base:allocation\n"
    );
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///a?socket={socket}");
    rhea_async_io::block_on(async {
        let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
        node.write_bytes(4096, &[9; 512]).await.unwrap();
        node.close().await.unwrap();
    });
    assert_eq!(serving.ended(), 0);
    assert!(!Path::new(&socket).exists());
    assert_eq!(std::fs::read(&image).unwrap()[4096..4608], [9; 512]);
}

#[test]
fn it_ends_in_good_order_when_told() {
    let folder = Folder::new("ends");
    let (image, socket, pid) = (image(&folder), folder.text("s"), folder.text("pid"));
    let arguments = ["-t", "-f", "raw", "-o", "512", "--pid-file", &pid, "-k", &socket, &image];
    let mut serving = Serving::start(&arguments, &socket);
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///?socket={socket}");
    rhea_async_io::block_on(async {
        for _ in 0..2 {
            let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
            assert_eq!(node.length(), (1 << 20) - 512);
            node.write_bytes(0, &[1; 512]).await.unwrap();
            node.close().await.unwrap();
        }
    });
    assert_eq!(std::fs::read_to_string(&pid).unwrap().trim(), serving.0.id().to_string());
    serving.terminate();
    assert_eq!(serving.ended(), 0);
    assert!(!Path::new(&socket).exists() && !Path::new(&pid).exists());
    assert_eq!(std::fs::read(&image).unwrap()[512..1024], [1; 512]);
}

#[test]
fn it_goes_to_the_background_when_clients_are_served() {
    let folder = Folder::new("fork");
    let (image, socket, pid) = (image(&folder), folder.text("s"), folder.text("pid"));
    let (status, text) = run(&["--fork", "-t", "-f", "raw", "--pid-file", &pid, "-k", &socket, &image]);
    assert_eq!((status, text.as_str()), (0, ""));
    let (status, text) = run(&["--list", "-k", &socket]);
    assert!(status == 0 && text.contains("export: ''"), "{text}");
    let number = std::fs::read_to_string(&pid).unwrap();
    assert!(Command::new("kill").arg(number.trim()).status().unwrap().success());
    let begun = Instant::now();
    while Path::new(&pid).exists() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    // What fails before is told, and is the status.
    let (status, text) = run(&["--fork", "-f", "raw", "-k", &socket, &folder.text("none")]);
    assert_eq!(status, 1);
    assert!(text.contains("Could not open") && text.contains("No such file or directory"), "{text}");
}

#[test]
fn mistakes_read_as_with_debians_tool() {
    let folder = Folder::new("mistakes");
    let image = image(&folder);
    let cases: &[&[&str]] = &[
        &["-r"],
        &["/nonexistent"],
        &["-k", "x", "--fork", "f"],
        &["-L", "x"],
        &["-d"],
        &["-d", "/nonexistent/nbd0"],
        &["-f", "raw", "-c", "/nonexistent/nbd0", &image],
        &["-f", "raw", "-r", "-k", "/nonexistent/x", &image],
        &["--shared=-1", "x"],
        &["--foo"],
        &["-b", "a", "b", "c"],
        &["--tls-creds=x", &image],
        &["-x", "a", "-L"],
        &["--cache=foo", "x"],
        &["--aio=foo", "x"],
        &["--discard=x", "y"],
        &["--detect-zeroes=x", "y"],
        &["-o", "-1", "-f", "raw", "-r", &image],
        &["-o", "1G", "-f", "raw", "-r", &image],
        &["-o", "2000000", "-f", "raw", "-r", &image],
        &["-B", "foo", "-f", "raw", "-r", &image],
        &["-f", "foo", "x"],
        &["-l", "foo", "-f", "raw", &image],
        &["-n", "--cache=none", "x"],
        &["--object", "foo,id=x", "x"],
        &["--image-opts", "-f", "raw", "x"],
        &["--handshake-limit=x", "y"],
        &["-c", "a", "--tls-creds", "b", "x"],
        &["-L", "-k", "/nonexistent/socket"],
        &["-L", "--tls-hostname=foo", "-p", "1"],
        &["--list", "-b", "127.0.0.1", "-p", "1"],
    ];
    let oracle = installed("qemu-nbd");
    for arguments in cases {
        let (status, text) = run(arguments);
        assert_eq!(status, 1, "{arguments:?}: {text}");
        if oracle {
            let output = Command::new("qemu-nbd").args(*arguments).output().unwrap();
            let theirs = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(text, theirs, "{arguments:?}");
        }
    }
}

#[test]
fn what_is_written_to_a_snapshot_is_gone_afterwards() {
    let folder = Folder::new("snapshot");
    let (image, socket) = (image(&folder), folder.text("s"));
    let mut serving = Serving::start(&["-s", "-f", "raw", "-k", &socket, &image], &socket);
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///?socket={socket}");
    rhea_async_io::block_on(async {
        let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
        node.write_bytes(4096, &[9; 512]).await.unwrap();
        let mut back = vec![0; 1024];
        node.read_bytes(3584, &mut back).await.unwrap();
        assert_eq!(back, [[7; 512], [9; 512]].concat());
        node.close().await.unwrap();
    });
    let status = serving.ended();
    let mut text = String::new();
    serving.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((status, text.as_str()), (0, ""));
    assert_eq!(std::fs::read(&image).unwrap(), vec![7; 1 << 20]);
}

/// Resident bytes of a process.
fn resident(serving: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.0.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A client by hand: fixed newstyle, the default export, simple replies.
fn enter_transmission(socket: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    // NBD_OPT_EXPORT_NAME of the empty name; the answer is the size, the flags, and no padding.
    stream.write_all(&[b"IHAVEOPT".as_slice(), &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat()).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
}

fn read_request(offset: u64, length: u32) -> Vec<u8> {
    let (magic, flags_and_command, cookie) = (0x2560_9513_u32, 0_u32, 1_u64);
    [
        magic.to_be_bytes().as_slice(),
        &flags_and_command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

/// Reads the image through the tool as an honest client, and counts how long that takes.
fn honest_read(socket: &str) -> Duration {
    let begun = Instant::now();
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///?socket={socket}");
    rhea_async_io::block_on(async {
        let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::READ_ONLY).await.unwrap();
        let mut bytes = vec![0; 1 << 20];
        node.read_bytes(0, &mut bytes).await.unwrap();
        assert!(bytes.iter().all(|&b| b == 7));
        node.close().await.unwrap();
    });
    begun.elapsed()
}

#[test]
fn hundreds_of_rude_clients_cost_little_and_hold_up_nobody() {
    let folder = Folder::new("rude");
    let (image, socket) = (image(&folder), folder.text("s"));
    let arguments = ["-t", "-e", "0", "-f", "raw", "-r", "--handshake-limit", "30", "-k", &socket, &image];
    let mut serving = Serving::start(&arguments, &socket);
    honest_read(&socket);
    let before = resident(&serving);
    // Some say nothing, some stop in the middle of an option, some ask for much and take no answer.
    let mut clients = Vec::new();
    for round in 0..300 {
        clients.push(UnixStream::connect(&socket).unwrap());
        let mut halfway = UnixStream::connect(&socket).unwrap();
        halfway.write_all(&3_u32.to_be_bytes()).unwrap();
        // An option of which 200 KiB should follow.
        let option = [b"IHAVEOPT".as_slice(), &6_u32.to_be_bytes(), &(200_u32 << 10).to_be_bytes()].concat();
        halfway.write_all(&option).unwrap();
        clients.push(halfway);
        if round < 20 {
            let mut greedy = enter_transmission(&socket);
            for _ in 0..100 {
                greedy.write_all(&read_request(0, 1 << 20)).unwrap();
            }
            clients.push(greedy);
        }
    }
    assert!(honest_read(&socket) < Duration::from_secs(20));
    let grown = resident(&serving).saturating_sub(before);
    // Of the 100 MiB that each of the greedy asks for, eight requests are under way.
    assert!(grown < 192 << 20, "{grown} bytes more");
    assert!(serving.0.try_wait().unwrap().is_none());
    // They do not keep the server from ending either.
    serving.terminate();
    assert_eq!(serving.ended(), 0);
    drop(clients);
}

/// Opens the server's disk with more options of the driver.
async fn open_with(
    socket: &str,
    options: &[(&str, &str)],
) -> rhea_block::Result<std::sync::Arc<rhea_block::BlockNode>> {
    let mut all = rhea_options::Options::default();
    for (key, value) in [("driver", "nbd"), ("server.type", "unix"), ("server.path", socket)] {
        all.set(key, value);
    }
    options.iter().for_each(|(key, value)| all.set(key, value));
    rhea_block_drivers::registry().open_node(all, rhea_block::OpenFlags::UNMAP, true).await
}

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed_again_and_again() {
    const BLOCK: usize = 4096;
    let folder = Folder::new("killed");
    let (image, socket) = (image(&folder), folder.text("s"));
    let start = || Serving::start(&["-t", "-e", "0", "-f", "raw", "-k", &socket, &image], &socket);
    let mut serving = start();
    rhea_async_io::block_on(async {
        let node = open_with(&socket, &[("reconnect-delay", "20")]).await.unwrap();
        for generation in 1..=4_u8 {
            // Eight writers over the whole disk; the server dies under them.
            let writers: Vec<_> = (0..8_usize)
                .map(|writer| {
                    let node = node.clone();
                    rhea_async_io::spawn(async move {
                        for block in (writer..(1 << 20) / BLOCK).step_by(8) {
                            let data = [generation.wrapping_mul(31) ^ block as u8; BLOCK];
                            node.write_bytes((block * BLOCK) as u64, &data).await.unwrap();
                        }
                    })
                })
                .collect();
            rhea_async_io::Timer::after(Duration::from_millis(2 * u64::from(generation))).await;
            serving.0.kill().unwrap();
            serving.0.wait().unwrap();
            std::fs::remove_file(&socket).unwrap();
            serving = start();
            for writer in writers {
                writer.await;
            }
            let mut bytes = vec![0; 1 << 20];
            node.read_bytes(0, &mut bytes).await.unwrap();
            for (block, data) in bytes.chunks(BLOCK).enumerate() {
                let expected = generation.wrapping_mul(31) ^ block as u8;
                assert!(data.iter().all(|&b| b == expected), "block {block} of generation {generation}");
            }
        }
        node.close().await.unwrap();
    });
}

#[test]
fn opening_waits_for_a_server_that_starts_later() {
    let folder = Folder::new("later");
    let (image, socket) = (image(&folder), folder.text("s"));
    let error = rhea_async_io::block_on(open_with(&socket, &[])).unwrap_err();
    assert_eq!(error.errno(), libc::ENOENT);
    let (late_socket, late_image) = (socket.clone(), image.clone());
    let starting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        Serving::start(&["-f", "raw", "-k", &late_socket, &late_image], &late_socket)
    });
    rhea_async_io::block_on(async {
        let node = open_with(&socket, &[("open-timeout", "20")]).await.unwrap();
        assert_eq!(node.length(), 1 << 20);
        node.close().await.unwrap();
    });
    assert_eq!(starting.join().unwrap().ended(), 0);
}

/// The tool with no more than so many file descriptors.
fn start_with_descriptors(limit: u32, arguments: &[&str], socket: &str) -> Serving {
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    let child =
        Command::new("sh").arg("-c").arg(script).arg(tool()).args(arguments).stderr(Stdio::piped()).spawn();
    let mut serving = Serving(child.unwrap());
    wait_for(Path::new(socket), || serving.0.try_wait().unwrap().is_none());
    serving
}

/// Ticks (hundredths of a second) that a process has computed.
fn ticks(serving: &Serving) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", serving.0.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_thousand_silent_clients_do_not_keep_the_next_one_out() {
    let folder = Folder::new("silent");
    let (image, socket) = (image(&folder), folder.text("s"));
    let arguments = ["-t", "-e", "0", "-f", "raw", "-r", "--handshake-limit", "60", "-k", &socket, &image];
    // Each needs one of ours as well: this process may have no more than 1024.
    let serving = start_with_descriptors(4096, &arguments, &socket);
    honest_read(&socket);
    let before = resident(&serving);
    let silent: Vec<Child> = (0..4)
        .map(|_| {
            // What connects and says nothing, 300 times.
            let script = "import socket,sys,time\nc=[]\nfor i in range(300):\n s=socket.socket(socket.AF_UNIX)\n \
                          s.connect(sys.argv[1])\n c.append(s)\nprint('ready',flush=True)\ntime.sleep(120)";
            let mut child = Command::new("python3")
                .args(["-c", script, &socket])
                .stdout(Stdio::piped())
                .spawn()
                .expect("python3 is there");
            child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
            child
        })
        .collect();
    let served = honest_read(&socket);
    let clients = std::fs::read_dir(format!("/proc/{}/fd", serving.0.id())).unwrap().count();
    let grown = resident(&serving).saturating_sub(before);
    for mut child in silent {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(clients > 1200, "{clients} descriptors");
    assert!(served < Duration::from_secs(10), "{served:?}");
    assert!(grown < 64 << 20, "{grown} bytes more for {clients} clients");
    assert!(honest_read(&socket) < Duration::from_secs(10));
}

#[test]
fn without_file_descriptors_it_waits_and_does_not_spin() {
    let folder = Folder::new("descriptors");
    let (image, socket) = (image(&folder), folder.text("s"));
    let arguments = ["-t", "-e", "0", "-f", "raw", "-r", "--handshake-limit", "60", "-k", &socket, &image];
    let serving = start_with_descriptors(64, &arguments, &socket);
    honest_read(&socket);
    let silent: Vec<UnixStream> = (0..150).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let open = std::fs::read_dir(format!("/proc/{}/fd", serving.0.id())).unwrap().count();
    assert!(open >= 64, "{open}: there are some left");
    let before = ticks(&serving);
    std::thread::sleep(Duration::from_secs(2));
    let computed = ticks(&serving) - before;
    assert!(computed < 20, "{computed} of 200 ticks");
    // As soon as there is room, those who wait come in.
    drop(silent);
    assert!(honest_read(&socket) < Duration::from_secs(10));
}
