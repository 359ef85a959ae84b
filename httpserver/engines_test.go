package httpserver_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

type enginesAPI struct{ *fleet }

func (e enginesAPI) List(_ context, node string) ([]httpserver.Engine, error) {
	e.note("engines", node)
	return []httpserver.Engine{{Node: "local", Engine: "llama.cpp", Version: "b1", Backend: "cpu", Active: true}}, nil
}
func (e enginesAPI) Install(_ context, r httpserver.InstallEngine) (string, error) {
	e.note("install", r.Node, r.Engine, r.Version, r.URL)
	return "install-1", nil
}
func (e enginesAPI) Use(_ context, r httpserver.EngineVersion) error {
	e.note("use", r.Node, r.Engine, r.Version, r.Backend)
	return nil
}
func (e enginesAPI) Remove(_ context, r httpserver.EngineVersion) error {
	e.note("remove", r.Node, r.Engine, r.Version)
	return &coded{code: "CONFLICT"}
}

func TestEngineEndpoints(t *testing.T) {
	f := &fleet{}
	g := newRig(t, false, httpserver.Options{Engines: enginesAPI{f}})
	for _, c := range []struct {
		method, path, body string
		status             int
		asked, part        string
	}{
		{"GET", "/v2/engines?node=local", "", 200, "engines local", `{"engines":[{"node":"local","engine":"llama.cpp","version":"b1"`},
		{"GET", "/v2/engines?what=x", "", 400, "", "what"},
		{"POST", "/v2/engines/install", `{"node":"local","engine":"llama.cpp"}`, 202, "install local llama.cpp  ", `"events_url":"/v2/operations/install-1/events"`},
		{"POST", "/v2/engines/install", `{"node":"local","engine":"llama.cpp","version":"b1","url":"https://x/a.zip","sha256":"00"}`, 202, "install local llama.cpp b1 https://x/a.zip", ""},
		{"POST", "/v2/engines/install", `{"node":"local","engine":"llama.cpp","version":"b1","url":"https://x/a.zip"}`, 400, "", "nothing unverified"},
		{"POST", "/v2/engines/install", `{"node":"local","engine":"llama.cpp","url":"https://x/a.zip"}`, 400, "", "version is missing"},
		{"POST", "/v2/engines/install", `{"engine":"llama.cpp"}`, 400, "", "node"},
		{"POST", "/v2/engines/install", `{"node":"local","engine":"llama.cpp","os":"x"}`, 400, "", "unknown field"},
		{"POST", "/v2/engines/use", `{"node":"local","engine":"llama.cpp","version":"b1","backend":"cpu"}`, 200, "use local llama.cpp b1 cpu", `"state":"active"`},
		{"POST", "/v2/engines/use", `{"node":"local","engine":"llama.cpp"}`, 400, "", "version is missing"},
		{"DELETE", "/v2/engines", `{"node":"local","engine":"llama.cpp","version":"b1"}`, 409, "remove local llama.cpp b1", "CONFLICT"},
	} {
		resp, body := g.do(t, c.method, c.path, c.body)
		if resp.StatusCode != c.status || !strings.Contains(body, c.part) {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
		if c.asked != "" && f.last() != c.asked {
			t.Errorf("%s %s: the backend was asked %q, want %q", c.method, c.path, f.last(), c.asked)
		}
	}
	g = newRig(t, false, httpserver.Options{})
	if resp, _ := g.do(t, "GET", "/v2/engines", ""); resp.StatusCode != 501 {
		t.Error("without engines:", resp.StatusCode)
	}
}

// TestEngineScopes tries each kind of key on the new endpoints.
func TestEngineScopes(t *testing.T) {
	g := newRig(t, true, httpserver.Options{Engines: enginesAPI{&fleet{}}, Pages: &pages{}})
	order := []string{"infer", "operate", "admin"}
	for line, from := range map[string]int{"GET /v2/engines": 1, "POST /v2/engines/install": 2, "POST /v2/engines/use": 2, "DELETE /v2/engines": 2,
		"GET /v2/workers/w1/proxy/": 1, "POST /v2/workers/w1/proxy/completion": 1, "DELETE /v2/workers/w1/proxy/x": 1, "POST /v2/workers/w1/proxyx/": 2,
		"POST /v2/workers/proxy/x": 2} {
		method, path, _ := strings.Cut(line, " ")
		for i, key := range order {
			resp, _ := g.do(t, method, path, "{}", "Authorization", "Bearer "+key)
			if refused := resp.StatusCode == 403; refused != (i < from) {
				t.Errorf("%s with key %s: %d", line, key, resp.StatusCode)
			}
		}
	}
}

// pages knows one worker, w1.
type pages struct{ addr string }

func (p *pages) Page(_ context, id string) (httpserver.Page, error) {
	if id != "w1" {
		return httpserver.Page{}, &coded{code: "WORKER_NOT_FOUND"}
	}
	return httpserver.Page{Host: "worker.test", APIKey: "engine-key", Dial: func(ctx context) (net.Conn, error) {
		if p.addr == "" {
			return nil, errors.New("connection refused")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", p.addr)
	}}, nil
}

func TestWorkerPage(t *testing.T) {
	var got *http.Request
	var body string
	worker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		h := w.Header()
		h.Set("Set-Cookie", "a=b")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("X-Engine", "yes")
		switch r.URL.Path {
		case "/moved":
			h.Set("Location", "/there?x=1")
			w.WriteHeader(302)
		case "/away":
			h.Set("Location", "http://169.254.169.254/latest")
			w.WriteHeader(302)
		case "/up":
			h.Set("Location", "/%2e%2e/%2e%2e/keys")
			w.WriteHeader(302)
		case "/events":
			h.Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
		default:
			_, _ = io.WriteString(w, "<html>engine</html>")
		}
	}))
	defer worker.Close()
	p := &pages{addr: worker.Listener.Addr().String()}
	g := newRig(t, true, httpserver.Options{Pages: p, MaxUpload: 1000})
	g.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ask := func(method, path, body string, header ...string) (*http.Response, string) {
		return g.do(t, method, path, body, append(header, "Authorization", "Bearer operate")...)
	}

	resp, text := ask("GET", "/v2/workers/w1/proxy/a%2Fb/?q=1&q=2", "", "Cookie", "rbee=1", "X-Forwarded-For", "9.9.9.9", "X-Api-Key", "operate", "Accept", "text/html")
	if resp.StatusCode != 200 || text != "<html>engine</html>" || resp.Header.Get("X-Engine") != "yes" {
		t.Fatal(resp.StatusCode, text)
	}
	if got.URL.EscapedPath() != "/a%2Fb/" || got.URL.RawQuery != "q=1&q=2" || got.Host != "worker.test" || got.Header.Get("Accept") != "text/html" {
		t.Error("the worker was asked", got.URL, got.Host, got.Header)
	}
	if got.Header.Get("Authorization") != "Bearer engine-key" {
		t.Error("the worker's key:", got.Header.Get("Authorization"))
	}
	for k, v := range got.Header {
		if line := k + strings.Join(v, ""); strings.Contains(line, "operate") || strings.Contains(line, "Cookie") || strings.Contains(line, "9.9.9.9") {
			t.Error("the worker was told", line)
		}
	}
	csp := resp.Header.Get("Content-Security-Policy")
	if resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("Access-Control-Allow-Origin") != "" || len(resp.Header["X-Request-Id"]) != 1 ||
		!strings.Contains(csp, "connect-src "+g.url+"/v2/workers/w1/proxy/;") || strings.Contains(csp, "allow-popups") {
		t.Error("headers of the answer:", resp.Header)
	}

	if resp, _ := ask("POST", "/v2/workers/w1/proxy/completion", `{"prompt":"x"}`, "Content-Type", "application/json"); resp.StatusCode != 200 || body != `{"prompt":"x"}` || got.Method != "POST" {
		t.Error("a body:", resp.StatusCode, body)
	}
	for path, want := range map[string]string{"/v2/workers/w1/proxy": "proxy/", "/v2/workers/w1/proxy/moved": "/v2/workers/w1/proxy/there?x=1"} {
		if resp, _ := ask("GET", path, ""); resp.StatusCode/100 != 3 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d to %q", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		part               string
	}{
		{"GET", "/v2/workers/w1/proxy/events", "", 200, "data: 1"},
		{"HEAD", "/v2/workers/w1/proxy/", "", 200, ""},
		{"GET", "/v2/workers/w1/proxy/away", "", 502, "redirects to somewhere else"},
		{"GET", "/v2/workers/w1/proxy/up", "", 502, "redirects to somewhere else"},
		{"GET", "/v2/workers/w9/proxy/", "", 404, "WORKER_NOT_FOUND"},
		{"POST", "/v2/workers/w1/proxy/x", strings.Repeat("x", 2000), 413, "REQUEST_TOO_LARGE"},
		{"PATCH", "/v2/workers/w1/proxy/x", "", 405, "METHOD_NOT_ALLOWED"},
	} {
		if resp, text := ask(c.method, c.path, c.body); resp.StatusCode != c.status || !strings.Contains(text, c.part) {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, text)
		}
	}
	p.addr = ""
	if resp, text := ask("GET", "/v2/workers/w1/proxy/", ""); resp.StatusCode != 502 || !strings.Contains(text, "WORKER_FAILED") || strings.Contains(text, "refused") {
		t.Error("a worker that is gone:", resp.StatusCode, text)
	}
}
