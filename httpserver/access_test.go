package httpserver_test

import (
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// TestOrigins: scripts of an allowed page may call and read, after asking first; nobody else is told anything.
func TestOrigins(t *testing.T) {
	const page = "https://chat.lan"
	g := newRig(t, true, httpserver.Options{AllowedOrigins: []string{page}})
	for _, c := range []struct {
		method, origin, asked, key string
		status                     int
		told                       string
	}{
		{"OPTIONS", page, "POST", "", 204, page}, {"POST", page, "", "Bearer infer", 200, page}, {"POST", page, "", "", 401, page},
		{"OPTIONS", page, "", "Bearer infer", 405, page}, {"OPTIONS", "https://evil.lan", "POST", "", 403, ""}, {"POST", "https://evil.lan", "", "Bearer infer", 403, ""},
		{"POST", "null", "", "Bearer infer", 403, ""},
	} {
		header := []string{"Origin", c.origin}
		if c.asked != "" {
			header = append(header, "Access-Control-Request-Method", c.asked, "Access-Control-Request-Headers", "authorization,x-stainless-os")
		}
		if c.key != "" {
			header = append(header, "Authorization", c.key)
		}
		resp, body := g.do(t, c.method, "/v1/chat/completions", chatBody, header...)
		h := resp.Header
		if resp.StatusCode != c.status || h.Get("Access-Control-Allow-Origin") != c.told || h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%+v: %d %v %s", c, resp.StatusCode, h, body)
		}
		if c.status == 204 && (h.Get("Access-Control-Allow-Headers") != "authorization,x-stainless-os" || h.Get("Vary") != "Origin" || h.Get("Access-Control-Max-Age") == "") {
			t.Errorf("%+v: %v", c, h)
		}
	}
	if resp, _ := newRig(t, false, httpserver.Options{}).do(t, "GET", "/health", ""); resp.Header.Get("Vary") != "" || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without allowed origins: %v", resp.Header)
	}
}
