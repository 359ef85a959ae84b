package httpserver_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzEndpoints sends paths, queries and bodies to every endpoint of a server that has all its backends: never a panic,
// never a status that is not documented, and each refusal is JSON with its code.
func FuzzEndpoints(f *testing.F) {
	g, _, _ := fullRig(f, false)
	w := httptest.NewRecorder()
	g.s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		f.Fatal(err)
	}
	var routes []string
	for path, methods := range doc.Paths {
		if strings.HasSuffix(path, "/events") || path == "/v2/logs" { // these stream until the reader goes
			continue
		}
		for method := range methods {
			routes = append(routes, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	for i := range routes {
		f.Add(uint8(i), "a", "", []byte(`{"model":"m","model_ref":"hf:a/b","node":"n","node_name":"n","worker_id":"w","tenant_id":"t","scope":"infer","messages":[],"prompt":"x","jobs":[{}]}`))
		f.Add(uint8(i), "a%2Fb", "node=a&limit=5&state=failed", []byte(`{"rpm":1,"ssh_port":70000,"keep_alive":"5m","ttl":"1h","expires_at":"2030-01-01T00:00:00Z"}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, part, query string, body []byte) {
		method, path, _ := strings.Cut(routes[int(which)%len(routes)], " ")
		if i := strings.IndexByte(path, '{'); i >= 0 {
			path = path[:i] + url.PathEscape(part) + path[i+strings.IndexByte(path[i:], '}')+1:]
		}
		u := &url.URL{Path: path, RawQuery: query}
		if raw, err := url.PathUnescape(path); err == nil {
			u.Path, u.RawPath = raw, path
		}
		r := httptest.NewRequest(method, "http://localhost/", strings.NewReader(string(body)))
		r.URL, r.RequestURI = u, u.RequestURI()
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		g.s.Handler().ServeHTTP(w, r)
		if w.Code >= 400 {
			if code := w.Header().Get("X-Rbee-Error"); code == "" || code == "INTERNAL" || !json.Valid(w.Body.Bytes()) {
				t.Fatalf("%s %s?%s %q: %d %s", method, path, query, body, w.Code, w.Body)
			}
		}
		if w.Header().Get("X-Request-Id") == "" || w.Header().Get("X-Correlation-Id") == "" {
			t.Fatalf("%s %s: %v", method, path, w.Header())
		}
	})
}
