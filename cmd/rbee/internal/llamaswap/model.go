package llamaswap

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// model turns one entry into an engine, a model and its aliases.
func (im *importer) model(name string, m model) error {
	e := Engine{Protocol: "openai", ModelName: m.UseModelName, Slots: m.Concurrency, Health: m.CheckEndpoint}
	if im.in.HealthCheckTimeout > 0 {
		e.ReadyTimeout = (time.Duration(im.in.HealthCheckTimeout) * time.Second).String()
	}
	expand := im.expander(name, m)
	if m.Cmd == "" {
		im.note("models.%s: it has no cmd; left out (write a server that already runs as one of externals)", name)
		return nil
	}
	cmd, err := expand(m.Cmd)
	if err != nil {
		return err
	}
	c := command{im: im, model: name}
	if c.argv, err = split(cmd); err != nil {
		return fmt.Errorf("cmd: %w", err)
	}
	if len(c.argv) == 0 {
		return fmt.Errorf("cmd is empty")
	}
	proxy, err := expand(m.Proxy)
	if err != nil {
		return err
	}
	if !c.port(proxy) {
		return nil
	}
	out := Model{TTL: im.ttl(m), Set: m.Filters.SetParams, Strip: list(m.Filters.StripParams + "," + m.Filters.StripOld)}
	if out.Ref = c.take(&e, &out); out.Ref == "" {
		return nil
	}
	if err := im.stopCommand(&c, &e, expand, m.CmdStop); err != nil {
		return err
	}
	if e.Env, err = environment(m.Env, expand); err != nil {
		return err
	}
	if e.Health == "none" {
		e.Health = "/"
		im.note("models.%s.checkEndpoint: none has no equivalent; / is asked", name)
	}
	e.Command = c.argv
	out.Engine = im.engineName(name)
	im.out.Engines[out.Engine], im.out.Models[name] = e, out
	for _, alias := range m.Aliases {
		im.out.Aliases[alias] = name
	}
	return nil
}

func (im *importer) ttl(m model) string {
	n := im.in.GlobalTTL
	if m.TTL != nil && *m.TTL >= 0 {
		n = *m.TTL
	}
	if n <= 0 {
		return ""
	}
	return (time.Duration(n) * time.Second).String()
}

var (
	macroForm = regexp.MustCompile(`\$\{([A-Za-z0-9_.-]+)\}`)
	lineNote  = regexp.MustCompile(`(?m)^\s*#.*$`)
)

// expander replaces macros: the model's before the file's; PORT becomes our placeholder, PID stays for the stop command.
func (im *importer) expander(name string, m model) func(string) (string, error) {
	values := map[string]string{"PORT": "{port}", "MODEL_ID": name, "PID": "${PID}"}
	for _, list := range []yaml.MapSlice{im.in.Macros, m.Macros} {
		for _, it := range list {
			values[fmt.Sprint(it.Key)] = fmt.Sprint(it.Value)
		}
	}
	return func(s string) (string, error) {
		s = lineNote.ReplaceAllString(s, "")
		for range 16 {
			var missing string
			next := macroForm.ReplaceAllStringFunc(s, func(ref string) string {
				key := ref[2 : len(ref)-1]
				if v, ok := values[key]; ok {
					return lineNote.ReplaceAllString(v, "")
				}
				if env, ok := strings.CutPrefix(key, "env."); ok {
					if v, ok := os.LookupEnv(env); ok {
						return v
					}
				}
				missing = ref
				return ref
			})
			if missing != "" {
				return "", fmt.Errorf("the macro %s is not defined", missing)
			}
			if next == s {
				return s, nil
			}
			if len(next) > 64<<10 {
				return "", fmt.Errorf("the macros make a text of more than 64 KiB")
			}
			s = next
		}
		return "", fmt.Errorf("the macros refer to each other without end")
	}
}

