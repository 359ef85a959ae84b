package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// problem is an error of check with the path of the key it is about.
type problem struct {
	path string // YAML path, e.g. $.models.demo.ref
	msg  string
}

func (p *problem) Error() string { return strings.TrimPrefix(p.path, "$.") + ": " + p.msg }

func bad(path, format string, args ...any) error { return &problem{path, fmt.Sprintf(format, args...)} }

func (c *Config) check() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return bad("$.listen", "%q is not HOST:PORT", c.Listen)
	}
	for _, check := range []func() error{c.checkStore, c.checkHives, c.checkEngines, c.checkModels, c.checkExternals, c.checkNumbers, c.checkChoices, c.checkHTTP, c.checkTLS} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkStore() error {
	switch {
	case c.Store == "", strings.HasPrefix(c.Store, "sqlite:"):
		return nil
	case strings.HasPrefix(c.Store, "postgres://"), strings.HasPrefix(c.Store, "postgresql://"):
		return bad("$.store", "PostgreSQL is not built into this version (docs/adr, roadmap): use sqlite:PATH")
	}
	return bad("$.store", "is neither sqlite:PATH nor postgres://...")
}

func (c *Config) checkHives() error {
	seen := map[string]bool{}
	for i, h := range *c.Hives {
		path := fmt.Sprintf("$.hives[%d]", i)
		switch {
		case !nameForm.MatchString(h.Name):
			return bad(path, "name %q: use 1 to 63 letters, digits, dots, dashes, beginning with a letter or digit", h.Name)
		case seen[h.Name]:
			return bad(path, "the name %q is used twice", h.Name)
		case h.Mode != "local" && h.Mode != "network":
			return bad(path, "mode is local or network, not %q", h.Mode)
		case h.Mode == "network" && h.SSH == "":
			return bad(path, "a network hive needs ssh: [USER@]HOST[:PORT]")
		case h.Mode == "local" && h.SSH != "":
			return bad(path, "ssh is for hives on other machines: say mode: network, or leave ssh out")
		case h.MTLS != nil && h.Address == "":
			return bad(path, "mtls is for hives with an address: SSH carries the traffic of the others")
		case h.KnownHosts != "strict" && h.KnownHosts != "accept-new":
			return bad(path, "known_hosts is strict or accept-new, not %q", h.KnownHosts)
		case h.Budget < 0 || h.Budget > 1:
			return bad(path, "budget is a share between 0 and 1")
		}
		seen[h.Name] = true
	}
	return nil
}

func (c *Config) checkEngines() error {
	for name, e := range c.Engines {
		path := "$.engines." + name
		switch {
		case !nameForm.MatchString(name):
			return bad(path, "an engine's name is 1 to 63 letters, digits, dots and dashes")
		case len(e.Command) == 0 && !builtin(name):
			return bad(path, "command is missing")
		case e.Adapter != "" && e.Adapter != "command" && !builtin(e.Adapter):
			return bad(path, "adapter is llama.cpp, ollama, vllm, sim or command, not %q", e.Adapter)
		case e.Protocol != "" && e.Protocol != "openai" && e.Protocol != "execute":
			return bad(path, "protocol is openai or execute, not %q", e.Protocol)
		case e.Slots < 0 || e.Slots > 65_536:
			return bad(path, "slots is 0 to 65536")
		case e.Health != "" && !strings.HasPrefix(e.Health, "/"):
			return bad(path, "health is a path that begins with /")
		}
	}
	return nil
}

func builtin(engine string) bool {
	return slices.Contains([]string{"llama.cpp", "ollama", "vllm", "sim"}, engine)
}

func (c *Config) checkModels() error {
	for name, m := range c.Models {
		path := "$.models." + name
		if _, own := c.Engines[m.Engine]; m.Engine != "" && !own && !builtin(m.Engine) {
			return bad(path, "engine %q is neither built in (llama.cpp, ollama, vllm, sim) nor under engines", m.Engine)
		}
		switch {
		case name == "" || len(name) > 256 || strings.ContainsFunc(name, func(r rune) bool { return r < 0x21 || r == 0x7f }):
			return bad(path, "a model's name is 1 to 256 characters without spaces or control characters")
		case m.Ref == "":
			return bad(path, "ref is missing: file:/PATH, hf:ORG/REPO, ollama:NAME or sim:NAME")
		case m.Slots < 0 || m.Context < 0 || m.Workers < 0 || m.TTL < 0:
			return bad(path, "slots, context, workers and ttl are 0 or more")
		case m.Workers > 1000:
			return bad(path, "workers is at most 1000")
		}
	}
	return nil
}

