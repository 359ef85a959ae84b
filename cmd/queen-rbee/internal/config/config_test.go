package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, text string, env ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "queen.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, env, nil)
}

const whole = `listen: 127.0.0.1:7833
data_dir: /tmp/rbee
store: ""
hives:
  - {name: local, mode: local}
  - {name: gpu1, mode: network, ssh: ops@gpu1:22, identity: ~/.ssh/id_ed25519, known_hosts: strict, labels: {room: attic}}
engines:
  mine:
    command: ["/opt/mine/serve", "--port", "{port}", "--model", "{model_path}"]
    protocol: openai
    health: /health
    slots: 4
    ready_timeout: 120s
    env: {KEY: secret-value}
models:
  demo:    {ref: "sim:demo"}
  stories: {ref: "file:/models/stories.gguf", engine: llama.cpp, slots: 2, context: 1024, ttl: 10m, pin: false, workers: 0, set: {temperature: 0.2}, strip: [logit_bias], args: ["-t", "1"]}
  mine-7b: {ref: "file:/models/mine.bin", engine: mine}
externals:
  - {name: nas, url: "http://127.0.0.1:11434", protocol: openai, models: {tiny: "tinyllama:latest"}, slots: 4, health: /, api_key: topsecret}
limits:
  default: {rpm: 0, tpm: 0, concurrent: 0, tokens_per_day: 0}
queue: {max: 10000, timeout: 10m, retention: 168h, keep_payloads: false, keep_events: 1h, reattach: 30s}
scheduler: {policy: default, mode: home}
timeouts: {first_token: 5m, inter_token: 60s, drain: 30s, model_wait: 60s, load: auto}
auth: {mode: auto}
telemetry: {prometheus: true, otlp_endpoint: ""}
`

func TestTheContractsExample(t *testing.T) {
	c, err := load(t, whole)
	if err != nil {
		t.Fatal(err)
	}
	m := c.Models["stories"]
	if m.TTL.D() != 10*time.Minute || m.Engine != "llama.cpp" || m.Args[1] != "1" || m.Set["temperature"] != 0.2 || len(*c.Hives) != 2 {
		t.Fatalf("read %+v", c)
	}
	if strings.HasPrefix((*c.Hives)[1].Identity, "~") {
		t.Error("~ was not expanded")
	}
	shown, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"topsecret", "secret-value"} {
		if strings.Contains(string(shown), secret) {
			t.Errorf("config check shows the secret %q", secret)
		}
	}
}

func TestUnknownKeyNamesTheLine(t *testing.T) {
	for text, line := range map[string]int{
		"listen: 127.0.0.1:1\nqueeu: {max: 1}\n":                         2,
		"queue:\n  max: 5\n  maximum: 6\n":                               3,
		"models:\n  a:\n    ref: sim:a\n    slot: 3\n":                   4,
		"hives:\n  - name: local\n    mode: local\n    lables: {a: b}\n": 4,
	} {
		_, err := load(t, text)
		var e *Error
		if !errors.As(err, &e) || e.Line != line || !strings.Contains(e.Message, "unknown key") {
			t.Errorf("%q: %v, want line %d", text, err, line)
		}
	}
}

func TestBadValues(t *testing.T) {
	for text, want := range map[string]string{
		"listen: nowhere\n":                   "HOST:PORT",
		"queue: {timeout: soon}\n":            "",
		"queue: {max: 0}\n":                   "queue.max",
		"auth: {mode: open}\n":                "auth.mode",
		"hives: [{name: -x}]\n":               "name",
		"hives: [{name: a}, {name: a}]\n":     "twice",
		"hives: [{name: a, mode: network}]\n": "ssh",
		"models: {a: {}}\n":                   "ref is missing",
		"externals: [{name: x, url: 'http://h/v1', models: {a: b}}]\n":  "/v1",
		"externals: [{name: x, url: 'ftp://h', models: {a: b}}]\n":      "http",
		"externals: [{name: x, url: 'http://u:p@h', models: {a: b}}]\n": "api_key",
		"models: {a: {ref: 'sim:a', engine: none}}\n":                   "engines",
		"http: {hosts: ['*']}\n":                                        "http.hosts",
		"http: {origins: ['*']}\n":                                      "http.origins",
		"http: {origins: ['https://h/x']}\n":                            "http.origins",
		"store: mysql:x\n":                                              "store",
		"models: {a: {ref: 'sim:a', slots: -1}}\n":                      "slots",
		"timeouts: {load: never}\n":                                     "timeouts.load",
		"a: [\n":                                                        "",
	} {
		_, err := load(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want something about %q", text, err, want)
		}
	}
}

