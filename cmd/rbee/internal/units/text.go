package units

// sysusers makes the user that the queen runs as. The groups let the engines that she starts use graphics cards.
const sysusers = `# user of queen-rbee
u rbee - "queen-rbee" /var/lib/rbee /usr/sbin/nologin
g video -
g render -
m rbee video
m rbee render
`

const head = `# Written by rbee install. Change it with systemctl edit queen-rbee, which keeps changes apart.
[Unit]
Description=queen-rbee, one private inference service out of the machines you own
Documentation=https://github.com/queen-rbee/queen-rbee
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

`

// service takes the command line. The queen says that she is alive while she answers at her own address and her queue,
// registry, scheduler and router answer too. A hive outlives a queen that crashed, and the next one adopts it: so only
// the queen herself is killed.
const service = `[Service]
Type=notify
NotifyAccess=main
ExecStart=%s
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=30
TimeoutStartSec=120
TimeoutStopSec=90
Restart=on-failure
RestartSec=2
KillMode=process
LimitNOFILE=1048576
# memory that an engine shares with a graphics card must not be swapped out
LimitMEMLOCK=infinity
UMask=0077

`

const dedicated = `User=rbee
Group=rbee
SupplementaryGroups=video render
StateDirectory=rbee
StateDirectoryMode=0700
WorkingDirectory=/var/lib/rbee
Environment=HOME=/var/lib/rbee

`

// hardened holds for every unit.
const hardened = `NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
`

// sandbox is what only the machine's own systemd can do. The queen's local hive and its engines run inside it: they need the
// devices of graphics cards (so no PrivateDevices) and code made at run time (so no MemoryDenyWriteExecute).
const sandbox = `CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
# models may lie in a home directory; nothing is written there
ProtectHome=read-only
PrivateTmp=yes
PrivateMounts=yes
ProtectProc=invisible
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
DevicePolicy=closed
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
DeviceAllow=char-nvidia* rw
`

const systemTail = `
[Install]
WantedBy=multi-user.target
`

const userTail = `
[Install]
WantedBy=default.target
`

// queenConfig is the first configuration.
const queenConfig = `# The queen's configuration; every key can be left out. "queen-rbee --config FILE config check" checks it,
# "systemctl reload queen-rbee" makes a running queen take it over.
listen: 127.0.0.1:7833
models:
  demo: {ref: "sim:demo"}        # a simulator, not a language model
  # mine: {ref: "file:/srv/models/mine.gguf", engine: llama.cpp, slots: 2, context: 4096, ttl: 10m}
hives:
  - {name: local, mode: local}
  # - {name: gpu1, mode: network, ssh: "ops@gpu1", identity: /var/lib/rbee/.ssh/id_ed25519}
`
