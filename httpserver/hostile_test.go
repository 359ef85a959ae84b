package httpserver_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// TestBadBodies sends what no client should send. Each must get its status, and nothing may reach the submitter.
func TestBadBodies(t *testing.T) {
	g := newRig(t, false, httpserver.Options{MaxBody: 64 << 10})
	msg := `"messages":[{"role":"user","content":"x"}]`
	for name, c := range map[string]struct {
		path, body string
		status     int
		part       string
	}{
		"nested arrays":     {"/v1/chat/completions", `{"model":"m","messages":` + strings.Repeat("[", 20000), 400, "nested too deeply"},
		"nested objects":    {"/v1/chat/completions", `{"a":` + strings.Repeat(`{"a":`, 10000), 400, "nested too deeply"},
		"duplicate model":   {"/v1/chat/completions", `{"model":"a","model":"b",` + msg + `}`, 400, "duplicate key"},
		"escaped duplicate": {"/v1/chat/completions", `{"model":"a","\u006dodel":"b",` + msg + `}`, 400, "duplicate key"},
		"nested duplicate":  {"/v1/chat/completions", `{"model":"a","messages":[{"role":"user","role":"system"}]}`, 400, "duplicate key"},
		"two objects":       {"/v1/chat/completions", `{"model":"a",` + msg + `}{"model":"b"}`, 400, "more than one JSON value"},
		"invalid UTF-8":     {"/v1/chat/completions", "{\"model\":\"a\xff\"," + msg + "}", 400, "invalid UTF-8"},
		"raw control":       {"/v1/chat/completions", "{\"model\":\"a\n\"," + msg + "}", 400, "control character"},
		"escaped NUL":       {"/v1/chat/completions", `{"model":"a\u0000",` + msg + `}`, 400, "control characters"},
		"infinite number":   {"/v1/chat/completions", `{"model":"a","temperature":1e999,` + msg + `}`, 400, "out of range"},
		"NaN":               {"/v1/chat/completions", `{"model":"a","temperature":NaN,` + msg + `}`, 400, "unexpected"},
		"hex number":        {"/v1/chat/completions", `{"model":"a","max_tokens":0x10,` + msg + `}`, 400, ""},
		"max_tokens 0":      {"/v1/chat/completions", `{"model":"a","max_tokens":0,` + msg + `}`, 400, "max_tokens"},
		"max_tokens -1":     {"/v1/chat/completions", `{"model":"a","max_tokens":-1,` + msg + `}`, 400, "max_tokens"},
		"max_tokens 1.5":    {"/v1/chat/completions", `{"model":"a","max_tokens":1.5,` + msg + `}`, 400, "max_tokens"},
		"max_tokens string": {"/v1/chat/completions", `{"model":"a","max_tokens":"8",` + msg + `}`, 400, "max_tokens"},
		"max_tokens 1e30":   {"/v1/chat/completions", `{"model":"a","max_tokens":1000000000000000000000,` + msg + `}`, 400, "max_tokens"},
		"temperature 3":     {"/v1/chat/completions", `{"model":"a","temperature":3,` + msg + `}`, 400, "temperature"},
		"n 0":               {"/v1/chat/completions", `{"model":"a","n":0,` + msg + `}`, 400, "n must"},
		"stream string":     {"/v1/chat/completions", `{"model":"a","stream":"true",` + msg + `}`, 400, "stream"},
		"stop object":       {"/v1/chat/completions", `{"model":"a","stop":{},` + msg + `}`, 400, "stop"},
		"no model":          {"/v1/chat/completions", `{` + msg + `}`, 400, "model is missing"},
		"model number":      {"/v1/chat/completions", `{"model":7,` + msg + `}`, 400, "model"},
		"model path":        {"/v1/chat/completions", `{"model":"../../etc/passwd",` + msg + `}`, 400, "'..'"},
		"model dash":        {"/v1/chat/completions", `{"model":"-x",` + msg + `}`, 400, "begin"},
		"model long":        {"/v1/chat/completions", `{"model":"` + strings.Repeat("m", 513) + `",` + msg + `}`, 400, "512"},
		"no messages":       {"/v1/chat/completions", `{"model":"a"}`, 400, "messages is missing"},
		"empty messages":    {"/v1/chat/completions", `{"model":"a","messages":[]}`, 400, "messages"},
		"message string":    {"/v1/chat/completions", `{"model":"a","messages":["x"]}`, 400, "messages"},
		"message no role":   {"/v1/chat/completions", `{"model":"a","messages":[{"content":"x"}]}`, 400, "role"},
		"empty body":        {"/v1/chat/completions", ``, 400, "empty body"},
		"array body":        {"/v1/chat/completions", `[]`, 400, "object"},
		"cut body":          {"/v1/chat/completions", `{"model":"a`, 400, "unexpected end"},
		"BOM":               {"/v1/chat/completions", "\ufeff{}", 400, "object"},
		"too large":         {"/v1/chat/completions", `{"model":"` + strings.Repeat("x", 65<<10) + `"}`, 413, "65536"},
		"completion list":   {"/v1/completions", `{"model":"a","prompt":[]}`, 400, "prompt"},
		"embedding stream":  {"/v1/embeddings", `{"model":"a","input":"x","stream":true}`, 400, "stream"},
		"task unknown":      {"/v2/tasks", `{"model":"a","prompt":"x","promptt":"y"}`, 400, `unknown field \"promptt\"`},
		"task case":         {"/v2/tasks", `{"Model":"a","prompt":"x"}`, 400, `unknown field \"Model\"`},
		"task both":         {"/v2/tasks", `{"model":"a","prompt":"x","messages":[{"role":"user"}]}`, 400, "either"},
		"task node":         {"/v2/tasks", `{"model":"a","prompt":"x","node":"../x"}`, 400, "node has"},
		"task session":      {"/v2/tasks", `{"model":"a","prompt":"x","session_id":"` + strings.Repeat("s", 257) + `"}`, 400, `"param":"session_id"`},
		"task neither":      {"/v2/tasks", `{"model":"a"}`, 400, "either"},
		"task priority":     {"/v2/tasks", `{"model":"a","prompt":"x","priority":"high"}`, 400, "priority"},
		"task deadline":     {"/v2/tasks", `{"model":"a","prompt":"x","deadline":"soon"}`, 400, "deadline"},
		"task past":         {"/v2/tasks", `{"model":"a","prompt":"x","deadline":"2001-01-01T00:00:00Z"}`, 504, "passed"},
		"raw no model":      {"/v1/rerank", `{"query":"x"}`, 400, "name a model"},
		"raw dots":          {"/v1/..%2f..%2fslots", `{"model":"a"}`, 400, "path"},
		"raw slashes":       {"/v1//slots", `{"model":"a"}`, 400, "path"},
		"raw encoded slash": {"/v1/chat%2Fcompletions", `{"model":"a",` + msg + `}`, 400, "path"},
		"raw encoded char":  {"/v1/%63hat/completions", `{"model":"a",` + msg + `}`, 400, "path"},
		"raw space":         {"/v1/re%20rank", `{"model":"a"}`, 400, "path"},
		"NUL in path":       {"/v1/%00", `{"model":"a"}`, 400, "control"},
		"ollama no model":   {"/api/chat", `{"messages":[]}`, 400, "model"},
		"ollama predict":    {"/api/chat", `{"model":"a","messages":[{"role":"user"}],"options":{"num_predict":"x"}}`, 400, "num_predict"},
		"ollama format":     {"/api/chat", `{"model":"a","messages":[{"role":"user"}],"format":"yaml"}`, 400, "format must be"},
		"ollama types":      {"/api/chat", `{"model":"a","messages":"x"}`, 400, "messages"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := g.do(t, "POST", c.path, c.body)
			if resp.StatusCode != c.status || !strings.Contains(body, c.part) || resp.Header.Get("X-Rbee-Error") == "" {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	if n := g.f.Count(); n != 0 {
		t.Errorf("%d bad requests reached the submitter", n)
	}
}

func TestBadHeaders(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	for _, c := range []struct {
		status int
		header []string
	}{
		{400, []string{"Content-Encoding", "gzip"}},
		{400, []string{"X-Rbee-Priority", "urgent"}},
		{400, []string{"X-Rbee-Deadline", "tomorrow"}},
		{400, []string{"X-Rbee-Detach", "yes"}},
		{400, []string{"X-Rbee-Session", strings.Repeat("s", 300)}},
		{400, []string{"Idempotency-Key", strings.Repeat("k", 300)}},
		{400, []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}},
		{403, []string{"Origin", "http://evil.example"}},
		{403, []string{"Origin", "null"}},
		{403, []string{"Origin", "http://localhost:3000"}},
	} {
		resp, body := g.do(t, "POST", "/v1/chat/completions", chatBody, c.header...)
		if resp.StatusCode != c.status {
			t.Errorf("%v: %d %s", c.header[:1], resp.StatusCode, body)
		}
	}
	if g.f.Count() != 0 {
		t.Error("a bad request reached the submitter")
	}
	resp, _ := g.do(t, "POST", "/v1/chat/completions", chatBody, "X-Request-Id", "bad id", "X-Correlation-Id", strings.Repeat("x", 200), "Origin", g.url)
	if id := resp.Header.Get("X-Request-Id"); resp.StatusCode != 200 || len(id) != 32 || resp.Header.Get("X-Correlation-Id") != id {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

// TestForeignHost is what a page whose name was bound to 127.0.0.1 would send.
func TestForeignHost(t *testing.T) {
	g := newRig(t, false, httpserver.Options{AllowedHosts: []string{"chat.lan"}})
	for host, want := range map[string]int{"evil.example": 403, "127.0.0.1.evil.example": 403, "localhost": 200, "app.localhost:80": 200,
		"127.0.0.1:9": 200, "[::1]:9": 200, "chat.lan": 200, "10.0.0.1": 403} {
		req, _ := http.NewRequest("GET", g.url+"/health", nil)
		req.Host = host
		resp, err := g.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("host %s: %d, want %d", host, resp.StatusCode, want)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Error("CORS header")
		}
	}
}

func TestPathsAndMethods(t *testing.T) {
	g := newRig(t, false, httpserver.Options{Catalog: slashModels{}})
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v1/models/org%2Fmodel", 200, ""}, {"HEAD", "/v1/models/org%2Fmodel", 200, ""}, {"GET", "/v1/models/org/model", 200, ""},
		{"GET", "/v1/models/..%2fx", 400, "INVALID_MODEL_REF"}, {"GET", "/v1/models/none", 404, "MODEL_NOT_FOUND"}, {"GET", "/v1//models", 404, "NOT_FOUND"},
		{"GET", "/v1/models/", 404, "NOT_FOUND"}, {"GET", "/v1/nothing", 404, "NOT_FOUND"}, {"DELETE", "/v1/models/org/model", 405, "METHOD_NOT_ALLOWED"},
		{"GET", "/v1/models/org//../x", 400, "INVALID_MODEL_REF"}, {"GET", "/ui", 200, ""},
		{"GET", "//v2/tasks", 404, "NOT_FOUND"}, {"GET", "/v2/tasks/", 404, "NOT_FOUND"}, {"GET", "/v2/tasks/../keys", 404, "NOT_FOUND"},
		{"GET", "/v1/chat/completions", 405, "METHOD_NOT_ALLOWED"}, {"OPTIONS", "/v1/chat/completions", 405, "METHOD_NOT_ALLOWED"},
		{"DELETE", "/health", 405, "METHOD_NOT_ALLOWED"}, {"HEAD", "/health", 200, ""}, {"GET", "/nothing", 404, "NOT_FOUND"},
		{"GET", "/v2/tasks", 501, "NOT_AVAILABLE"}, {"GET", "/v2/models/catalog?x=1", 400, "INVALID_REQUEST"}, {"GET", "/v2/models/list?node=a&node=b", 400, "INVALID_REQUEST"},
		{"GET", "/" + strings.Repeat("x", 3000), 400, "INVALID_REQUEST"},
	} {
		resp, body := g.do(t, c.method, c.path, "")
		if resp.StatusCode != c.status || resp.Header.Get("X-Rbee-Error") != c.code {
			t.Errorf("%s %.40s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
		if allow := resp.Header.Get("Allow"); c.status == 405 && (allow == "" || c.method == "DELETE" && allow != "GET, HEAD") {
			t.Errorf("%s %s: Allow %q", c.method, c.path, allow)
		}
	}
}

// TestFault20GiantBody holds memory to the limit while giant bodies arrive, stated and not.
func TestFault20GiantBody(t *testing.T) {
	const limit = 1 << 20
	g := newRig(t, false, httpserver.Options{MaxBody: limit})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range 20 {
		body := io.LimitReader(zeros{}, 64<<20)
		req, _ := http.NewRequest("POST", g.url+"/v1/chat/completions", body)
		if i%2 == 0 {
			req.ContentLength = 64 << 20
		}
		resp, err := g.client.Do(req)
		if err != nil {
			continue // cut while it was still sending: that is an answer too
		}
		if resp.StatusCode != 413 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		_ = resp.Body.Close()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2*limit {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if g.f.Count() != 0 {
		t.Error("a giant body reached the submitter")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestLargeBodiesAreBounded fills the memory for large bodies and expects the next one to be refused with a hint.
func TestLargeBodiesAreBounded(t *testing.T) {
	g := newRig(t, false, httpserver.Options{BodyMemory: 3 << 20})
	inside, leave := make(chan struct{}, 8), make(chan struct{})
	g.f.OnResult = func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		inside <- struct{}{}
		<-leave
		return &httpserver.Result{Body: []byte("{}")}, nil
	}
	big := `{"model":"m","pad":"` + strings.Repeat("x", 1<<20) + `","messages":[{"role":"user"}]}`
	done := make(chan error, 2)
	for range 2 {
		go func() { _, err := g.try("POST", "/v1/chat/completions", big); done <- err }()
		<-inside
	}
	resp, _ := g.do(t, "POST", "/v1/chat/completions", big)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d", resp.StatusCode)
	}
	close(leave)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if resp, _ := g.do(t, "POST", "/v1/chat/completions", big); resp.StatusCode != 200 {
		t.Errorf("after the others had gone: %d", resp.StatusCode)
	}
}

// TestRawConnections speaks HTTP by hand, wrongly.
func TestRawConnections(t *testing.T) {
	g := newRig(t, true, httpserver.Options{BodyTimeout: 50 * time.Millisecond})
	for name, c := range map[string]struct{ send, want string }{
		"two lengths":         {"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", " 400 "},
		"huge authorization":  {"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + strings.Repeat("a", 64<<10) + "\r\n\r\n", " 4"},
		"empty authorization": {"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization:\r\n\r\n", " 401 "},
		"no host":             {"GET /health HTTP/1.1\r\n\r\n", " 400 "},
		"dribbled body":       {"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer infer\r\nContent-Length: 100\r\n\r\n{\"mod", " 408 "},
		"cut chunk":           {"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer infer\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", " 400 "},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = io.WriteString(conn, c.send)
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.Contains(line, c.want) {
				t.Errorf("%q %v", line, err)
			}
		})
	}
}

// speak sends raw bytes, closes the sending side if half, and returns all that comes back until the server closes.
func speak(t *testing.T, g *rig, send string, half bool) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, send)
	if tcp, ok := conn.(*net.TCPConn); ok && half {
		_ = tcp.CloseWrite()
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("%v after %q", err, b)
	}
	return string(b)
}

// TestSmuggling: net/http follows Transfer-Encoding where a Content-Length stands beside it, as it may. The connection must not
// be used for what comes behind, which the proxy before this server may have taken for a part of the body.
func TestSmuggling(t *testing.T) {
	g := newRig(t, true, httpserver.Options{})
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer infer\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, body := range map[string]string{"empty": "0\r\n\r\n", "whole": fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(chatBody), chatBody)} {
		got := speak(t, g, head+body+"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", false)
		if strings.Count(got, "HTTP/1.1 ") != 1 || !strings.Contains(got, "Connection: close") || strings.Contains(got, `"version"`) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestHalfClosed: who sends a part of a body and closes that side must not be told 200.
func TestHalfClosed(t *testing.T) {
	g := newRig(t, true, httpserver.Options{})
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer infer\r\n"
	for name, send := range map[string]string{"length": head + "Content-Length: 100\r\n\r\n{\"model\":", "chunked": head + "Transfer-Encoding: chunked\r\n\r\n50\r\n{\"model\":"} {
		if got := speak(t, g, send, true); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "INVALID_REQUEST") {
			t.Errorf("%s: %q", name, got)
		}
	}
	g.f.OnResult = func(ctx context, _ *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	got := speak(t, g, head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(chatBody), chatBody), true)
	if !strings.HasPrefix(got, "HTTP/1.1 499 ") || !strings.Contains(got, `"code":"cancelled"`) {
		t.Errorf("while it was waiting: %q", got)
	}
	if g.f.Count() != 1 {
		t.Errorf("%d requests reached the submitter", g.f.Count())
	}
}

// TestStuckReader: a client that asks without end and reads nothing is cut.
func TestStuckReader(t *testing.T) {
	g := newRig(t, false, httpserver.Options{WriteTimeout: 100 * time.Millisecond})
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	ask := strings.Repeat("GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 1000)
	for err == nil {
		_, err = io.WriteString(conn, ask)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("not cut: %v", err)
	}
}

// TestHostileFlood sends many requests that must all be refused with a documented status and leave nothing behind; goleak
// looks for goroutines at the end. RBEE_LONG=1 sends 20,000.
func TestHostileFlood(t *testing.T) {
	n := 2000
	if long() {
		n = 20000
	}
	g := newRig(t, true, httpserver.Options{MaxBody: 64 << 10})
	kinds := hostileKinds()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range n {
		k := kinds[i%len(kinds)]
		req, _ := http.NewRequest(k.method, g.url+k.path, bytes.NewReader([]byte(k.body)))
		req.Header = k.header.Clone()
		resp, err := g.client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", k.method, k.path, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode > 431 {
			t.Fatalf("%s %s: %d", k.method, k.path, resp.StatusCode)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes over %d requests", grown, n)
	}
	if g.f.Count() != 0 {
		t.Error("a hostile request reached the submitter")
	}
}

type hostile struct {
	method, path, body string
	header             http.Header
}

func hostileKinds() []hostile {
	key := http.Header{"Authorization": {"Bearer infer"}}
	with := func(k, v string) http.Header { h := key.Clone(); h.Set(k, v); return h }
	return []hostile{
		{"POST", "/v1/chat/completions", strings.Repeat("[", 20000), key},
		{"POST", "/v1/chat/completions", strings.Repeat(`{"a":`, 10000), key},
		{"POST", "/v1/chat/completions", `{"model":"a","model":"b"}`, key},
		{"POST", "/v1/chat/completions", strings.Repeat("x", 70<<10), key},
		{"POST", "/v1/chat/completions", chatBody, http.Header{}},
		{"POST", "/v1/chat/completions", chatBody, http.Header{"Authorization": {"Bearer " + strings.Repeat("k", 8000)}}},
		{"POST", "/v1/chat/completions", chatBody, with("Content-Encoding", "gzip")},
		{"POST", "/v1/chat/completions", chatBody, with("Origin", "http://evil.example")},
		{"POST", "/v2/keys", `{}`, key},
		{"GET", "/v2/tasks/%00", "", key},
		{"GET", "/../../etc/passwd", "", key},
		{"PATCH", "/v1/models", "{}", key},
		{"POST", "/v1/audio/transcriptions", "--x\r\n", with("Content-Type", "multipart/form-data; boundary=x")},
		{"POST", "/v2/tasks", `{"model":"stories","prompt":"x","extra":1}`, key},
		{"POST", "/v1/chat/completions", `{"model":"other","messages":[{"role":"user"}]}`, key},
		{"POST", "/v1/chat/completions", fmt.Sprintf(`{"model":"stories","stop":[%s1],"messages":[]}`, strings.Repeat(`"a",`, 5000)), key},
	}
}
