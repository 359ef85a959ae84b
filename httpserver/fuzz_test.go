package httpserver

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{
		`{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":5,"stop":["a"]}`,
		`{"model":"m","prompt":[1,2,3],"n":2}`, `{"model":"m","input":["a"],"stream_options":{"include_usage":true}}`, `{"model":1}`, `{`, ``,
	} {
		f.Add(uint8(0), []byte(seed))
	}
	paths := []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		req, view, err := ParseRequest(paths[int(which)%len(paths)], body, 64)
		if err != nil {
			if p := resolve(err); p.status < 400 || p.status > 499 {
				t.Fatalf("status %d for %q", p.status, body)
			}
			return
		}
		if !json.Valid(body) || req.Model == "" || view.Model != req.Model || req.N < 1 || req.PromptChars < 0 {
			t.Fatalf("accepted %q as %+v", body, req)
		}
	})
}

func FuzzHeadersAndQuery(f *testing.F) {
	f.Add("batch", "90s", "true", "key", "state=failed&limit=5")
	f.Add("", "2030-01-01T00:00:00Z", "", "", "a=%zz")
	f.Add("", "", "", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")
	s, err := New(nobody{}, nobody{}, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, priority, deadline, detach, key, query string) {
		r := &http.Request{Method: "GET", URL: &url.URL{Path: "/v2/tasks", RawQuery: query}, Header: http.Header{
			"X-Rbee-Priority": {priority}, "X-Rbee-Deadline": {deadline}, "X-Rbee-Detach": {detach}, "Idempotency-Key": {key}, "Last-Event-Id": {key}, "Traceparent": {key}}}
		c := &call{s: s, r: r, w: &response{ResponseWriter: httptest.NewRecorder()}}
		req := &Request{Body: []byte("{}")}
		if err := c.headers(req); err == nil {
			if req.Priority != PriorityBatch && req.Priority != PriorityInteractive {
				t.Fatalf("priority %q", req.Priority)
			}
			if tp := req.Traceparent; tp != "" && (tp != key || len(tp) != 55 || strings.ToLower(tp) != tp) {
				t.Fatalf("traceparent %q", tp)
			}
			if !req.Deadline.IsZero() && req.Deadline.Before(time.Now().Add(-time.Second)) {
				t.Fatalf("deadline %v", req.Deadline)
			}
		}
		if q, err := c.query("state", "limit"); err == nil {
			for k := range q {
				if k = strings.ToLower(k); k != "state" && k != "limit" {
					t.Fatalf("parameter %q", k)
				}
			}
		}
		_, _ = lastEventID(r)
	})
}

// FuzzHandler sends bodies to each POST endpoint: never a panic, always a documented status.
func FuzzHandler(f *testing.F) {
	s, err := New(nobody{}, nobody{}, Options{MaxBody: 1 << 16, MaxUpload: 1 << 16})
	if err != nil {
		f.Fatal(err)
	}
	var posts []string
	for _, rt := range s.routes {
		if rt.method == http.MethodPost {
			posts = append(posts, strings.NewReplacer("{rest:.+}", "rerank", "{node}", "n", "{batch_id}", "b").Replace(rt.path))
		}
	}
	f.Add(uint8(0), "application/json", []byte(`{"model":"m","messages":[{"role":"user","content":"x"}]}`))
	f.Add(uint8(4), "application/json", []byte(`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":{}}}]}],"options":{"stop":[]}}`))
	f.Add(uint8(30), "multipart/form-data; boundary=b", []byte("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n"))
	f.Fuzz(func(t *testing.T, which uint8, kind string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, posts[int(which)%len(posts)], strings.NewReader(string(body)))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		switch w.Code {
		case 400, 413, 501, 503, 504:
		default:
			t.Fatalf("%s: %d %s", r.URL.Path, w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s", w.Body)
		}
	})
}

// FuzzWorkerURL: an address that is let through is never one that the check is there for.
func FuzzWorkerURL(f *testing.F) {
	for _, seed := range []string{"http://10.0.0.1:8080", "http://[::ffff:169.254.169.254]/", "http://169.254.169.254.", "http://2852039166", "http://[64:ff9b::a9fe:a9fe%25lo]", "https://u:p@h", "http://0xa9.0xfe.0xa9.0xfe"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if checkWorkerURL(raw) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			t.Fatalf("%q was let through", raw)
		}
		if a, err := netip.ParseAddr(strings.TrimSuffix(u.Hostname(), ".")); err == nil && (a.Unmap().IsLinkLocalUnicast() || a.Unmap().IsMulticast() || a.Unmap().IsUnspecified()) {
			t.Fatalf("%q was let through", raw)
		}
		if ip := net.ParseIP(u.Hostname()); ip != nil && (ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified()) {
			t.Fatalf("%q was let through", raw)
		}
	})
}
