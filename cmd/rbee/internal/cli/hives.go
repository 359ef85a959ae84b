package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
)

func (a *cli) hiveColumns() []column {
	memory := func(key string) func(record) string {
		return func(r record) string {
			var sum float64
			devices, _ := r["devices"].([]any)
			for _, d := range devices {
				if m, ok := d.(map[string]any); ok {
					n, _ := m[key].(float64)
					sum += n
				}
			}
			return bytesText(sum)
		}
	}
	return []column{field("HIVE", "node_name"), field("STATUS", "status"), field("MODE", "mode"),
		{head: "FREE", text: memory("memory_free")}, {head: "TOTAL", text: memory("memory_total")},
		{head: "WORKERS", text: func(r record) string { l, _ := r["workers"].([]any); return strconv.Itoa(len(l)) }},
		field("MESSAGE", "message"), wide(field("ADDRESS", "address")), wide(field("VERSION", "version")), wide(field("LABELS", "labels"))}
}

func (a *cli) hive() *cobra.Command {
	return group("hive", "Add, list, start, drain, upgrade, stop and remove hives", a.hiveAdd(),
		a.lister("ls", "List the hives", "/v2/registry/beehives/list", "nodes", "HiveList", "node_name", a.hiveColumns()...),
		a.hiveOperation("start", "Start a hive, or end its draining"), a.hiveOperation("stop", "Stop a hive and its workers"),
		a.hiveOperation("drain", "Send nothing new to a hive and wait for what runs there"),
		a.hiveOperation("upgrade", "Replace a hive's program by the queen's version; its workers go on"),
		a.names(a.send("rm NAME", "Stop a hive and forget it", 1, "POST", fixed("/v2/registry/beehives/remove"), func(v []string) any { return record{"node_name": v[0]} }, "removed"), hiveNames),
		&cobra.Command{Use: "show NAME", Short: "Show one hive", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(hiveNames), RunE: func(cmd *cobra.Command, v []string) error {
			list, err := a.fetch(cmd.Context(), "/v2/registry/beehives/list", "nodes")
			if err != nil {
				return err
			}
			for _, h := range list {
				if h["node_name"] == v[0] {
					return a.printOne("Hive", h, "node_name", "status", "mode", "address", "version", "last_seen", "labels", "devices", "workers", "models", "message")
				}
			}
			return fmt.Errorf("there is no hive %s: rbee hive ls lists them", v[0])
		}}, a.hiveLogs())
}

func (a *cli) hiveLogs() *cobra.Command {
	var follow bool
	var tail int
	c := &cobra.Command{Use: "logs NAME", Short: "Print a hive's log", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(hiveNames), RunE: func(cmd *cobra.Command, v []string) error {
		return a.copyLogs(cmd.Context(), v[0], "", follow, tail)
	}}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as lines come")
	c.Flags().IntVar(&tail, "tail", 100, "begin with this many lines")
	return c
}

// hiveAdd registers a machine; it returns when the hive is ready, and with the reason otherwise.
func (a *cli) hiveAdd() *cobra.Command {
	var identity, name, hostKey string
	var acceptNew bool
	var labels []string
	c := &cobra.Command{Use: "add [USER@]HOST[:PORT]", Short: "Make a machine with sshd a hive", Args: args(cobra.ExactArgs(1)), RunE: func(cmd *cobra.Command, v []string) error {
		body, err := newHive(v[0], name, identity, hostKey, labels)
		if err != nil {
			return err
		}
		stop := a.showSteps(cmd.Context(), body["node_name"])
		out, err := a.addHive(cmd.Context(), body, acceptNew, v[0])
		stop()
		if err != nil {
			return err
		}
		a.note("hive %s is ready", text(body["node_name"]))
		if a.structured() {
			return a.printOne("Hive", out)
		}
		return a.print("HiveList", []record{out}, "node_name", a.hiveColumns()...)
	}}
	f := c.Flags()
	f.StringVarP(&identity, "identity", "i", "", "private key file, as the queen sees it")
	f.StringVar(&name, "name", "", "name of the hive; the host's by default")
	f.StringVar(&hostKey, "host-key", "", "the machine's host key, SHA256:... or a public key line; then known_hosts is not read")
	f.BoolVar(&acceptNew, "accept-new", false, "trust the key of a machine that is in no known_hosts file, and pin it")
	f.StringArrayVar(&labels, "label", nil, "KEY=VALUE, may be repeated")
	return c
}

