package router

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// llama finds the server and the model, or skips.
func llama(t testing.TB) (bin, model string) {
	t.Helper()
	if testing.Short() {
		t.Skip("short: starts real llama-server processes")
	}
	for _, bin = range []string{os.Getenv("LLAMA_SERVER"), "/opt/llama-server/llama-server"} {
		if _, err := os.Stat(bin); bin != "" && err == nil {
			break
		}
		bin = ""
	}
	if bin == "" {
		bin, _ = exec.LookPath("llama-server")
	}
	if bin == "" {
		missing(t, "llama-server")
	}
	for _, dir := range []string{os.Getenv("RBEE_DATA"), "../../shared/data"} {
		model = filepath.Join(dir, "models", "stories260K-chat.gguf")
		if _, err := os.Stat(model); err == nil {
			return bin, model
		}
	}
	missing(t, "the data file stories260K-chat.gguf for llama-server")
	return "", ""
}

type llamaServer struct {
	Worker
	cmd *exec.Cmd
}

func startLlama(t testing.TB, id string) *llamaServer {
	t.Helper()
	bin, model := llama(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(bin, "-m", model, "--host", "127.0.0.1", "--port", port, "-t", "1", "-tb", "1", "-np", "2", "-c", "2048", "-a", "stories", "--api-key", "secret-"+id)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &llamaServer{cmd: cmd, Worker: Worker{ID: id, Node: "n-" + id, Address: addr, Protocol: ProtocolOpenAI, Model: "stories", Slots: 2,
		APIKey: "secret-" + id, Capabilities: Capabilities{Prefill: true}}}
	t.Cleanup(s.kill)
	tr := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: tr, Timeout: patience}
	for late := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		resp, err := client.Get("http://" + addr + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s
			}
		}
		if time.Now().After(late) {
			t.Fatal("llama-server did not come up")
		}
	}
}

// kill is kill -9.
func (s *llamaServer) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func tale(surface Surface, n int) *Job {
	j := &Job{Model: "tales", Surface: surface, Stream: true, MaxTokens: n}
	j.Body = fmt.Appendf(nil, `{"model":"tales","prompt":"Once upon a time","max_tokens":%d,"temperature":0,"stream":true,"ignore_eos":true}`, n)
	if surface == Chat {
		j.Body = fmt.Appendf(nil, `{"model":"tales","messages":[{"role":"user","content":"Once upon a time"}],"max_tokens":%d,"temperature":0,"stream":true,"ignore_eos":true}`, n)
	}
	return j
}

// A real llama-server is killed in the middle of a stream; another goes on. At temperature 0 the text on the completion
// surface equals the undisturbed run.
func TestFault05RealWorkerKilled(t *testing.T) {
	const n = 450 // within what the model was trained for: beyond it, the last bit of a float decides
	cuts := []int{3, 60, 200}
	if os.Getenv("RBEE_LONG") != "" {
		cuts = []int{1, 2, 3, 5, 10, 20, 40, 60, 80, 100, 120, 150, 180, 210, 240, 280, 320}
	}
	b := startLlama(t, "b")
	for _, surface := range []Surface{Completion, Chat} {
		t.Run(surface.String(), func(t *testing.T) {
			g := newRig(t, Options{})
			g.sched.add(b.Worker)
			h := g.submit(tale(surface, n))
			if res := g.wait(h); res.State != Complete {
				t.Fatalf("%+v", res)
			}
			undisturbed := g.streams.get(h.ID()).text
			if surface == Completion && !strings.Contains(undisturbed, "Lily") {
				t.Fatalf("no tale: %q", undisturbed)
			}
			continued := 0
			for _, cut := range cuts {
				a := startLlama(t, "a")
				g := newRig(t, Options{})
				g.sched.add(a.Worker)
				g.sched.add(b.Worker)
				h := g.submit(tale(surface, n))
				s := g.streams.get(h.ID())
				s.sees(t, cut)
				a.kill()
				res := g.wait(h)
				if res.State != Complete || res.StopReason != "length" {
					t.Fatalf("cut at %d: %+v", cut, res)
				}
				if res.Attempt > 1 {
					continued++
				}
				if s.text != undisturbed {
					t.Errorf("cut at %d, attempt %d: the text differs", cut, res.Attempt)
				}
				g.free()
			}
			if continued == 0 {
				t.Error("no run was cut in time")
			}
			t.Logf("fault 5: %d of %d runs continued on another worker", continued, len(cuts))
		})
	}
}

// Twenty streams and twenty whole answers in a row, no error: it closes after each stream though it says keep-alive.
func TestFault04RealKeepAliveTrap(t *testing.T) {
	a := startLlama(t, "a")
	g := newRig(t, Options{Retries: -1})
	g.sched.add(a.Worker)
	for i := range 40 {
		j := tale(Completion, 8)
		if i%2 == 1 {
			j.Stream, j.Body = false, []byte(strings.Replace(string(j.Body), `"stream":true,`, "", 1))
		}
		if res := g.wait(g.submit(j)); res.State != Complete || res.Attempt != 1 {
			t.Fatalf("request %d: %+v", i, res)
		}
	}
	g.free()
}

// What a real engine answers to a client's mistake reaches the client as it is, and blames nobody.
func TestFault07RealClientError(t *testing.T) {
	a := startLlama(t, "a")
	g := newRig(t, Options{})
	g.sched.add(a.Worker)
	j := tale(Completion, 8)
	j.Body = []byte(`{"prompt":"` + strings.Repeat("word ", 5000) + `","max_tokens":8,"stream":true}`)
	h := g.submit(j)
	res := g.wait(h)
	if res.Status != 400 || !strings.Contains(string(g.streams.get(h.ID()).body), "exceed_context_size_error") || g.fleet.faults("a") != 0 {
		t.Fatalf("%+v", res)
	}
}

// A client that leaves frees the engine's slot: the next job runs though all slots were taken.
func TestFault25RealDisconnect(t *testing.T) {
	a := startLlama(t, "a")
	g := newRig(t, Options{})
	g.sched.add(a.Worker)
	for range 6 {
		h := g.submit(tale(Completion, 900))
		s := g.streams.get(h.ID())
		s.attach()
		s.sees(t, 5)
		s.leave()
		if res := g.wait(h); res.State != CancelledJob {
			t.Fatalf("%+v", res)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := g.submit(tale(Completion, 5))
	select {
	case <-h.Done():
	case <-ctx.Done():
		t.Fatal("the slots are still taken")
	}
	if res := g.wait(h); res.State != Complete {
		t.Fatalf("%+v", res)
	}
	g.free()
}
