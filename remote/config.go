package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"
)

// resolved is a target with everything filled in from the ssh configuration and the defaults.
type resolved struct {
	Target
	alias      string   // the name by which known_hosts knows the host
	identities []string // key files to try
	only       bool     // the agent's other keys are not offered
	knownHosts []string
}

// addr is host:port.
func (r *resolved) addr() string { return joinPort(r.Host, r.Port) }

func joinPort(host string, port int) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + strconv.Itoa(port)
	}
	return host + ":" + strconv.Itoa(port)
}

// key identifies a connection in the pool: everything that makes one differ from another.
func (r *resolved) key() string { return fmt.Sprintf("%#v|%s|%q", r.Target, r.alias, r.identities) }

// sshConfig reads the configuration file. The default one may be absent, or beyond what we understand; one that was
// named may not.
func (o *Options) sshConfig() (*ssh_config.Config, error) {
	path, named := o.ConfigFile, true
	switch path {
	case None:
		return nil, nil
	case "":
		path, named = inHome(".ssh/config"), false
	}
	f, err := os.Open(path)
	if err != nil {
		if !named && errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("ssh configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	cfg, err := ssh_config.Decode(f)
	if err != nil {
		if !named {
			o.Log.Warn("ssh configuration ignored", "file", path, "err", err)
			return nil, nil
		}
		return nil, fmt.Errorf("ssh configuration %s: %w", path, err)
	}
	return cfg, nil
}

// resolve fills a target in and checks what came out of the configuration as strictly as what the caller gave.
func (o *Options) resolve(t Target) (*resolved, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	cfg, err := o.sshConfig()
	if err != nil {
		return nil, err
	}
	r, err := o.fill(cfg, t)
	if err != nil {
		return nil, err
	}
	for i, j := range r.Jump {
		rj, err := o.fill(cfg, Target{User: j.User, Host: j.Host, Port: j.Port, Identity: j.Identity, KnownHosts: j.KnownHosts, HostKey: j.HostKey})
		if err != nil {
			return nil, err
		}
		j.User, j.Port = rj.User, rj.Port
		r.Jump[i] = j
	}
	return r, nil
}

func (o *Options) fill(cfg *ssh_config.Config, t Target) (*resolved, error) {
	r := &resolved{Target: t, alias: t.Host, knownHosts: o.KnownHosts}
	r.Jump = append([]Target(nil), t.Jump...)
	get := func(k string) string {
		if cfg == nil {
			return ""
		}
		v, err := cfg.Get(t.Host, k)
		if err != nil {
			return ""
		}
		return strings.Trim(v, `"`)
	}
	if v := get("HostName"); v != "" {
		r.Host = strings.ReplaceAll(v, "%h", t.Host)
		r.alias = r.Host
	}
	if v := get("HostKeyAlias"); v != "" {
		r.alias = v
	}
	if r.User == "" {
		r.User = get("User")
	}
	if r.User == "" {
		r.User = localUser()
	}
	if r.Port == 0 {
		r.Port, _ = strconv.Atoi(get("Port"))
	}
	if r.Port == 0 {
		r.Port = 22
	}
	if r.KnownHosts == "" && get("StrictHostKeyChecking") == string(AcceptNew) {
		r.KnownHosts = AcceptNew
	}
	if v := get("UserKnownHostsFile"); v != "" && v != None {
		r.knownHosts = nil
		for _, f := range strings.Fields(v) {
			r.knownHosts = append(r.knownHosts, expand(f, r))
		}
	}
	o.fillIdentities(cfg, r, t.Host, get)
	if err := fillJump(r, get, t); err != nil {
		return nil, err
	}
	return r, r.Check()
}

func (o *Options) fillIdentities(cfg *ssh_config.Config, r *resolved, alias string, get func(string) string) {
	r.only = strings.EqualFold(get("IdentitiesOnly"), "yes")
	if r.Identity != "" {
		r.identities, r.only = []string{expand(r.Identity, r)}, true
		return
	}
	if cfg != nil {
		if all, err := cfg.GetAll(alias, "IdentityFile"); err == nil {
			for _, f := range all {
				r.identities = append(r.identities, expand(strings.Trim(f, `"`), r))
			}
		}
	}
	if len(r.identities) == 0 && home() != "" {
		for _, f := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			r.identities = append(r.identities, inHome(".ssh/"+f))
		}
	}
}

func fillJump(r *resolved, get func(string) string, t Target) error {
	if len(r.Jump) > 0 {
		return nil
	}
	if v := get("ProxyJump"); v != "" && !strings.EqualFold(v, None) {
		for _, part := range strings.Split(v, ",") {
			j, err := ParseTarget(strings.TrimPrefix(strings.TrimSpace(part), "ssh://"))
			if err != nil {
				return err
			}
			j.KnownHosts = t.KnownHosts
			r.Jump = append(r.Jump, j)
		}
		return nil
	}
	if v := get("ProxyCommand"); v != "" && !strings.EqualFold(v, None) {
		return &TargetError{"host", t.Host, "has a ProxyCommand in the ssh configuration, which is not run from here; use ProxyJump"}
	}
	return nil
}

// expand replaces ~ and the tokens that ssh knows in file names.
func expand(p string, r *resolved) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		p = filepath.Join(home(), p[1:])
	}
	return strings.NewReplacer("%d", home(), "%u", localUser(), "%h", r.Host, "%r", r.User, "%p", strconv.Itoa(r.Port), "%%", "%").Replace(p)
}