func TestOrderOfSources(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.yaml")
	if err := os.WriteFile(path, []byte("listen: 127.0.0.1:1\nqueue: {max: 5}\nlimits: {default: {rpm: 9}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"RBEE_LISTEN=127.0.0.1:2", "RBEE_QUEUE_MAX=6", "RBEE_TIMEOUTS_FIRST_TOKEN=7s", "RBEE_LIMITS_DEFAULT_TPM=8", "RBEE_TELEMETRY_PROMETHEUS=false",
		"RBEE_HTTP_HOSTS=chat.lan,chat.home", "RBEE_TELEMETRY_SAMPLE_RATIO=0.5"}
	c, err := Load(path, env, func(c *Config) { c.Listen = "127.0.0.1:3" })
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.Queue.Max != 6 || c.Timeouts.FirstToken.D() != 7*time.Second || c.Telemetry.Prometheus ||
		len(c.HTTP.Hosts) != 2 || c.Telemetry.SampleRatio != 0.5 || c.Limits["default"].TPM != 8 || c.Limits["default"].RPM != 9 {
		t.Fatalf("read %+v", c)
	}
	if _, err := Load(path, []string{"RBEE_QUEUE_MAX=many"}, nil); err == nil || !strings.Contains(err.Error(), "RBEE_QUEUE_MAX") {
		t.Errorf("a bad variable: %v", err)
	}
}

// TestEveryKeyHasAVariable: scalars of every kind, wholes as YAML, and entries by their names.
func TestEveryKeyHasAVariable(t *testing.T) {
	c, err := load(t, whole, "RBEE_HIVES_GPU1_IDENTITY=/keys/gpu1", "RBEE_HIVES_LOCAL_BUDGET=0.5", "RBEE_MODELS_MINE_7B_SLOTS=3", "RBEE_MODELS_STORIES_TTL=1m",
		"RBEE_MODELS_STORIES_ARGS=-t,4", "RBEE_MODELS_DEMO_SET={seed: 7}", "RBEE_ENGINES_MINE_ENV_KEY=other-secret", "RBEE_EXTERNALS_NAS_API_KEY=hidden",
		"RBEE_TELEMETRY_SAMPLE_RATIO=0.5", "RBEE_ALIASES={tales: stories}", "RBEE_LIMITS_DEFAULT={rpm: 3, models: [demo]}", "RBEE_LIMITS_DEFAULT_TPM=4",
		"RBEE_QUEUE={max: 7}", "RBEE_QUEUE_TIMEOUT=2m")
	if err != nil {
		t.Fatal(err)
	}
	hives, limit := *c.Hives, c.Limits["default"]
	for what, ok := range map[string]bool{
		"hives.gpu1.identity":  hives[1].Identity == "/keys/gpu1",
		"hives.local.budget":   hives[0].Budget == 0.5,
		"models.mine-7b.slots": c.Models["mine-7b"].Slots == 3 && c.Models["mine-7b"].Engine == "mine",
		"models.stories.ttl":   c.Models["stories"].TTL.D() == time.Minute && c.Models["stories"].Context == 1024,
		"models.stories.args":  strings.Join(c.Models["stories"].Args, " ") == "-t 4",
		"models.demo.set":      fmt.Sprint(c.Models["demo"].Set["seed"]) == "7",
		"engines.mine.env.KEY": c.Engines["mine"].Env["KEY"] == "other-secret",
		"externals.nas":        c.Externals[0].APIKey == "hidden" && c.Externals[0].Slots == 4,
		"sample_ratio":         c.Telemetry.SampleRatio == 0.5,
		"aliases":              c.Aliases["tales"] == "stories",
		"limits.default":       limit.RPM == 3 && limit.TPM == 4 && limit.Models[0] == "demo",
		"queue":                c.Queue.Max == 7 && c.Queue.Timeout.D() == 2*time.Minute && c.Queue.Retention.D() == 168*time.Hour,
	} {
		if !ok {
			t.Errorf("%s was not set: %+v", what, c)
		}
	}
	if c, err = Load("", []string{"RBEE_HIVES=[]", `RBEE_MODELS={a: {ref: "sim:a"}}`}, nil); err != nil || len(*c.Hives) != 0 || c.Models["a"].Ref != "sim:a" || len(c.Models) != 1 {
		t.Errorf("wholes: %+v, %v", c, err)
	}
	for variable, want := range map[string]string{"RBEE_HIVES=[{nam: a}]": `unknown key "nam"`, "RBEE_TIMEOUTS_DRAIN=soon": "no duration",
		"RBEE_TELEMETRY_SAMPLE_RATIO=x": "number", "RBEE_EXTERNALS=[{api_key: sesame, slots: x}]": "whole number"} {
		_, err := load(t, whole, variable)
		name, _, _ := strings.Cut(variable, "=")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", variable, err)
		}
	}
}

