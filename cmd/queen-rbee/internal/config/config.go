// Package config reads the queen's configuration: one YAML file, overridden by environment variables (RBEE_ and the
// upper-case path of a key), overridden by flags. An unknown key is an error that names the file and the line.
package config

import (
	"fmt"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Config is the whole configuration, with the key names of the contract.
type Config struct {
	Listen        string            `yaml:"listen"`
	TLS           TLS               `yaml:"tls"`
	DataDir       string            `yaml:"data_dir"`
	Store         string            `yaml:"store"`
	Hives         *[]Hive           `yaml:"hives"` // left out: one local hive
	Engines       map[string]Engine `yaml:"engines"`
	EngineCatalog string            `yaml:"engine_catalog"` // file that lists the builds of engines that hives may install
	Models        map[string]Model  `yaml:"models"`         // left out: demo
	Aliases       map[string]string `yaml:"aliases"`
	Externals     []External        `yaml:"externals"`
	Limits        map[string]Limits `yaml:"limits"`
	Queue         Queue             `yaml:"queue"`
	Scheduler     Scheduler         `yaml:"scheduler"`
	Timeouts      Timeouts          `yaml:"timeouts"`
	Auth          Auth              `yaml:"auth"`
	HTTP          HTTP              `yaml:"http"`
	Telemetry     Telemetry         `yaml:"telemetry"`
	Log           Log               `yaml:"log"`
	SSH           SSH               `yaml:"ssh"`
}

// Hive is a machine on which a hive is to run.
type Hive struct {
	Name       string            `yaml:"name"`
	Mode       string            `yaml:"mode"` // local or network
	SSH        string            `yaml:"ssh"`  // [USER@]HOST[:PORT]
	Identity   string            `yaml:"identity"`
	KnownHosts string            `yaml:"known_hosts"` // strict or accept-new
	HostKey    string            `yaml:"host_key"`
	Address    string            `yaml:"address"` // HOST:PORT, where the hive is routable and no tunnel is wanted
	MTLS       *bool             `yaml:"mtls"`    // with address: false leaves mutual TLS out
	Labels     map[string]string `yaml:"labels"`
	Budget     float64           `yaml:"budget"`
}

// Engine is a way to run models, beside or over the built-in ones.
type Engine struct {
	Adapter      string            `yaml:"adapter"` // built-in that fills what is left out; "" = the engine's name if it is one
	Command      []string          `yaml:"command"`
	ModelName    string            `yaml:"model_name"` // what requests must name as their model
	Protocol     string            `yaml:"protocol"`
	Health       string            `yaml:"health"`
	Slots        int               `yaml:"slots"`
	ReadyTimeout Duration          `yaml:"ready_timeout"`
	Env          map[string]string `yaml:"env"`
	Stop         []string          `yaml:"stop"`
	Prefill      bool              `yaml:"prefill"`
	Paths        []string          `yaml:"paths"`
}

// Model says what runs behind a name that clients use.
type Model struct {
	Ref     string         `yaml:"ref" json:"ref"`
	Engine  string         `yaml:"engine" json:"engine,omitempty"`
	Slots   int            `yaml:"slots" json:"slots,omitempty"`
	Context int            `yaml:"context" json:"context,omitempty"`
	TTL     Duration       `yaml:"ttl" json:"ttl,omitempty"`
	Pin     bool           `yaml:"pin" json:"pin,omitempty"`
	Workers int            `yaml:"workers" json:"workers,omitempty"`
	Set     map[string]any `yaml:"set" json:"set,omitempty"`
	Strip   []string       `yaml:"strip" json:"strip,omitempty"`
	Args    []string       `yaml:"args" json:"args,omitempty"`
}

// External is a server that already runs; the queen routes to it but does not own it.
type External struct {
	Name     string            `yaml:"name"`
	URL      string            `yaml:"url"`
	Protocol string            `yaml:"protocol"`
	Models   map[string]string `yaml:"models"` // name for clients -> name at the server
	Slots    int               `yaml:"slots"`
	Health   string            `yaml:"health"`
	APIKey   string            `yaml:"api_key"`
	Paths    []string          `yaml:"paths"`
	Prefill  bool              `yaml:"prefill"`
}

// TLS names the certificate, its chain behind it, and the key that the listener speaks HTTPS with, as PEM files. Without them it
// speaks HTTP.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// On reports whether the listener speaks TLS.
func (t TLS) On() bool { return t.Cert != "" }

// Scheme is how addresses of the listener begin.
func (t TLS) Scheme() string {
	if t.On() {
		return "https"
	}
	return "http"
}

// Limits are a tenant's; 0 is none.
type Limits struct {
	RPM          int64    `yaml:"rpm"`
	TPM          int64    `yaml:"tpm"`
	Concurrent   int64    `yaml:"concurrent"`
	TokensPerDay int64    `yaml:"tokens_per_day"`
	Models       []string `yaml:"models"`
}

// Queue bounds the waiting line and what is kept of finished jobs.
type Queue struct {
	Max          int      `yaml:"max"`
	Timeout      Duration `yaml:"timeout"`
	Retention    Duration `yaml:"retention"`
	KeepPayloads bool     `yaml:"keep_payloads"`
	KeepEvents   Duration `yaml:"keep_events"`
	Reattach     Duration `yaml:"reattach"`
}

// Scheduler names the policy: default, basic ones, or a .star or .yaml file.
type Scheduler struct {
	Policy string `yaml:"policy"`
	Mode   string `yaml:"mode"`   // home or platform
	Record int    `yaml:"record"` // decisions kept for explanations and replay; 0: none
}

// Timeouts of a request's stages. Load is "auto" or a duration.
type Timeouts struct {
	FirstToken Duration `yaml:"first_token"`
	InterToken Duration `yaml:"inter_token"`
	Drain      Duration `yaml:"drain"`
	ModelWait  Duration `yaml:"model_wait"`
	Load       string   `yaml:"load"`
}

// Auth says when a key is needed.
type Auth struct {
	Mode string `yaml:"mode"` // auto or keys
}

// HTTP says what a listener on loopback takes beside loopback names and its own pages.
type HTTP struct {
	Hosts   []string `yaml:"hosts"`   // names in the Host header, of a proxy in front for instance
	Origins []string `yaml:"origins"` // SCHEME://HOST[:PORT] of pages whose scripts may use the API
}

// Telemetry says what is exported.
type Telemetry struct {
	Prometheus   bool   `yaml:"prometheus"`
	OTLPEndpoint string `yaml:"otlp_endpoint"`
	// SampleRatio is the part of the requests that are traced where the caller did not decide: 1 all, 0 at most 100 a second.
	SampleRatio float64 `yaml:"sample_ratio"`
}

// Log of the queen, on stderr.
type Log struct {
	Format string `yaml:"format"` // text or json
	Level  string `yaml:"level"`  // debug, info, warn, error; of the queen and her hives, SIGHUP takes over another one
}

// SSH bounds what hives may be reached with.
type SSH struct {
	KeyDir string `yaml:"key_dir"` // the only directory that key files are read from; "" = any
}

// Duration reads and prints as Go writes durations: 90s, 10m, 168h.
type Duration time.Duration

// D is the duration as the standard type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%.80q is no duration: write it like 90s, 10m or 168h", b)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalYAML implements yaml.NodeUnmarshaler, so that a wrong duration is named with its line.
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	t := node.GetToken()
	if err := d.UnmarshalText([]byte(t.Value)); err != nil {
		return &Error{Line: t.Position.Line, Message: err.Error()}
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default is the configuration of a queen that was told nothing.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:7833", DataDir: "~/.local/share/rbee",
		Limits: map[string]Limits{},
		Queue: Queue{Max: 10_000, Timeout: Duration(10 * time.Minute), Retention: Duration(168 * time.Hour),
			KeepEvents: Duration(time.Hour), Reattach: Duration(30 * time.Second)},
		Scheduler: Scheduler{Policy: "default", Mode: "home", Record: 10_000},
		Timeouts: Timeouts{FirstToken: Duration(5 * time.Minute), InterToken: Duration(time.Minute), Drain: Duration(30 * time.Second),
			ModelWait: Duration(time.Minute), Load: "auto"},
		Auth:      Auth{Mode: "auto"},
		Telemetry: Telemetry{Prometheus: true},
		Log:       Log{Format: "text", Level: "info"},
	}
}
