//! What `--help` and `--version` print.

/// The help text.
pub fn text(program: &str) -> String {
    format!(
        "Usage: {program} [options]
Block devices for others, without a machine

  -h, --help             print this text
  -V, --version          print the version

  --blockdev [driver=]<driver>,node-name=<N>[,discard=ignore|unmap]
             [,cache.direct=on|off][,cache.no-flush=on|off]
             [,read-only=on|off][,auto-read-only=on|off]
             [,force-share=on|off][,detect-zeroes=on|off|unmap]
             [,options of the driver...]
                         open a block device

  --chardev <backend>,id=<id>[,options of the backend...]
                         open a character device (null, file, stdio)

  --daemonize            go on in the background once everything is set up

  --export [type=]nbd,id=<id>,node-name=<N>[,name=<name>]
           [,description=<text>][,writable=on|off][,writethrough=on|off]
           [,bitmaps.0=<bitmap>...][,allocation-depth=on|off]
                         export a block device over NBD (needs --nbd-server)

  --export [type=]fuse,id=<id>,node-name=<N>,mountpoint=<file>
           [,growable=on|off][,writable=on|off][,writethrough=on|off]
           [,allow-other=on|off|auto]
                         export a block device as a regular file

  --export [type=]vhost-user-blk,id=<id>,node-name=<N>,
           addr.type=unix,addr.path=<path> or addr.type=fd,addr.str=<fd>
           [,writable=on|off][,writethrough=on|off]
           [,logical-block-size=<bytes>][,num-queues=<number>]
                         export a block device to a virtual machine

  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>
  --nbd-server addr.type=unix,addr.path=<path>
               [,tls-creds=<id>][,tls-authz=<id>][,max-connections=<n>]
                         listen for NBD clients

  --object help          list the types of objects
  --object <type>,help   list the properties of a type
  --object <type>,id=<id>[,<property>=<value>...]
                         make an object, such as a secret

  --pidfile <path>       write the process number into a file
"
    )
}

/// The line of `--version`.
pub fn version(program: &str) -> String {
    format!("{program} (Rhea) version {}\n", env!("CARGO_PKG_VERSION"))
}
