//! An SFTP session with a server: `russh` on a thread of its own, which all sessions share.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::try_join_all;
use rhea_block::{BlockError, Result, ResultExt};
use russh::client;
use russh::client::{AuthResult, Handle, Handler};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{PrivateKeyWithHashAlg, load_secret_key};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags as SftpOpenFlags, StatusCode};

use crate::ssh_host_key::HostKeyCheck;

/// Bytes of one SFTP read or write: every server takes so many.
const PACKET: usize = 32 << 10;

/// Seconds a server may take for a request, before the session is given up.
const TIMEOUT: u64 = 60;

/// Where keys are found.
#[derive(Debug, Clone)]
pub struct SshPlaces {
    /// Files of known hosts' keys.
    pub known_hosts: Vec<PathBuf>,
    /// Files of private keys without a password.
    pub identities: Vec<PathBuf>,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
}

impl SshPlaces {
    /// The user's own (`~/.ssh`, `$SSH_AUTH_SOCK`), and the system's known hosts.
    pub fn of_user() -> Self {
        let folder = std::env::home_dir().map(|home| home.join(".ssh"));
        let in_folder = |name: &str| folder.as_ref().map(|folder| folder.join(name));
        Self {
            known_hosts: in_folder("known_hosts")
                .into_iter()
                .chain(["/etc/ssh/ssh_known_hosts".into()])
                .collect(),
            identities: ["id_ed25519", "id_ecdsa", "id_rsa"].into_iter().filter_map(in_folder).collect(),
            agent: std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        }
    }
}

/// Which file on which server, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) path: String,
    pub(crate) check: HostKeyCheck,
    pub(crate) places: SshPlaces,
}

/// How a file is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Create,
}

/// The thread on which all sessions run.
fn runtime() -> Result<&'static tokio::runtime::Handle> {
    static RUNTIME: OnceLock<std::result::Result<tokio::runtime::Handle, i32>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(errno)?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("ssh".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .map_err(errno)?;
        Ok(handle)
    });
    started.as_ref().map_err(|&errno| BlockError::os(errno).context("Could not start the thread for ssh"))
}

/// Runs a future on the sessions' thread; it goes on if the caller gives up.
async fn on_thread<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match runtime()?.spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(BlockError::new(libc::EIO, format!("ssh: {error}"))),
    }
}

/// Checks the server's key, and keeps the reason if it is refused.
struct KeyChecker {
    target: Target,
    refusal: Arc<OnceLock<BlockError>>,
}

impl Handler for KeyChecker {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Self::Error> {
        let Target { host, port, check, places, .. } = &self.target;
        let checked = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                check.check(key, host, *port, &places.known_hosts)
            }
            PublicKeyOrCertificate::Certificate(_) => {
                Err(BlockError::unsupported("the server's certificate cannot be checked"))
            }
        };
        match checked {
            Ok(()) => Ok(true),
            Err(error) => {
                let _ = self.refusal.set(error);
                Ok(false)
            }
        }
    }
}

fn ssh_failed(error: russh::Error) -> BlockError {
    match error {
        russh::Error::IO(error) => BlockError::from(error),
        other => BlockError::new(libc::EIO, format!("ssh: {other}")),
    }
}

fn sftp_failed(error: russh_sftp::client::error::Error) -> BlockError {
    use russh_sftp::client::error::Error;
    match error {
        Error::Status(status) => {
            let errno = match status.status_code {
                StatusCode::NoSuchFile => libc::ENOENT,
                StatusCode::PermissionDenied => libc::EACCES,
                StatusCode::OpUnsupported => libc::ENOTSUP,
                _ => libc::EIO,
            };
            match (errno, status.error_message.as_str()) {
                (libc::EIO, "") => BlockError::new(errno, format!("sftp: {}", status.status_code)),
                (libc::EIO, message) => BlockError::new(errno, format!("sftp: {message}")),
                _ => BlockError::os(errno),
            }
        }
        Error::Timeout => BlockError::os(libc::ETIMEDOUT),
        other => BlockError::new(libc::EIO, format!("sftp: {other}")),
    }
}