// command is a command line on its way to ours.
type command struct {
	im    *importer
	model string
	argv  []string
	named string // --name of a container
}

func (c *command) note(format string, args ...any) {
	c.im.note("models."+c.model+": "+format, args...)
}

func (c *command) program() string { return strings.TrimSuffix(filepath.Base(c.argv[0]), ".exe") }

func (c *command) container() bool { return c.program() == "docker" || c.program() == "podman" }

// port makes sure that the worker is told its port; false when it can't be reached where ours would look.
func (c *command) port(proxy string) bool {
	if proxy == "" {
		proxy = "http://localhost:{port}"
	}
	placed := strings.Contains(proxy, "{port}")
	u, err := url.Parse(strings.ReplaceAll(proxy, "{port}", "1"))
	if err != nil || u.Host == "" {
		c.note("proxy %q can't be read; left out", proxy)
		return false
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && !ip.IsLoopback() {
		c.note("proxy %s is not this machine, on which a hive looks for its workers; left out (write it as one of externals)", u.Host)
		return false
	}
	if u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
		c.note("proxy %q: workers are spoken to by http at their root; the rest is left out", proxy)
	}
	told := func(arg string) bool { return strings.Contains(arg, "{port}") }
	if !placed && u.Port() != "" {
		fixed := regexp.MustCompile(`(^|[=:])` + u.Port() + `($|:)`)
		for i, arg := range c.argv {
			c.argv[i] = fixed.ReplaceAllString(arg, "${1}{port}${2}")
		}
		if slices.ContainsFunc(c.argv, told) {
			c.note("the fixed port %s became {port}, which the hive chooses", u.Port())
		}
	}
	if !slices.ContainsFunc(c.argv, told) {
		c.note("cmd does not take its port (${PORT}); left out")
		return false
	}
	return true
}

// flag returns the value of the first of some flags and where it stands.
func (c *command) flag(names ...string) (value string, set func(string)) {
	for i, arg := range c.argv[1:] {
		for _, n := range names {
			if arg == n && i+2 < len(c.argv) {
				return c.argv[i+2], func(v string) { c.argv[i+2] = v }
			}
			if v, ok := strings.CutPrefix(arg, n+"="); ok && strings.HasPrefix(n, "--") {
				return v, func(v string) { c.argv[i+1] = n + "=" + v }
			}
		}
	}
	return "", func(string) {}
}

// drop takes a flag with its value away.
func (c *command) drop(names ...string) bool {
	for i, arg := range c.argv {
		for _, n := range names {
			if arg == n && i+1 < len(c.argv) {
				c.argv = slices.Delete(c.argv, i, i+2)
				return true
			}
			if strings.HasPrefix(arg, n+"=") {
				c.argv = slices.Delete(c.argv, i, i+1)
				return true
			}
		}
	}
	return false
}

// take finds the model in the command, puts placeholders in its place, and returns its reference; "" when there is none.
func (c *command) take(e *Engine, out *Model) string {
	if c.container() {
		return c.takeContainer()
	}
	switch c.program() {
	case "llama-server":
		e.Adapter = "llama.cpp"
	case "vllm":
		e.Adapter = "vllm"
	}
	if e.Adapter != "" && c.drop("--api-key") {
		c.note("--api-key was dropped; the hive gives each worker a key of its own")
	}
	if host, set := c.flag("--host"); host != "" {
		set("{host}")
	}
	if n, _ := c.flag("-np", "--parallel", "--max-num-seqs"); n != "" {
		e.Slots, _ = strconv.Atoi(n)
	}
	if n, _ := c.flag("-c", "--ctx-size", "--max-model-len"); n != "" {
		out.Context, _ = strconv.Atoi(n)
	}
	if v, set := c.flag("-m", "--model"); v != "" {
		return c.file(v, set, e.Adapter == "vllm")
	}
	if e.Adapter == "vllm" && len(c.argv) > 2 && c.argv[1] == "serve" {
		return c.file(c.argv[2], func(v string) { c.argv[2] = v }, true)
	}
	if v, _ := c.flag("-hf", "-hfr", "--hf-repo"); v != "" {
		return c.hub(v)
	}
	c.note("cmd names no model (-m, --model, -hf); left out: write it with a ref by hand")
	return ""
}

