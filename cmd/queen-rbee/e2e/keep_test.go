package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestIdleWorkersStop: a worker that nobody used for its model's time to live goes, whatever else is kept loaded, and
// Ollama's keep_alive overrules the time for the worker that served the request.
func TestIdleWorkersStop(t *testing.T) {
	q := start(t, "models: {brief: {ref: \"sim:brief\", ttl: 300ms}, kept: {ref: \"sim:kept\", ttl: 300ms, workers: 1}, held: {ref: \"sim:held\", ttl: 300ms}}\n")
	for _, model := range []string{"brief", "kept"} {
		q.json("POST", "/v1/completions", map[string]any{"model": model, "prompt": "x", "max_tokens": 1}, nil, 200)
	}
	q.json("POST", "/api/generate", map[string]any{"model": "held", "prompt": "x", "stream": false, "keep_alive": -1, "options": map[string]int{"num_predict": 1}}, nil, 200)
	loaded := func() map[string]bool {
		var list struct {
			Workers []struct{ Model, State string }
		}
		q.json("GET", "/v2/workers/list", nil, &list, 200)
		out := map[string]bool{}
		for _, w := range list.Workers {
			out[w.Model] = true
		}
		return out
	}
	q.until("the idle worker is gone", 20*time.Second, func() bool { return !loaded()["brief"] })
	if l := loaded(); !l["kept"] || !l["held"] {
		t.Errorf("workers of %v are left", l)
	}
	q.json("POST", "/api/generate", map[string]any{"model": "held", "keep_alive": 0}, nil, 200)
	q.until("the worker that a client let go is gone", 20*time.Second, func() bool { return !loaded()["held"] })
	if !loaded()["kept"] {
		t.Error("the worker that the model keeps is gone")
	}
}

// TestKeepAliveOutlivesTheQueen: what a client said of a worker holds for the worker, whichever queen is there.
func TestKeepAliveOutlivesTheQueen(t *testing.T) {
	q := start(t, "models: {held: {ref: \"sim:held\", ttl: 300ms}}\n", "--leave-hives")
	q.json("POST", "/api/generate", map[string]any{"model": "held", "keep_alive": "2h"}, nil, 200)
	expires := func() (name string, at time.Time) {
		var ps struct {
			Models []struct {
				Name    string
				Expires time.Time `json:"expires_at"`
			}
		}
		q.json("GET", "/api/ps", nil, &ps, 200)
		if len(ps.Models) == 1 {
			name, at = ps.Models[0].Name, ps.Models[0].Expires
		}
		return name, at
	}
	for how, end := range map[string]func(){"SIGTERM": q.stop, "kill -9": q.kill} {
		q.until("it is stored", 10*time.Second, func() bool { _, err := os.Stat(filepath.Join(q.dir, "keep_alive.json")); return err == nil })
		end()
		q.launch("127.0.0.1:0")
		q.until("the worker is found again after "+how, 20*time.Second, func() bool { name, _ := expires(); return name == "held" })
		if _, at := expires(); time.Until(at) < time.Hour {
			t.Errorf("after %s it would go at %v", how, at)
		}
	}
	q.json("POST", "/v2/admin/shutdown", map[string]any{"cascade": true}, nil, 202) // else her hive would outlive the test
	<-q.done
	q.cmd = nil
}