async fn connect(target: &Target) -> Result<Handle<KeyChecker>> {
    let preferred = target.check.preferred(&target.host, target.port, &target.places.known_hosts);
    let mut algorithms = russh::Preferred::DEFAULT;
    if !preferred.is_empty() {
        let rest = algorithms.key.iter().filter(|algorithm| !preferred.contains(algorithm)).cloned();
        algorithms.key = Cow::Owned(preferred.iter().cloned().chain(rest).collect());
    }
    let config = client::Config {
        preferred: algorithms,
        window_size: 8 << 20,
        nodelay: true,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 4,
        ..client::Config::default()
    };
    let refusal = Arc::new(OnceLock::new());
    let checker = KeyChecker { target: target.clone(), refusal: refusal.clone() };
    let address = (target.host.trim_matches(['[', ']']), target.port);
    match tokio::time::timeout(
        Duration::from_secs(TIMEOUT),
        client::connect(Arc::new(config), address, checker),
    )
    .await
    {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(match refusal.get() {
            Some(refusal) => refusal.clone(),
            None => {
                ssh_failed(error).context(format!("failed to connect to '{}:{}'", target.host, target.port))
            }
        }),
        Err(_) => {
            Err(BlockError::os(libc::ETIMEDOUT).context(format!("failed to connect to '{}'", target.host)))
        }
    }
}

/// Proves who the user is: without more ado, with the agent's keys, or with keys in files.
async fn authenticate(session: &mut Handle<KeyChecker>, target: &Target) -> Result<()> {
    let succeeded = |result: &AuthResult| matches!(result, AuthResult::Success);
    let user = &target.user;
    if succeeded(&session.authenticate_none(user).await.map_err(ssh_failed)?) {
        return Ok(());
    }
    let rsa_hash = session.best_supported_rsa_hash().await.map_err(ssh_failed)?.flatten();
    if let Some(socket) = &target.places.agent
        && let Ok(mut agent) = AgentClient::connect_uds(socket).await
    {
        for identity in agent.request_identities().await.unwrap_or_default() {
            let AgentIdentity::PublicKey { key, .. } = identity else { continue };
            let hash = key.algorithm().is_rsa().then_some(rsa_hash).flatten();
            // An agent that declines to sign with one key may do so with the next.
            if let Ok(result) = session.authenticate_publickey_with(user, key, hash, &mut agent).await
                && succeeded(&result)
            {
                return Ok(());
            }
        }
    }
    for path in &target.places.identities {
        let Ok(key) = load_secret_key(path, None) else { continue };
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), rsa_hash);
        if succeeded(&session.authenticate_publickey(user, key).await.map_err(ssh_failed)?) {
            return Ok(());
        }
    }
    Err(BlockError::new(
        libc::EACCES,
        format!("failed to authenticate as '{user}' using publickey authentication"),
    )
    .with_hint("Keys are taken from the ssh agent, and from files in ~/.ssh that have no password."))
}

/// An open file on a server.
pub(crate) struct RemoteFile {
    sftp: Arc<RawSftpSession>,
    handle: String,
    /// Kept, as the connection ends with it.
    _session: Arc<Handle<KeyChecker>>,
    /// A request that got no answer may still happen, after any later one: nothing more is sent.
    broken: Arc<AtomicBool>,
    /// The server can put data on stable storage.
    pub(crate) has_fsync: bool,
    /// Bytes, when it was opened.
    pub(crate) length: u64,
}

