// Package remote is an SSH client for programs: pooled connections with reference counts, commands with separate
// output and exit status, streams, files with checksums, and connections into the far network. It reads ~/.ssh/config,
// known_hosts, keys and the agent as ssh does, is strict about host keys, notices a dead link within seconds, and never
// asks more of a server than its usual limits allow.
package remote