func (c *Config) checkExternals() error {
	seen := map[string]bool{}
	for i, e := range c.Externals {
		path := fmt.Sprintf("$.externals[%d]", i)
		u, err := url.Parse(e.URL)
		switch {
		case !nameForm.MatchString(e.Name):
			return bad(path, "name %q: use letters, digits, dots and dashes", e.Name)
		case seen[e.Name]:
			return bad(path, "the name %q is used twice", e.Name)
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
			return bad(path, "url %q is not http://HOST:PORT or https://HOST", e.URL)
		case u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1"):
			return bad(path, "url is where the server's /v1 stands: leave out what comes from there on")
		case u.User != nil:
			return bad(path, "put the key into api_key, not into url")
		case e.Protocol != "openai" && e.Protocol != "execute":
			return bad(path, "protocol is openai or execute, not %q", e.Protocol)
		case len(e.Models) == 0:
			return bad(path, "models is empty: name what clients may use, {name for clients: name there}")
		case e.Slots < 1 || e.Slots > 1_000_000:
			return bad(path, "slots is 1 to 1000000")
		}
		seen[e.Name] = true
	}
	return nil
}

func (c *Config) checkNumbers() error {
	for path, d := range map[string]Duration{"$.queue.timeout": c.Queue.Timeout, "$.queue.retention": c.Queue.Retention,
		"$.queue.keep_events": c.Queue.KeepEvents, "$.timeouts.first_token": c.Timeouts.FirstToken,
		"$.timeouts.inter_token": c.Timeouts.InterToken, "$.timeouts.model_wait": c.Timeouts.ModelWait} {
		if d <= 0 {
			return bad(path, "must be longer than 0")
		}
	}
	if c.Timeouts.Drain < 0 || c.Queue.Reattach < 0 {
		return bad("$.timeouts.drain", "drain and queue.reattach are 0 or more")
	}
	if c.Queue.Max < 1 || c.Queue.Max > 10_000_000 {
		return bad("$.queue.max", "is 1 to 10000000")
	}
	for name, l := range c.Limits {
		if l.RPM < 0 || l.TPM < 0 || l.Concurrent < 0 || l.TokensPerDay < 0 {
			return bad("$.limits."+name, "limits are 0 (none) or more")
		}
	}
	if c.Timeouts.Load != "auto" {
		if d, err := time.ParseDuration(c.Timeouts.Load); err != nil || d <= 0 {
			return bad("$.timeouts.load", "is auto or a duration, not %q", c.Timeouts.Load)
		}
	}
	return nil
}

func (c *Config) checkHTTP() error {
	for _, h := range c.HTTP.Hosts {
		if h == "" || strings.ContainsAny(h, "/@* ") {
			return bad("$.http.hosts", "%q is not a host's name", h)
		}
	}
	for _, o := range c.HTTP.Origins {
		if u, err := url.Parse(o); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.User != nil || strings.Contains(o, "*") {
			return bad("$.http.origins", "%q is not SCHEME://HOST[:PORT]", o)
		}
	}
	return nil
}

// checkTLS looks at the names of the files alone, and repeats none that may be a key itself.
func (c *Config) checkTLS() error {
	for path, v := range map[string]string{"$.tls.cert": c.TLS.Cert, "$.tls.key": c.TLS.Key} {
		if strings.ContainsAny(v, "\n\r") || strings.Contains(v, "-----BEGIN") {
			return bad(path, "is the path of a PEM file, not what stands in it")
		}
	}
	switch {
	case c.TLS.Cert != "" && c.TLS.Key == "":
		return bad("$.tls", "key is missing: name the file of the certificate's private key, or leave cert out for plain HTTP")
	case c.TLS.Cert == "" && c.TLS.Key != "":
		return bad("$.tls", "cert is missing: name the file of the certificate with its chain, or leave key out for plain HTTP")
	}
	return nil
}

func (c *Config) checkChoices() error {
	for _, choice := range []struct {
		path, value string
		allowed     []string
	}{
		{"$.auth.mode", c.Auth.Mode, []string{"auto", "keys"}},
		{"$.scheduler.mode", c.Scheduler.Mode, []string{"home", "platform"}},
		{"$.log.format", c.Log.Format, []string{"text", "json"}},
		{"$.log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
	} {
		if !slices.Contains(choice.allowed, choice.value) {
			return bad(choice.path, "is one of %s, not %q", strings.Join(choice.allowed, ", "), choice.value)
		}
	}
	return nil
}

// lineOf finds the line of the key that a problem is about; 0 when it is not in the file.
func lineOf(file string, err error) int {
	p, ok := err.(*problem)
	if !ok || file == "" {
		return 0
	}
	path, err := yaml.PathString(p.path)
	if err != nil {
		return 0
	}
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	node, err := path.ReadNode(f)
	if err != nil || node == nil || node.GetToken() == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

// Show prints the effective configuration as YAML with secrets masked.
func (c *Config) Show() ([]byte, error) {
	masked := *c
	masked.Externals = slices.Clone(c.Externals)
	for i := range masked.Externals {
		if masked.Externals[i].APIKey != "" {
			masked.Externals[i].APIKey = "********"
		}
	}
	if u, err := url.Parse(c.Store); err == nil && u.User != nil {
		masked.Store = u.Redacted()
	}
	masked.Engines = map[string]Engine{}
	for name, e := range c.Engines {
		e.Env = maskEnv(e.Env)
		masked.Engines[name] = e
	}
	return yaml.Marshal(masked)
}

func maskEnv(env map[string]string) map[string]string {
	out := make(map[string]string, len(env))
	for k := range env {
		out[k] = "********"
	}
	return out
}
