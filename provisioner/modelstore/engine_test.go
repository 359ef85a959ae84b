package modelstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner/hub/hubtest"
	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatal("missing under RBEE_CI: " + what)
	}
	t.Skip("llama-server test without " + what) // the tool, or the test data
}

func llamaServer() string {
	for _, c := range []string{os.Getenv("LLAMA_SERVER"), "llama-server", "/opt/llama-server/llama-server"} {
		if p, err := exec.LookPath(c); c != "" && err == nil {
			return p
		}
	}
	return ""
}

// TestPullThenChat pulls a real model from a hub and has a real engine tell a story with it.
func TestPullThenChat(t *testing.T) {
	engine := llamaServer()
	if engine == "" {
		missing(t, "llama-server")
	}
	data, err := os.ReadFile("../../../shared/data/models/stories260K-chat.gguf")
	if err != nil {
		missing(t, "stories260K-chat.gguf (test data)")
	}
	r := newRig(t, nil)
	r.hub.Add("stories/tiny", "stories260K-chat.gguf", data, true)
	var n atomic.Int64
	r.hub.SetTrip(func(*http.Request) hubtest.Fault { // the first connections break: the pull is tried again
		if n.Add(1) <= 2 {
			return hubtest.Fault{CutAfter: 30_000}
		}
		return hubtest.Fault{}
	})
	if _, err := r.get(modelstore.Request{Ref: "hf:stories/tiny"}); err == nil {
		t.Fatal("the cut went unnoticed")
	}
	r.hub.SetTrip(nil)
	m := r.must(modelstore.Request{Ref: "hf:stories/tiny"}, data)

	release, err := r.store.Use(m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	cmd := exec.Command(engine, "-m", m.Path, "--host", "127.0.0.1", "--port", fmt.Sprint(port), "-t", "1", "-tb", "1", "-np", "1", "-c", "512")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 60 * time.Second}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for {
		if resp, err := client.Get(url + "/health"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-ctx.Done():
			t.Fatal("llama-server was not ready in time")
		case <-time.After(50 * time.Millisecond):
		}
	}
	body, _ := json.Marshal(map[string]any{"messages": []map[string]string{{"role": "user", "content": "Once upon a time"}}, "temperature": 0, "max_tokens": 24})
	resp, err := client.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	var out struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal(raw, &out); err != nil || len(out.Choices) == 0 || !strings.Contains(out.Choices[0].Message.Content, "Lily") {
		t.Fatalf("%v: %s", err, raw)
	}
}