// newHive is the body of a request to add a hive.
func newHive(target, name, identity, hostKey string, labels []string) (record, error) {
	body := record{"mode": "network", "ssh_port": 22}
	host := target
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		body["ssh_user"], host = host[:i], host[i+1:]
		if i == 0 {
			return nil, usageError{fmt.Errorf("%q names no user before the @", target)}
		}
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		port, err := strconv.Atoi(p)
		if err != nil || port < 1 || port > 65535 {
			return nil, usageError{fmt.Errorf("%q is no port", p)}
		}
		host, body["ssh_port"] = h, port
	}
	body["ssh_host"] = host
	if name == "" {
		name = host
		if net.ParseIP(host) == nil {
			name = strings.Split(host, ".")[0]
		}
	}
	body["node_name"] = name
	if hostKey != "" {
		body["host_key"] = hostKey
	}
	if identity != "" {
		path, err := filepath.Abs(identity)
		if err != nil {
			return nil, err
		}
		body["ssh_key_path"] = path
	}
	m := map[string]string{}
	for _, l := range labels {
		k, val, ok := strings.Cut(l, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("a label is KEY=VALUE, not %q", l)}
		}
		m[k] = val
	}
	if len(m) > 0 {
		body["labels"] = m
	}
	return body, nil
}

// addHive asks the queen. A machine that nobody knows yet is refused with its fingerprint, which --accept-new or the
// person at the terminal confirms; then it is pinned.
func (a *cli) addHive(ctx context.Context, body record, acceptNew bool, target string) (record, error) {
	var out record
	err := a.c.JSON(ctx, "POST", "/v2/registry/beehives/add", body, &out)
	var refused *client.APIError
	if !errors.As(err, &refused) || body["host_key"] != nil {
		return out, err
	}
	print, _ := refused.Details["fingerprint"].(string)
	if changed, _ := refused.Details["changed"].(bool); print == "" || changed {
		return nil, err
	}
	if !acceptNew && !a.confirm(fmt.Sprintf("%s shows the host key %s.\nIs that the machine's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there)? [yes/no] ", target, print)) {
		return nil, fmt.Errorf("%w\ncompare the fingerprint on the machine itself (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); if it is right, run rbee hive add %s again with --host-key %s", err, target, print)
	}
	body["host_key"] = print
	a.note("the host key of %s is pinned: %s", target, print)
	return out, a.c.JSON(ctx, "POST", "/v2/registry/beehives/add", body, &out)
}

// confirm asks the person at the terminal, if there is one.
func (a *cli) confirm(question string) bool {
	if !isTerminal(a.in) {
		return false
	}
	_, _ = fmt.Fprint(a.errOut, question)
	var answer string
	_, err := fmt.Fscanln(a.in, &answer)
	return err == nil && answer == "yes"
}

// showSteps prints the steps of a hive as they come, until it is told to stop.
func (a *cli) showSteps(ctx context.Context, node any) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	now := time.Now()
	res, err := a.c.Do(ctx, "GET", "/v2/events", nil, "text/event-stream")
	if err != nil || a.quiet {
		if err == nil {
			_ = res.Body.Close()
		}
		return cancel
	}
	since, err := http.ParseTime(res.Header.Get("Date"))
	if d := now.Sub(since); err != nil || d > -2*time.Second && d < 2*time.Second {
		since = now // the queen's clock is ours, and finer than whole seconds
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.ReadEvents(res.Body, func(ev client.Event) error {
			var e struct {
				Node, Message string
				At            time.Time
			}
			if ev.Name == "hive_step" && json.Unmarshal(ev.Data, &e) == nil && e.Node == node && !e.At.Before(since) {
				a.note("%s", e.Message)
			}
			return nil
		})
	}()
	return func() {
		select { // the last steps are on their way
		case <-done:
		case <-time.After(100 * time.Millisecond):
		}
		cancel()
		_ = res.Body.Close()
		<-done
	}
}

// hiveOperation does something with a hive and shows the steps.
func (a *cli) hiveOperation(verb, short string) *cobra.Command {
	return &cobra.Command{Use: verb + " NAME", Short: short, Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(hiveNames), RunE: func(cmd *cobra.Command, v []string) error {
		var out struct {
			EventsURL string `json:"events_url"`
		}
		if err := a.c.JSON(cmd.Context(), "POST", "/v2/hives/"+url.PathEscape(v[0])+"/"+verb, record{}, &out); err != nil {
			return err
		}
		return a.followOperation(cmd, out.EventsURL)
	}}
}
