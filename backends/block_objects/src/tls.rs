//! `tls-creds-x509`: certificates in a folder, and what rustls makes of them.
//!
//! The folder holds PEM files of fixed names: `ca-cert.pem` (whom to trust), `ca-crl.pem` (optional: whom no more), and for
//! an end of a connection its own `server-cert.pem` and `server-key.pem`, or `client-cert.pem` and `client-key.pem` (which
//! a client may do without). TLS 1.2 and 1.3 are spoken.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rhea_block::{BlockError, Objects, Result};
use rhea_options::Options;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::{bad_value, refuse_others};

/// A folder's files are some kilobytes each; one beyond this is no certificate.
const MAX_FILE: u64 = 16 << 20;

/// Which end of a connection credentials are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Who connects.
    Client,
    /// Who is connected to.
    Server,
}

/// Certificates and keys of one end of TLS connections.
pub struct TlsCredentials {
    endpoint: Endpoint,
    verify_peer: bool,
    side: Side,
}

enum Side {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl std::fmt::Debug for TlsCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsCredentials({:?}, verify_peer: {})", self.endpoint, self.verify_peer)
    }
}

/// What the folder holds.
struct Files {
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    own_name: PathBuf,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls_error(what: impl std::fmt::Display) -> impl FnOnce(rustls::Error) -> BlockError {
    move |error| BlockError::invalid(format!("{what}: {error}"))
}

/// The contents of a file of the folder; `None` if there is no such file.
fn read_optional(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let failed = |reason: BlockError| {
        let text = format!("Unable to access credentials {}: {reason}", path.display());
        BlockError::new(reason.errno(), text)
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.into())),
        Ok(metadata) if metadata.len() > MAX_FILE => return Err(failed(BlockError::os(libc::EFBIG))),
        Ok(_) => {}
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) => Err(failed(error.into())),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    match read_optional(path)? {
        Some(bytes) => Ok(bytes),
        None => Err(BlockError::new(
            libc::ENOENT,
            format!("Unable to access credentials {}: No such file or directory", path.display()),
        )),
    }
}

fn parse_all<T: PemObject>(pem: &[u8], path: &Path) -> Result<Vec<T>> {
    let items: std::result::Result<Vec<T>, _> = T::pem_slice_iter(pem).collect();
    match items {
        Ok(items) if !items.is_empty() => Ok(items),
        Ok(_) => Err(BlockError::invalid(format!(
            "Unable to import {}: nothing of the kind in it",
            path.display()
        ))),
        Err(error) => Err(BlockError::invalid(format!("Unable to import {}: {error}", path.display()))),
    }
}

/// A private key, which may be encrypted with a password (PKCS #8).
fn parse_key(pem: &[u8], path: &Path, password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>> {
    let failed = |why: &str| BlockError::invalid(format!("Unable to import {}: {why}", path.display()));
    let text = std::str::from_utf8(pem).map_err(|_| failed("not text"))?;
    if !text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        if text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(failed("encrypted in a form other than PKCS #8"));
        }
        return PrivateKeyDer::from_pem_slice(pem).map_err(|error| failed(&error.to_string()));
    }
    let password = password.ok_or_else(|| failed("the key is encrypted, and there is no 'passwordid'"))?;
    let (_, document) = pkcs8::SecretDocument::from_pem(text).map_err(|error| failed(&error.to_string()))?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::from_der(document.as_bytes())
        .map_err(|error| failed(&error.to_string()))?;
    let plain = encrypted.decrypt(password).map_err(|_| failed("the password does not decrypt the key"))?;
    Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into())
}

impl Files {
    fn read(folder: &Path, endpoint: Endpoint, password: Option<&[u8]>) -> Result<Self> {
        let ca = folder.join("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        for certificate in parse_all::<CertificateDer<'_>>(&read(&ca)?, &ca)? {
            roots.add(certificate).map_err(tls_error(format!("Unable to import {}", ca.display())))?;
        }
        let crl = folder.join("ca-crl.pem");
        let revoked = match read_optional(&crl)? {
            Some(pem) => parse_all(&pem, &crl)?,
            None => Vec::new(),
        };
        let side = if endpoint == Endpoint::Client { "client" } else { "server" };
        let own_name = folder.join(format!("{side}-cert.pem"));
        let key_name = folder.join(format!("{side}-key.pem"));
        let pems = match endpoint {
            Endpoint::Server => Some((read(&own_name)?, read(&key_name)?)),
            // One without the other is a mistake.
            Endpoint::Client if own_name.exists() || key_name.exists() => {
                Some((read(&own_name)?, read(&key_name)?))
            }
            Endpoint::Client => None,
        };
        let own = match pems {
            Some((certificate, key)) => {
                Some((parse_all(&certificate, &own_name)?, parse_key(&key, &key_name, password)?))
            }
            None => None,
        };
        Ok(Self { roots: Arc::new(roots), revoked, own, own_name })
    }

