package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
)

// TestCheck: what the file's form does not show is found without a store and without a start.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.star")
	if err := os.WriteFile(bad, []byte("def score(:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"models: {a: {ref: 'bogus:x'}}":                                              "neither a reference",
		"models: {a: {ref: 'file:../x'}}":                                            "..",
		"models: {a: {ref: 'sim:a', engine: nope}}":                                  `engine "nope" is neither`,
		"aliases: {a: b, b: a}":                                                      "circle",
		"hives: [{name: h, ssh: '-oProxyCommand=x'}]":                                "h",
		"scheduler: {policy: " + filepath.Join(dir, "none.star") + "}":               "scheduler.policy",
		"scheduler: {policy: " + bad + "}":                                           "scheduler.policy",
		"engine_catalog: " + filepath.Join(dir, "none.yaml"):                         "engine_catalog",
		"telemetry: {otlp_endpoint: 'collector'}":                                    "otlp_endpoint",
		"models: {a: {ref: 'sim:a', engine: mine}}\nengines: {mine: {command: [x]}}": "",
		"models: {a: {ref: 'b'}}\naliases: {b: 'sim:c'}":                             "",
		"scheduler: {policy: basic}":                                                 "",
	} {
		path := filepath.Join(t.TempDir(), "queen.yaml")
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path, nil, nil)
		if err == nil {
			err = Check(t.Context(), cfg)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want something about %q", text, err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("Check wrote something: %v %v", entries, err)
	}
}
