package httpserver_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestWorkerURLs: whoever may report a worker can't make the queen ask a metadata service.
func TestWorkerURLs(t *testing.T) {
	g, f, _ := fullRig(t, false)
	report := func(url string) (int, string) {
		t.Helper()
		resp, body := g.do(t, "POST", "/v2/workers/register", fmt.Sprintf(`{"worker_id":"w1","model":"m","url":%q}`, url))
		return resp.StatusCode, body
	}
	for _, url := range []string{"http://169.254.169.254", "http://169.254.169.254./latest", "http://[::ffff:169.254.169.254]:80", "http://[::169.254.169.254]",
		"http://[64:ff9b::a9fe:a9fe]", "http://[64:ff9b:1::a9fe:a9fe]", "http://[fe80::1%25eth0]:80", "http://[fd00:ec2::254]", "http://2852039166", "http://0xa9fea9fe",
		"http://0251.0376.0251.0376", "http://169.254.43518", "http://0", "http://0.0.0.0:80", "http://[::]", "http://224.0.0.1", "http://[ff02::1]",
		"file:///etc/passwd", "gopher://a", "http://user:secret@10.0.0.1", "//10.0.0.1", "10.0.0.1:80", "http://"} {
		if status, body := report(url); status != 400 || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %s", url, status, body)
		}
	}
	if asked := f.last(); asked != "" {
		t.Errorf("the backend was asked: %s", asked)
	}
	for _, url := range []string{"http://127.0.0.1:8080", "http://[::1]:8080", "http://10.1.2.3:8000", "http://100.100.1.2:8000", "http://gpu7.lan:8000", "https://gpu7.example:443/base"} {
		if status, body := report(url); status != 200 {
			t.Errorf("%s: %d %s", url, status, body)
		}
	}
}
