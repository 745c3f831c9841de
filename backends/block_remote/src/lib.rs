//! Disks on http, https and ssh servers.
