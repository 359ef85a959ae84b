package compose

import (
	"context"
	"os"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/remote"
)

// connector lets hivelifecycle reach other machines over SSH.
type connector struct{ pool *remote.Pool }

var (
	_ hivelifecycle.Connector = (*connector)(nil)
	_ hivelifecycle.Runner    = (*remote.Client)(nil)
)

// Connect implements hivelifecycle.Connector.
func (c *connector) Connect(ctx context.Context, t hivelifecycle.SSHTarget) (hivelifecycle.Runner, error) {
	client, err := c.pool.Connect(ctx, remoteTarget(t))
	if err != nil {
		return nil, err // not a nil *Client in an interface
	}
	return client, nil
}

func remoteTarget(t hivelifecycle.SSHTarget) remote.Target {
	out := remote.Target{User: t.User, Host: t.Host, Port: t.Port, Identity: t.Identity, KnownHosts: remote.Policy(t.KnownHosts), HostKey: t.HostKey}
	for _, j := range t.Jump {
		out.Jump = append(out.Jump, remoteTarget(j))
	}
	return out
}

// sshTarget reads a configured hive's target.
func sshTarget(h config.Hive) (remote.Target, error) {
	t, err := remote.ParseTarget(h.SSH)
	if err != nil {
		return t, err
	}
	t.Identity, t.KnownHosts, t.HostKey = h.Identity, remote.Policy(h.KnownHosts), h.HostKey
	return t, t.Check()
}

// networkConfig is how hivelifecycle is to reach a registered hive.
func (q *Queen) networkConfig(h *registry.Hive) hivelifecycle.NetworkConfig {
	n := hivelifecycle.NetworkConfig{Name: h.Name, KeepTrying: true}
	if mirror := os.Getenv("HF_ENDPOINT"); mirror != "" { // a hive here has the queen's environment, one there has not
		n.Args = append(n.Args, "--hf-endpoint="+mirror)
	}
	if h.SSH != nil {
		n.Target = hivelifecycle.SSHTarget{User: h.SSH.User, Host: h.SSH.Host, Port: h.SSH.Port, Identity: h.SSH.Identity, HostKey: h.SSH.HostKey, KnownHosts: string(remote.Strict)}
	}
	for _, c := range *q.hives.Load() {
		if c.Name == h.Name && c.KnownHosts != "" {
			n.Target.KnownHosts = c.KnownHosts
		}
		if c.Name == h.Name && c.Address != "" {
			n.Addr, n.Direct, n.Plain = c.Address, true, c.MTLS != nil && !*c.MTLS
		}
	}
	return n
}