impl RemoteFile {
    /// Connects and opens.
    pub(crate) async fn open(target: Target, access: Access) -> Result<Self> {
        on_thread(async move {
            let mut session = connect(&target).await?;
            authenticate(&mut session, &target).await?;
            let channel = session.channel_open_session().await.map_err(ssh_failed)?;
            channel.request_subsystem(true, "sftp").await.map_err(ssh_failed)?;
            let sftp = RawSftpSession::new(channel.into_stream());
            sftp.set_timeout(TIMEOUT);
            let version = sftp.init().await.map_err(sftp_failed).context("failed to initialize sftp")?;
            let (flags, permissions) = match access {
                Access::Read => (SftpOpenFlags::READ, None),
                Access::Write => (SftpOpenFlags::READ | SftpOpenFlags::WRITE, None),
                Access::Create => (
                    SftpOpenFlags::READ
                        | SftpOpenFlags::WRITE
                        | SftpOpenFlags::CREATE
                        | SftpOpenFlags::TRUNCATE,
                    Some(0o644),
                ),
            };
            let attributes = FileAttributes { permissions, ..FileAttributes::empty() };
            let failed = format!("failed to open remote file '{}'", target.path);
            let handle =
                sftp.open(&target.path, flags, attributes).await.map_err(sftp_failed).context(failed)?.handle;
            let attributes = sftp.fstat(&handle).await.map_err(sftp_failed)?.attrs;
            let length = attributes
                .size
                .ok_or_else(|| BlockError::new(libc::EIO, "the server does not tell the file's size"))?;
            Ok(Self {
                sftp: Arc::new(sftp),
                handle,
                _session: Arc::new(session),
                broken: Arc::default(),
                has_fsync: version.extensions.contains_key("fsync@openssh.com"),
                length,
            })
        })
        .await
    }

    /// Makes a request on the sessions' thread.
    async fn request<T, F>(&self, work: impl FnOnce(Arc<RawSftpSession>, String) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = std::result::Result<T, russh_sftp::client::error::Error>> + Send + 'static,
    {
        if self.broken.load(SeqCst) {
            return Err(BlockError::new(libc::EIO, "the connection to the ssh server is lost"));
        }
        let work = work(self.sftp.clone(), self.handle.clone());
        let broken = self.broken.clone();
        on_thread(async move {
            work.await.map_err(|error| {
                if !matches!(error, russh_sftp::client::error::Error::Status(_)) {
                    broken.store(true, SeqCst);
                }
                sftp_failed(error)
            })
        })
        .await
    }

    /// Reads bytes that lie within the file.
    pub(crate) async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let pieces = self
            .request(|sftp, handle| async move {
                let starts = (0..len).step_by(PACKET);
                try_join_all(
                    starts.map(|at| read_piece(&sftp, &handle, offset + at as u64, PACKET.min(len - at))),
                )
                .await
            })
            .await?;
        Ok(pieces.concat())
    }

    /// Writes bytes, making the file longer if need be.
    pub(crate) async fn write(&self, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.request(|sftp, handle| async move {
            let pieces = bytes.chunks(PACKET).enumerate();
            let writes = pieces.map(|(index, piece)| {
                let at = offset + (index * PACKET) as u64;
                sftp.write(&handle, at, piece.to_vec())
            });
            try_join_all(writes).await.map(|_| ())
        })
        .await
    }

    /// Moves the file's end.
    pub(crate) async fn set_length(&self, length: u64) -> Result<()> {
        let attributes = FileAttributes { size: Some(length), ..FileAttributes::empty() };
        self.request(|sftp, handle| async move { sftp.fsetstat(&handle, attributes).await }).await.map(|_| ())
    }

    /// Everything written is on the server's stable storage when this ends.
    pub(crate) async fn fsync(&self) -> Result<()> {
        self.request(|sftp, handle| async move { sftp.fsync(&handle).await }).await.map(|_| ())
    }
}

/// Reads all of a piece; servers may answer with less than they were asked for.
async fn read_piece(
    sftp: &RawSftpSession,
    handle: &str,
    offset: u64,
    len: usize,
) -> std::result::Result<Vec<u8>, russh_sftp::client::error::Error> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let wanted = len - bytes.len();
        let data = sftp.read(handle, offset + bytes.len() as u64, wanted as u32).await?.data;
        if data.is_empty() || data.len() > wanted {
            return Err(russh_sftp::client::error::Error::UnexpectedBehavior(format!(
                "{} bytes came where {wanted} were asked for",
                data.len()
            )));
        }
        bytes.extend(data);
    }
    Ok(bytes)
}