// TestWhatIsWrongIsNamed with its line, in words for those who write YAML.
func TestWhatIsWrongIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"listen: 127.0.0.1:1\nqueue:\n  max: many\n":       `:3: "many" is not what belongs here: want a whole number`,
		"timeouts:\n  first_token: 5\n":                    `:2: "5" is no duration: write it like 90s, 10m or 168h`,
		"telemetry: {prometheus: 3}\n":                     `:1: "3" is not what belongs here: want true or false`,
		"listen: 127.0.0.1:1\n---\nlisten: 0.0.0.0:2\n":    "more than one document",
		"hives: [{name: a, mode: local, ssh: ops@host}]\n": "mode: network",
		"models: {a: {ref: 'sim:a'}, a: {ref: 'sim:b'}}\n": "already defined",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := load(t, "---\nlisten: 127.0.0.1:1\n---\n"); err != nil {
		t.Errorf("an empty second document: %v", err)
	}
}

func TestDefaults(t *testing.T) {
	c, err := Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(*c.Hives) != 1 || (*c.Hives)[0].Name != "local" || c.Models["demo"].Ref != "sim:demo" {
		t.Fatalf("without a file: %+v", c)
	}
	c, err = load(t, "hives: []\nexternals: [{name: rig, url: 'http://127.0.0.1:9000', models: {rig: rig}, slots: 20000}]\n")
	if err != nil || len(*c.Hives) != 0 {
		t.Fatalf("hives: []: %+v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		if err := parse(data, "fuzz", &c); err != nil {
			return
		}
		c.complete()
		_ = c.check()
	})
}

// TestTLS: both files or none, their paths and never what is in them.
func TestTLS(t *testing.T) {
	c, err := load(t, "tls: {cert: ~/tls/cert.pem}\n", "RBEE_TLS_KEY=/tls/key.pem")
	if err != nil || !c.TLS.On() || c.TLS.Scheme() != "https" || c.TLS.Key != "/tls/key.pem" || strings.HasPrefix(c.TLS.Cert, "~") {
		t.Fatalf("%+v, %v", c, err)
	}
	if c, err := load(t, "listen: 127.0.0.1:1\n"); err != nil || c.TLS.On() || c.TLS.Scheme() != "http" {
		t.Fatalf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"listen: 127.0.0.1:1\ntls: {cert: /tls/cert.pem}\n":                         ":2: tls: key is missing",
		"tls: {key: /tls/key.pem}\n":                                                ":1: tls: cert is missing",
		"tls: {cert: /c, key: '-----BEGIN PRIVATE KEY----- sesame'}\n":              ":1: tls.key: is the path of a PEM file",
		"tls:\n  cert: /c\n  key: |\n    -----BEGIN PRIVATE KEY-----\n    sesame\n": "tls.key: is the path of a PEM file",
		"tls: {cert: /c, key: /k, ciphers: all}\n":                                  `unknown key "ciphers"`,
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
