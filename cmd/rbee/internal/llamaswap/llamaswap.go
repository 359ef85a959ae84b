// Package llamaswap turns a llama-swap configuration into one of queen-rbee, and says what of it has no equivalent.
package llamaswap

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// maxFile bounds what is read.
const maxFile = 4 << 20

// Config is the part of the queen's configuration that an import writes.
type Config struct {
	Engines map[string]Engine `yaml:"engines,omitempty"`
	Models  map[string]Model  `yaml:"models"`
	Aliases map[string]string `yaml:"aliases,omitempty"`
}

// Engine is how one of the models is run.
type Engine struct {
	Adapter      string            `yaml:"adapter,omitempty"`
	Command      []string          `yaml:"command"`
	Protocol     string            `yaml:"protocol"`
	Health       string            `yaml:"health,omitempty"`
	Slots        int               `yaml:"slots,omitempty"`
	ReadyTimeout string            `yaml:"ready_timeout,omitempty"`
	ModelName    string            `yaml:"model_name,omitempty"`
	Env          map[string]string `yaml:"env,omitempty"`
	Stop         []string          `yaml:"stop,omitempty"`
}

// Model is an entry that clients can name.
type Model struct {
	Ref     string         `yaml:"ref"`
	Engine  string         `yaml:"engine"`
	Context int            `yaml:"context,omitempty"`
	TTL     string         `yaml:"ttl,omitempty"`
	Pin     bool           `yaml:"pin,omitempty"`
	Workers int            `yaml:"workers,omitempty"`
	Set     map[string]any `yaml:"set,omitempty"`
	Strip   []string       `yaml:"strip,omitempty"`
}

// file is what llama-swap documents, as far as there is something to do with it.
type file struct {
	HealthCheckTimeout int              `yaml:"healthCheckTimeout"`
	GlobalTTL          int              `yaml:"globalTTL"`
	Macros             yaml.MapSlice    `yaml:"macros"`
	Models             map[string]model `yaml:"models"`
	Groups             map[string]group `yaml:"groups"`
	Hooks              struct {
		OnStartup struct {
			Preload []string `yaml:"preload"`
		} `yaml:"on_startup"`
	} `yaml:"hooks"`
}

type model struct {
	Cmd           string        `yaml:"cmd"`
	CmdStop       string        `yaml:"cmdStop"`
	Proxy         string        `yaml:"proxy"`
	Aliases       []string      `yaml:"aliases"`
	Env           []string      `yaml:"env"`
	CheckEndpoint string        `yaml:"checkEndpoint"`
	TTL           *int          `yaml:"ttl"`
	UseModelName  string        `yaml:"useModelName"`
	Macros        yaml.MapSlice `yaml:"macros"`
	Concurrency   int           `yaml:"concurrencyLimit"`
	Filters       struct {
		StripParams string         `yaml:"stripParams"`
		StripOld    string         `yaml:"strip_params"`
		SetParams   map[string]any `yaml:"setParams"`
	} `yaml:"filters"`
}

type group struct {
	Swap       *bool    `yaml:"swap"`
	Exclusive  *bool    `yaml:"exclusive"`
	Persistent bool     `yaml:"persistent"`
	Members    []string `yaml:"members"`
}

// importer collects what is said about an import.
type importer struct {
	in    file
	out   Config
	notes []string
}

func (im *importer) note(format string, args ...any) {
	im.notes = append(im.notes, fmt.Sprintf(format, args...))
}

// Import reads a llama-swap configuration. notes are what has no equivalent or was changed on the way, in the order of
// the file's parts.
func Import(data []byte) (out *Config, notes []string, err error) {
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("the file is larger than %d bytes", maxFile)
	}
	im := &importer{out: Config{Engines: map[string]Engine{}, Models: map[string]Model{}, Aliases: map[string]string{}}}
	if err := yaml.Unmarshal(data, &im.in); err != nil {
		return nil, nil, fmt.Errorf("this is no llama-swap configuration: %w", err)
	}
	if len(im.in.Models) == 0 {
		return nil, nil, fmt.Errorf("this is no llama-swap configuration: it has no models")
	}
	var raw map[string]any
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return nil, nil, err
	}
	im.unknown("", raw, topKeys())
	for _, name := range slices.Sorted(maps.Keys(im.in.Models)) {
		if m, ok := section(raw, "models", name); ok {
			im.unknown("models."+name+".", m, modelKeys())
			if f, ok := m["filters"].(map[string]any); ok {
				im.unknown("models."+name+".filters.", f, map[string]string{"stripParams": "", "strip_params": "", "setParams": ""})
			}
		}
		if err := im.model(name, im.in.Models[name]); err != nil {
			return nil, nil, fmt.Errorf("models.%s: %w", name, err)
		}
	}
	im.groups()
	im.preload()
	return &im.out, im.notes, nil
}

