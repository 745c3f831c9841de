//! What `--help` and `--version` print.

/// The help text.
pub fn text(program: &str) -> String {
    format!(
        "Usage: {program} [OPTIONS] FILE
  or:  {program} -L [OPTIONS]
Serves a disk image to NBD clients

  -h, --help                print this text
  -V, --version             print the version

Connection properties:
  -p, --port=PORT           TCP port to listen on (default 10809)
  -b, --bind=IFACE          address to listen on (default 0.0.0.0)
  -k, --socket=PATH         Unix socket to listen on
  -e, --shared=NUM          clients at a time; 0: any number (default 1)
  -t, --persistent          go on when the last client has left
  -v, --verbose             tell of clients that come and go
  -x, --export-name=NAME    the export's name (default: empty)
  -D, --description=TEXT    a line for people about the export
      --handshake-limit=N   seconds a client's handshake may take; 0: any time
                            (default 10)

Exposing part of the image:
  -o, --offset=OFFSET       where in the image the export starts
  -A, --allocation-depth    tell clients in which layer data lies
  -B, --bitmap=NAME         tell clients of a persistent dirty bitmap

General purpose options:
  -L, --list                print what another NBD server offers
      --object type,id=ID,...
                            define a secret, TLS credentials, or authorization
      --tls-creds=ID        the object with the TLS credentials
      --tls-authz=ID        the object that says which clients are let in
      --tls-hostname=NAME   the name in the server's certificate (with -L)
      --fork                go on in the background once clients are served
      --pid-file=PATH       write the server's process number into a file

Kernel NBD client support:
  -c, --connect=DEV         make the image the kernel's device DEV
  -d, --disconnect          disconnect the kernel's device FILE

Block device options:
  -f, --format=FORMAT       the image's format (default: found out)
  -r, --read-only           refuse writes
  -s, --snapshot            writes go to a temporary file
  -l, --load-snapshot=SNAPSHOT
                            serve an internal snapshot, read-only: its id or
                            name, or snapshot.id=ID,snapshot.name=NAME
  -n, --nocache             the same as --cache=none
      --cache=MODE          none, writeback (default), writethrough,
                            directsync or unsafe
      --aio=MODE            native, io_uring or threads
      --discard=MODE        ignore (default) or unmap
      --detect-zeroes=MODE  off (default), on or unmap
      --image-opts          FILE is a full set of image options
"
    )
}

/// The line of `--version`.
pub fn version(program: &str) -> String {
    format!("{program} (Rhea) version {}\n", env!("CARGO_PKG_VERSION"))
}