    /// Refuses a certificate of our own that a peer who trusts `ca-cert.pem` would refuse.
    fn check_own(&self, endpoint: Endpoint) -> Result<()> {
        let Some((chain, _)) = &self.own else { return Ok(()) };
        let failed = tls_error(format!(
            "Our own certificate {} failed validation against ca-cert.pem",
            self.own_name.display()
        ));
        let now = UnixTime::now();
        let [own, intermediates @ ..] = chain.as_slice() else {
            return Err(BlockError::invalid("there is no certificate"));
        };
        match endpoint {
            Endpoint::Client => {
                self.client_verifier()?.verify_client_cert(own, intermediates, now).map(|_| ())
            }
            Endpoint::Server => rustls::server::ParsedCertificate::try_from(own).and_then(|own| {
                let algorithms = provider().signature_verification_algorithms.all;
                rustls::client::verify_server_cert_signed_by_trust_anchor(
                    &own,
                    &self.roots,
                    intermediates,
                    now,
                    algorithms,
                )
            }),
        }
        .map_err(failed)
    }

    fn client_verifier(&self) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .with_crls(self.revoked.clone())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| BlockError::invalid(format!("Unable to use ca-cert.pem: {error}")))
    }

    fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>> {
        WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider())
            .with_crls(self.revoked.clone())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| BlockError::invalid(format!("Unable to use ca-cert.pem: {error}")))
    }

    fn client_config(self, verify_peer: bool) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls_error("TLS"))?;
        let verifier: Arc<dyn ServerCertVerifier> = match verify_peer {
            true => Arc::new(ByName { chain: self.server_verifier()? }),
            false => Arc::new(Anybody),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        match self.own {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(tls_error(format!("Unable to use {}", self.own_name.display()))),
        }
    }

    fn server_config(self, verify_peer: bool) -> Result<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls_error("TLS"))?;
        let builder = match verify_peer {
            true => builder.with_client_cert_verifier(self.client_verifier()?),
            false => builder.with_no_client_auth(),
        };
        let Some((chain, key)) = self.own else {
            return Err(BlockError::invalid("a server needs a certificate"));
        };
        builder
            .with_single_cert(chain, key)
            .map_err(tls_error(format!("Unable to use {}", self.own_name.display())))
    }
}

impl TlsCredentials {
    pub(crate) fn take(options: &mut Options, objects: &Objects) -> Result<Self> {
        let endpoint = match options.take::<String>("endpoint")?.as_deref() {
            None | Some("client") => Endpoint::Client,
            Some("server") => Endpoint::Server,
            Some(word) => return Err(bad_value("endpoint", word)),
        };
        let verify_peer = options.take::<bool>("verify-peer")?.unwrap_or(true);
        let sanity_check = options.take::<bool>("sanity-check")?.unwrap_or(true);
        let password_id = options.take::<String>("passwordid")?;
        let folder = options
            .take::<String>("dir")?
            .ok_or_else(|| BlockError::invalid("Missing 'dir' property value"))?;
        match options.take::<String>("priority")?.as_deref() {
            None | Some("NORMAL") => {}
            Some(priority) => {
                return Err(BlockError::unsupported(format!(
                    "priority '{priority}' is not supported: TLS 1.2 and 1.3 with the usual ciphers are used"
                )));
            }
        }
        refuse_others(options)?;
        let password = password_id.map(|id| objects.get(&id).map(Zeroizing::new)).transpose()?;
        let files = Files::read(Path::new(&folder), endpoint, password.as_ref().map(|p| p.as_slice()))?;
        if sanity_check {
            files.check_own(endpoint)?;
        }
        Self::new(files, endpoint, verify_peer)
    }

    fn new(files: Files, endpoint: Endpoint, verify_peer: bool) -> Result<Self> {
        let side = match endpoint {
            Endpoint::Client => Side::Client(Arc::new(files.client_config(verify_peer)?)),
            Endpoint::Server => Side::Server(Arc::new(files.server_config(verify_peer)?)),
        };
        Ok(Self { endpoint, verify_peer, side })
    }

    /// The end they are for.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Whether the other end must prove who it is.
    pub fn verifies_peer(&self) -> bool {
        self.verify_peer
    }

