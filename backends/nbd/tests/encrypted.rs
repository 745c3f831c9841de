//! TLS, both ends.

mod support;

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rhea_async_io::block_on;
use rhea_block::{BlockNode, Objects, OpenFlags};
use rhea_nbd::ServerConfig;
use rhea_options::Options;
use support::{Folder, OtherServer, TestServer, export, installed, memory, must, noise, run};

const SIZE: usize = 1 << 20;

/// Writes the certificates of an authority, a server for `localhost`, and a client, as tls-creds-x509 wants them.
fn certificates(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "Test authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    for (side, name, usage) in [
        ("server", "localhost", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        ("client", "a client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let names = if side == "server" { vec![name.to_owned()] } else { Vec::new() };
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages =
            vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(folder.join(format!("{side}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{side}-key.pem")), key.serialize_pem()).unwrap();
    }
}

fn credentials(folder: &Folder, endpoint: &str) -> String {
    format!("tls-creds-x509,id=tls,dir={},endpoint={endpoint}", folder.text("pki"))
}

fn server(folder: &Folder, disk: &Arc<BlockNode>, identity: Option<&str>) -> TestServer {
    let objects = Objects::default();
    rhea_block_objects::add_object(&objects, &credentials(folder, "server")).unwrap();
    let mut config =
        ServerConfig { tls: Some(rhea_nbd::server_tls(&objects, "tls").unwrap()), ..ServerConfig::default() };
    if let Some(identity) = identity {
        rhea_block_objects::add_object(&objects, &format!("authz-simple,id=who,identity={identity}"))
            .unwrap();
        config.authorization = Some(rhea_block_objects::authorization(&objects, "who").unwrap());
    }
    TestServer::start(&folder.path("s"), config, vec![export(disk, "disk", true)])
}

fn open(folder: &Folder, hostname: Option<&str>) -> rhea_block::Result<Arc<BlockNode>> {
    let registry = rhea_block_drivers::registry();
    rhea_block_objects::add_object(registry.objects(), &credentials(folder, "client")).unwrap();
    let mut options = Options::default();
    for (key, value) in [
        ("driver", "nbd"),
        ("server.type", "unix"),
        ("server.path", &folder.text("s")),
        ("export", "disk"),
        ("tls-creds", "tls"),
    ] {
        options.set(key, value);
    }
    if let Some(hostname) = hostname {
        options.set("tls-hostname", hostname);
    }
    block_on(registry.open_node(options, OpenFlags::UNMAP, true))
}

#[test]
fn data_passes_both_ways_encrypted() {
    let folder = Folder::new();
    certificates(&folder.path("pki"));
    let disk = memory(noise(SIZE, 1));
    let server = server(&folder, &disk, Some("CN=a client"));
    let node = open(&folder, Some("localhost")).unwrap();
    let mut bytes = vec![0; SIZE];
    block_on(async {
        node.read_bytes(0, &mut bytes).await.unwrap();
        assert!(bytes == noise(SIZE, 1));
        node.write_bytes(0, &noise(SIZE, 2)).await.unwrap();
        node.read_bytes(0, &mut bytes).await.unwrap();
        assert!(bytes == noise(SIZE, 2));
    });
    block_on(node.close()).unwrap();
    // Who does not speak TLS is told to.
    let error = support::open(&server.uri("disk"), OpenFlags::UNMAP).unwrap_err();
    assert!(error.to_string().contains("Server requires TLS"), "{error}");
}

#[test]
fn strangers_are_refused() {
    let folder = Folder::new();
    certificates(&folder.path("pki"));
    let disk = memory(noise(SIZE, 1));
    let server = server(&folder, &disk, Some("CN=somebody else"));
    assert!(open(&folder, Some("localhost")).is_err(), "not authorized");
    assert!(open(&folder, Some("example.org")).is_err(), "not the server's name");
    let error = open(&folder, None).unwrap_err();
    assert!(error.to_string().contains("tls-hostname"), "{error}");
    drop(server);
    // A client that trusts another authority.
    let other = Folder::new();
    certificates(&other.path("pki"));
    let server = self::server(&folder, &disk, None);
    assert!(open(&folder, Some("localhost")).is_ok());
    std::fs::rename(folder.path("pki"), folder.path("old")).unwrap();
    certificates(&folder.path("pki"));
    assert!(open(&folder, Some("localhost")).is_err());
    drop(server);
}

#[test]
fn a_server_without_tls_is_not_good_enough() {
    let folder = Folder::new();
    certificates(&folder.path("pki"));
    let disk = memory(noise(SIZE, 1));
    let _server =
        TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(&disk, "disk", true)]);
    let error = open(&folder, Some("localhost")).unwrap_err();
    assert!(error.to_string().contains("starttls"), "{error}");
}

#[test]
fn debians_tools_at_our_server_and_the_other_way_round() {
    if !installed("qemu-io") || !installed("qemu-nbd") {
        return;
    }
    let folder = Folder::new();
    certificates(&folder.path("pki"));
    let disk = memory(vec![0; SIZE]);
    {
        let server = server(&folder, &disk, Some("CN=a client"));
        let image = format!(
            "driver=nbd,server.type=unix,server.path={},export=disk,tls-creds=tls,tls-hostname=localhost",
            server.socket
        );
        let object = credentials(&folder, "client");
        let arguments =
            ["--object", &object, "--image-opts", "-c", "write -P 5 4k 900k", "-c", "read -P 5 4k 900k"];
        let (ok, text) = run("qemu-io", &[&arguments[..], &[&image]].concat());
        assert!(ok && !text.contains("failed"), "{text}");
        let mut bytes = vec![0; SIZE];
        block_on(disk.read_bytes(0, &mut bytes)).unwrap();
        assert!(bytes[4096..4096 + 900 * 1024].iter().all(|&b| b == 5));
        let list = ["--list", "--object", &object, "--tls-creds", "tls", "--tls-hostname", "localhost", "-k"];
        let text = must("qemu-nbd", &[&list[..], &[&server.socket]].concat());
        assert!(text.contains("export: 'disk'"), "{text}");
    }
    std::fs::write(folder.path("image"), noise(SIZE, 9)).unwrap();
    let (object, socket, image) = (credentials(&folder, "server"), folder.text("s2"), folder.text("image"));
    let arguments =
        ["-t", "-f", "raw", "-x", "disk", "--object", &object, "--tls-creds", "tls", "-k", &socket, &image];
    let _other = OtherServer::start("qemu-nbd", &arguments, &folder.path("s2"));
    std::fs::rename(folder.path("s2"), folder.path("s")).unwrap();
    let node = open(&folder, Some("localhost")).unwrap();
    let mut bytes = vec![0; SIZE];
    block_on(node.read_bytes(0, &mut bytes)).unwrap();
    assert!(bytes == noise(SIZE, 9));
}
