package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// cpu is the processor time that a process has used so far.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("no /proc here: processor time is not measured (linux only, not windows): %v", err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ is 100 on every Linux
}

// goroutines is what the queen's own metrics say.
func (q *queen) goroutines() int {
	q.t.Helper()
	res, err := q.do(q.t.Context(), "GET", "/metrics", nil)
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	sc := bufio.NewScanner(res.Body)
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "go_goroutines "); ok {
			n, _ := strconv.ParseFloat(v, 64)
			return int(n)
		}
	}
	q.t.Fatal("the metrics do not say how many goroutines there are")
	return 0
}

type hostile struct {
	name, method, path, body string
	header                   []string
}

func hostileRequests(key string) []hostile {
	with := func(pairs ...string) []string { return append([]string{"Authorization", "Bearer " + key}, pairs...) }
	chat := `{"model":"demo","messages":[{"role":"user","content":"x"}]}`
	post := "/v1/chat/completions"
	return []hostile{
		{"nested arrays", "POST", post, `{"model":"demo","messages":` + strings.Repeat("[", 20_000), with()},
		{"nested objects", "POST", post, strings.Repeat(`{"a":`, 10_000), with()},
		{"duplicate keys", "POST", post, `{"model":"demo","model":"b"}`, with()},
		{"two objects", "POST", post, chat + chat, with()},
		{"invalid UTF-8", "POST", post, "{\"model\":\"demo\xff\"}", with()},
		{"out of range", "POST", post, `{"model":"demo","temperature":1e999,"messages":[{"role":"user"}]}`, with()},
		{"not JSON", "POST", post, strings.Repeat("x", 30_000), with()},
		{"empty", "POST", post, "", with()},
		{"no key", "POST", post, chat, nil},
		{"empty key", "POST", post, chat, []string{"Authorization", "Bearer "}},
		{"long key", "POST", post, chat, []string{"Authorization", "Bearer " + strings.Repeat("k", 8000)}},
		{"packed", "POST", post, chat, with("Content-Encoding", "gzip")},
		{"foreign origin", "POST", post, chat, with("Origin", "http://evil.example")},
		{"scope", "POST", "/v2/keys", `{}`, with()},
		{"NUL in a path", "GET", "/v2/tasks/%00", "", with()},
		{"dots", "GET", "/../../etc/passwd", "", with()},
		{"encoded dots", "GET", "/v1/models/..%2f..%2fetc", "", with()},
		{"method", "PATCH", "/v1/models", "{}", with()},
		{"cut form", "POST", "/v1/audio/transcriptions", "--x\r\n", with("Content-Type", "multipart/form-data; boundary=x")},
		{"unknown field", "POST", "/v2/tasks", `{"model":"demo","prompt":"x","extra":1}`, with()},
		{"unknown query", "GET", "/v2/tasks?what=1", "", with()},
		{"unknown model", "POST", post, `{"model":"none","messages":[{"role":"user","content":"x"}]}`, with()},
		{"unknown job", "GET", "/v2/tasks/job_none/events", "", with()},
		{"unknown batch", "GET", "/v1/batches/none", "", with()},
		{"bad file", "POST", "/v1/files", "--x--\r\n", with("Content-Type", "multipart/form-data; boundary=x")},
		{"unknown ollama model", "POST", "/api/chat", `{"model":"none","messages":[{"role":"user","content":"x"}]}`, with()},
	}
}

// sendAll sends each request in turn, n in all, over few connections, and calls judge with each answer.
func (q *queen) sendAll(n int, kinds []hostile, judge func(hostile, int, http.Header)) {
	q.t.Helper()
	q.sendOver(8, n, kinds, judge)
}

// sendOver is sendAll over so many connections.
func (q *queen) sendOver(conns, n int, kinds []hostile, judge func(hostile, int, http.Header)) {
	q.t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for worker := range conns {
		wg.Go(func() {
			for i := worker; i < n; i += conns {
				k := kinds[i%len(kinds)]
				req, err := http.NewRequestWithContext(context.Background(), k.method, q.url+k.path, strings.NewReader(k.body))
				if err != nil {
					q.t.Error(err)
					return
				}
				for j := 0; j+1 < len(k.header); j += 2 {
					req.Header.Set(k.header[j], k.header[j+1])
				}
				res, err := tr.RoundTrip(req)
				if err != nil {
					q.t.Errorf("%s: %v", k.name, err)
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				judge(k, res.StatusCode, res.Header)
			}
		})
	}
	wg.Wait()
}

// TestFault20HostileFlood sends 20,000 requests that nobody should send to a real queen: each is refused with a documented
// 4xx, and neither memory nor goroutines are left behind.
func TestFault20HostileFlood(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	key := q.makeKey(admin, `{"tenant_id":"a","scope":"infer"}`).Key
	documented := map[int]string{400: "INVALID_REQUEST INVALID_MODEL_REF", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "MODEL_NOT_FOUND JOB_NOT_FOUND NOT_FOUND",
		405: "METHOD_NOT_ALLOWED", 413: "REQUEST_TOO_LARGE", 429: "RATE_LIMITED"}
	var mu sync.Mutex
	counts := map[int]int{}
	judge := func(k hostile, status int, h http.Header) {
		mu.Lock()
		counts[status]++
		mu.Unlock()
		if code := h.Get("X-Rbee-Error"); code == "" || !strings.Contains(documented[status], code) || h.Get("X-Request-Id") == "" || h.Get("X-Correlation-Id") == "" {
			t.Errorf("%s: %d %v", k.name, status, h)
		}
	}
	kinds := hostileRequests(key)
	before, had := rss(t, q.cmd.Process.Pid), q.goroutines()
	began := cpu(t, q.cmd.Process.Pid)
	const n = 20_000
	q.sendAll(n, kinds, judge)
	took := cpu(t, q.cmd.Process.Pid) - began
	grown := rss(t, q.cmd.Process.Pid) - before
	t.Logf("fault 20: %d hostile requests, answers %v, RSS grew by %d KiB, %s of processor time each", n, counts, grown>>10, took/n)
	if grown >= 64<<20 {
		t.Errorf("RSS grew by %d MiB", grown>>20)
	}
	q.until("no goroutine is left", 20*time.Second, func() bool { return q.goroutines() <= had+2 })
}