func section(top map[string]any, keys ...string) (map[string]any, bool) {
	for _, k := range keys {
		m, ok := top[k].(map[string]any)
		if !ok {
			return nil, false
		}
		top = m
	}
	return top, true
}

// topKeys are the keys that are read (with no remark) or known to have no equivalent (with what to do instead).
func topKeys() map[string]string {
	return map[string]string{"healthCheckTimeout": "", "globalTTL": "", "macros": "", "models": "", "groups": "", "hooks": "",
		"startPort": "the hive chooses free ports", "logLevel": "use log.level", "logRequests": "see rbee job ls and GET /metrics",
		"logToStdout": "use rbee logs", "logTimeFormat": "use log.format", "metricsMaxInMemory": "metrics are at GET /metrics",
		"captureBuffer": "use queue.keep_payloads", "sendLoadingState": "streams stay open with comments while a model loads",
		"includeAliasesInList": "aliases are always listed", "apiKeys": "make keys with rbee key create",
		"peers": "write them as externals", "matrix": "the scheduler decides by memory what runs side by side"}
}

func modelKeys() map[string]string {
	return map[string]string{"cmd": "", "cmdStop": "", "proxy": "", "aliases": "", "env": "", "checkEndpoint": "", "ttl": "", "useModelName": "",
		"macros": "", "concurrencyLimit": "", "filters": "", "unlisted": "every model is listed; limits.TENANT.models says who sees which",
		"name": "clients see the model's key", "description": "there are no descriptions", "metadata": "there is no free metadata",
		"sendLoadingState": "streams stay open with comments while a model loads"}
}

func (im *importer) unknown(path string, have map[string]any, known map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(have)) {
		switch remark, ok := known[k]; {
		case !ok:
			im.note("%s%s: not known here; left out", path, k)
		case remark != "":
			im.note("%s%s: no equivalent; %s", path, k, remark)
		}
	}
}

func (im *importer) groups() {
	for _, name := range slices.Sorted(maps.Keys(im.in.Groups)) {
		g := im.in.Groups[name]
		for _, member := range g.Members {
			m, ok := im.out.Models[member]
			if ok && g.Persistent {
				m.Pin = true
				im.out.Models[member] = m
			}
		}
		if g.Persistent {
			im.note("groups.%s: persistent became pin: true of its models", name)
		}
		if g.Swap == nil || *g.Swap {
			im.note("groups.%s: swap has no equivalent; the scheduler runs side by side what fits into memory, and evicts what was used least", name)
		}
		if g.Exclusive == nil || *g.Exclusive {
			im.note("groups.%s: exclusive has no equivalent; models of other groups are evicted only when memory is wanted", name)
		}
	}
}

func (im *importer) preload() {
	for _, name := range im.in.Hooks.OnStartup.Preload {
		for alias, to := range im.out.Aliases {
			if alias == name {
				name = to
			}
		}
		m, ok := im.out.Models[name]
		if !ok {
			im.note("hooks.on_startup.preload: there is no model %s", name)
			continue
		}
		m.Workers = 1
		im.out.Models[name] = m
	}
}

var notName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// engineName makes a name that the queen takes, and that nothing else has.
func (im *importer) engineName(model string) string {
	base := strings.Trim(notName.ReplaceAllString(model, "-"), "-._")
	if base == "" {
		base = "engine"
	}
	base = "swap-" + base[:min(len(base), 50)]
	name := base
	for n := 2; ; n++ {
		if _, taken := im.out.Engines[name]; !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}