    /// For connecting; an error if the credentials are a server's.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>> {
        match &self.side {
            Side::Client(config) => Ok(config.clone()),
            Side::Server(_) => Err(BlockError::invalid("Expecting TLS credentials with a client endpoint")),
        }
    }

    /// For accepting connections; an error if the credentials are a client's.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        match &self.side {
            Side::Server(config) => Ok(config.clone()),
            Side::Client(_) => Err(BlockError::invalid("Expecting TLS credentials with a server endpoint")),
        }
    }
}

/// The subject of a certificate as authorization knows it: `CN=client,O=Example` (RFC 4514, the most specific part first).
pub fn distinguished_name(certificate: &CertificateDer<'_>) -> Result<String> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|error| BlockError::invalid(format!("the peer's certificate cannot be read: {error}")))?;
    Ok(parsed.tbs_certificate().subject().to_string())
}

/// Checks a server's chain, and its name: by the alternative names, or, where there are none at all, by the common name,
/// as certificates made by hand have it.
#[derive(Debug)]
struct ByName {
    chain: Arc<WebPkiServerVerifier>,
}

/// Whether the common name stands for the host, in a certificate without alternative names.
fn common_name_is(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<bool> {
    /// subjectAltName (RFC 5280, section 4.2.1.6)
    const ALTERNATIVE_NAMES: &str = "2.5.29.17";
    let parsed =
        Certificate::from_der(certificate).map_err(|error| BlockError::invalid(error.to_string()))?;
    let parsed = parsed.tbs_certificate();
    let extensions = parsed.extensions().map_or(&[][..], |extensions| extensions.as_slice());
    if extensions.iter().any(|extension| extension.extn_id.to_string() == ALTERNATIVE_NAMES) {
        return Ok(false);
    }
    let subject = parsed.subject().to_string();
    let common = subject.split(',').find_map(|part| part.strip_prefix("CN="));
    Ok(common.is_some_and(|common| common.eq_ignore_ascii_case(&name.to_str())))
}

impl ServerCertVerifier for ByName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is checked last: all else is well.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if common_name_is(end_entity, server_name).unwrap_or(false) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// `verify-peer=off`: any server will do, so long as it has the key of the certificate it shows.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
        Issuer, KeyPair,
    };
    use rhea_block::Objects;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::{add_object, tls_credentials};

    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    impl Folder {
        /// An authority, a server named `localhost` (as alternative or only as common name), and a client.
        fn new(name: &str, alternative_name: bool) -> Self {
            let path = std::env::temp_dir().join(format!("rhea-tls-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            let mut authority = CertificateParams::new(vec![]).unwrap();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            authority.distinguished_name.push(DnType::CommonName, "test authority");
            let authority_key = KeyPair::generate().unwrap();
            write(&path, "ca-cert.pem", &authority.self_signed(&authority_key).unwrap().pem());
            let issuer = Issuer::new(authority, authority_key);
            let names = if alternative_name { vec!["localhost".to_owned()] } else { vec![] };
            for (end, names, common, usage) in [
                ("server", names, "localhost", ExtendedKeyUsagePurpose::ServerAuth),
                ("client", vec![], "anna", ExtendedKeyUsagePurpose::ClientAuth),
            ] {
                let mut params = CertificateParams::new(names).unwrap();
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::OrganizationName, "Example");
                params.distinguished_name.push(DnType::CommonName, common);
                params.extended_key_usages.push(usage);
                let key = KeyPair::generate().unwrap();
                write(&path, &format!("{end}-cert.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
                write(&path, &format!("{end}-key.pem"), &key.serialize_pem());
            }
            Self(path)
        }

        fn credentials(&self, options: &str) -> Result<Arc<TlsCredentials>> {
            let objects = Objects::default();
            objects.add("pass", b"geheim".to_vec()).unwrap();
            add_object(&objects, &format!("tls-creds-x509,id=t,dir={},{options}", self.0.display()))?;
            tls_credentials(&objects, "t")
        }
    }

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::write(folder.join(name), text).unwrap();
    }

    /// A handshake in memory; the client's name as the server sees it.
    fn handshake(
        client: &TlsCredentials,
        server: &TlsCredentials,
        name: &str,
    ) -> std::result::Result<Option<String>, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(client.client_config().unwrap(), name)?;
        let mut server = ServerConnection::new(server.server_config().unwrap())?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut from = bytes.as_slice();
            while !from.is_empty() {
                server.read_tls(&mut from).unwrap();
                server.process_new_packets()?;
            }
            bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut from = bytes.as_slice();
            while !from.is_empty() {
                client.read_tls(&mut from).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(server.peer_certificates().map(|chain| distinguished_name(&chain[0]).unwrap()))
    }

    #[test]
    fn both_ends_prove_who_they_are() {
        let folder = Folder::new("both", true);
        let client = folder.credentials("endpoint=client").unwrap();
        let server = folder.credentials("endpoint=server").unwrap();
        assert_eq!(handshake(&client, &server, "localhost").unwrap().as_deref(), Some("CN=anna,O=Example"));
        assert!(handshake(&client, &server, "elsewhere").is_err());
        assert!(client.server_config().is_err() && server.client_config().is_err());
        // A server of another authority.
        let other = Folder::new("other", true);
        let stranger = other.credentials("endpoint=server,verify-peer=off").unwrap();
        assert!(handshake(&client, &stranger, "localhost").is_err());
        let trusting = folder.credentials("endpoint=client,verify-peer=off").unwrap();
        assert_eq!(handshake(&trusting, &stranger, "localhost").unwrap(), None);
    }

    #[test]
    fn the_common_name_will_do_where_there_is_no_other() {
        let folder = Folder::new("common", false);
        let client = folder.credentials("endpoint=client").unwrap();
        let server = folder.credentials("endpoint=server,verify-peer=off").unwrap();
        assert!(handshake(&client, &server, "localhost").is_ok());
        assert!(handshake(&client, &server, "elsewhere").is_err());
    }

    #[test]
    fn a_client_needs_no_certificate_of_its_own() {
        let folder = Folder::new("anonymous", true);
        std::fs::remove_file(folder.0.join("client-cert.pem")).unwrap();
        assert!(folder.credentials("endpoint=client").unwrap_err().to_string().contains("client-cert.pem"));
        std::fs::remove_file(folder.0.join("client-key.pem")).unwrap();
        let client = folder.credentials("endpoint=client").unwrap();
        let strict = folder.credentials("endpoint=server").unwrap();
        let open = folder.credentials("endpoint=server,verify-peer=off").unwrap();
        assert!(handshake(&client, &strict, "localhost").is_err());
        assert!(handshake(&client, &open, "localhost").is_ok());
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = Folder::new("wrong", true);
        let refused = |options: &str| folder.credentials(options).unwrap_err().to_string();
        assert_eq!(refused("endpoint=foo"), "Parameter 'endpoint' does not accept value 'foo'");
        assert!(refused("endpoint=client,priority=SECURE256").contains("SECURE256"));
        write(&folder.0, "server-key.pem", "nonsense");
        assert!(refused("endpoint=server").contains("server-key.pem"));
        // A certificate of somebody else's authority.
        let other = Folder::new("wrong2", true);
        std::fs::copy(other.0.join("client-cert.pem"), folder.0.join("client-cert.pem")).unwrap();
        std::fs::copy(other.0.join("client-key.pem"), folder.0.join("client-key.pem")).unwrap();
        assert!(refused("endpoint=client").contains("failed validation"));
        assert!(folder.credentials("endpoint=client,sanity-check=off").is_ok());
        let objects = Objects::default();
        let error = add_object(&objects, "tls-creds-x509,id=t,dir=/nope").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Unable to access credentials /nope/ca-cert.pem: No such file or directory"
        );
        let error = add_object(&objects, "tls-creds-x509,id=t").unwrap_err();
        assert_eq!(error.to_string(), "Missing 'dir' property value");
    }

    #[test]
    fn keys_may_be_encrypted() {
        let folder = Folder::new("encrypted", true);
        let path = folder.0.join("server-key.pem");
        let key = pkcs8::SecretDocument::from_pem(&std::fs::read_to_string(&path).unwrap()).unwrap().1;
        let info = pkcs8::PrivateKeyInfoRef::try_from(key.as_bytes()).unwrap();
        let parameters =
            pkcs8::pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(1000, &[7; 16], [9; 16])
                .unwrap();
        let encrypted = info.encrypt_with_params(parameters, "geheim").unwrap();
        let pem = encrypted.to_pem("ENCRYPTED PRIVATE KEY", pkcs8::LineEnding::LF).unwrap();
        write(&folder.0, "server-key.pem", &pem);
        assert!(folder.credentials("endpoint=server").unwrap_err().to_string().contains("passwordid"));
        let server = folder.credentials("endpoint=server,passwordid=pass").unwrap();
        let client = folder.credentials("endpoint=client").unwrap();
        assert!(handshake(&client, &server, "localhost").is_ok());
    }
}