// file is the reference of a path, or of a repository where the engine would take one.
func (c *command) file(v string, set func(string), repository bool) string {
	switch {
	case strings.HasPrefix(v, "/"):
		set("{model_path}")
		return "file:" + path.Clean(v)
	case !repository || strings.HasPrefix(v, ".") || strings.HasSuffix(v, ".gguf") || strings.Count(v, "/") != 1:
		c.note("the model %q has no absolute path; left out: name it with its whole path", v)
		return ""
	}
	set("{model_path}")
	return "hf:" + v
}

// hub replaces llama-server's own download by the hive's.
func (c *command) hub(v string) string {
	repo, quant, _ := strings.Cut(v, ":")
	ref := "hf:" + repo
	c.drop("-hf", "-hfr", "--hf-repo")
	if f, _ := c.flag("-hff", "--hf-file"); f != "" {
		ref += "::file=" + f
		c.drop("-hff", "--hf-file")
	} else if quant != "" {
		c.note("-hf %s: the quantization is chosen by the device's memory; name the file with ::file= to have %s", v, quant)
	}
	c.argv = append(c.argv, "-m", "{model_path}")
	return ref
}

// takeContainer finds the file on this machine that a container's volume shows.
func (c *command) takeContainer() string {
	if name, set := c.flag("--name"); name != "" {
		c.named = name
		set("{worker_id}") // two workers of a model are two containers
	}
	inside, _ := c.flag("-m", "--model")
	var mounts []string
	for i, arg := range c.argv {
		if (arg == "-v" || arg == "--volume") && i+1 < len(c.argv) {
			mounts = append(mounts, c.argv[i+1])
		} else if v, ok := strings.CutPrefix(arg, "--volume="); ok {
			mounts = append(mounts, v)
		}
	}
	for _, m := range mounts {
		host, to, ok := strings.Cut(m, ":")
		to, _, _ = strings.Cut(to, ":")
		rest, under := strings.CutPrefix(inside, strings.TrimSuffix(to, "/")+"/")
		if ok && under && inside != "" && strings.HasPrefix(host, "/") {
			return "file:" + path.Join(host, rest)
		}
	}
	c.note("no volume (-v /HOST:/CONTAINER) of the container holds its model (-m, --model); left out: write it with a ref by hand")
	return ""
}

func (im *importer) stopCommand(c *command, e *Engine, expand func(string) (string, error), stop string) error {
	if stop == "" {
		return nil
	}
	text, err := expand(stop)
	if err != nil {
		return err
	}
	if strings.Contains(text, "${PID}") {
		c.note("cmdStop with ${PID} has no equivalent; the process group is sent TERM, later KILL")
		return nil
	}
	if e.Stop, err = split(text); err != nil {
		return fmt.Errorf("cmdStop: %w", err)
	}
	for i, arg := range e.Stop {
		if c.named != "" && arg == c.named {
			e.Stop[i] = "{worker_id}"
		}
	}
	return nil
}

func environment(pairs []string, expand func(string) (string, error)) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, kv := range pairs {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("env: %q is not KEY=VALUE", kv)
		}
		var err error
		if out[k], err = expand(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func list(s string) (out []string) {
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// split cuts a command line into words as a shell does: quotes, backslashes, and lines that go on.
func split(s string) (out []string, err error) {
	var word strings.Builder
	var quote rune
	begun, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			escaped = false
			if r != '\n' {
				word.WriteRune(r)
				begun = true
			}
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if begun {
				out = append(out, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if begun {
		out = append(out, word.String())
	}
	return out, nil
}
