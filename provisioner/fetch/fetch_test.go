package fetch_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
)

func TestCheckAddresses(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1", "127.8.9.1", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255",
		"192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "fec0::1", "2001:db8::1",
	} {
		if err := fetch.Check(netip.MustParseAddr(a)); err == nil {
			t.Errorf("%s may be dialled", a)
		}
	}
	for _, a := range []string{"1.1.1.1", "140.82.112.3", "2606:4700::1111", "2a00:1450::1", "100.63.255.255", "100.128.0.1", "172.32.0.1"} {
		if err := fetch.Check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if fetch.Check(netip.Addr{}) == nil {
		t.Error("no address may be dialled")
	}
}

func get(c *fetch.Client, u, auth string) (string, error) {
	resp, err := c.Do(context.Background(), fetch.Request{URL: u, Authorization: auth})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestURLsThatAreRefused(t *testing.T) {
	c := fetch.New(fetch.Options{})
	defer c.Close()
	var dialled *fetch.BlockedError
	for _, u := range []string{
		"http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://x/", "https://u:p@example.com/", "https:///x", "https:opaque", "://", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
		"https://169.254.169.254/latest/meta-data", "https://[fe80::1%25eth0]/",
	} {
		if _, err := get(c, u, ""); err == nil {
			t.Errorf("%s was fetched", u)
		}
	}
	// forms that only a resolver reads as an address, and a name that leads inside: caught where it is dialled
	for _, u := range []string{"https://localhost/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/"} {
		_, err := get(c, u, "")
		if err == nil {
			t.Errorf("%s was fetched", u)
		}
		if u == "https://localhost/" && !errors.As(err, &dialled) {
			t.Errorf("%s was not stopped in the dialer: %v", u, err)
		}
	}
}

func TestAllowedHostOnly(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer srv.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "secret") }))
	defer other.Close()
	c := fetch.New(fetch.Options{Allow: []string{srv.URL}})
	defer c.Close()
	if got, err := get(c, srv.URL, ""); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	if got, err := get(c, other.URL, ""); err == nil {
		t.Fatal("another port of an allowed host: ", got)
	}
}

// TestRedirects: credentials and API keys stay with their host; five at most; nowhere inside.
func TestRedirects(t *testing.T) {
	seen := map[string]string{}
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen["b"] = r.Header.Get("Authorization")
		_, _ = io.WriteString(w, "content")
	}))
	defer b.Close()
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("the inside was reached") }))
	defer inside.Close()
	a := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen["a"+r.URL.Path] = r.Header.Get("Authorization")
		switch {
		case r.URL.Path == "/same":
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		case r.URL.Path == "/other":
			http.Redirect(w, r, b.URL+"/x?Signature=s3cret", http.StatusFound)
		case r.URL.Path == "/inside":
			http.Redirect(w, r, inside.URL, http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/n"):
			http.Redirect(w, r, r.URL.Path+"n", http.StatusFound)
		}
	}))
	defer a.Close()
	c := fetch.New(fetch.Options{Allow: []string{a.URL, b.URL}})
	defer c.Close()
	if got, err := get(c, a.URL+"/same", "Bearer tok"); err != nil || got != "content" {
		t.Fatal(got, err)
	}
	if seen["a/same"] != "Bearer tok" || seen["a/other"] != "Bearer tok" || seen["b"] != "" {
		t.Fatalf("credentials: %v", seen)
	}
	if _, err := get(c, a.URL+"/inside", ""); err == nil {
		t.Fatal("a redirect led inside")
	}
	if _, err := get(c, a.URL+"/n", ""); err == nil || !strings.Contains(err.Error(), "five") {
		t.Fatal(err)
	}
	p := fetch.New(fetch.Options{Peers: true})
	defer p.Close()
	if _, err := get(p, a.URL+"/same", "Bearer tok"); err == nil || !strings.Contains(err.Error(), "must not redirect") {
		t.Fatalf("a peer was followed through a redirect: %v", err)
	}
	if got, err := get(p, b.URL, ""); err != nil || got != "content" {
		t.Fatal(got, err)
	}
	if _, err := get(p, "http://169.254.169.254/", ""); err == nil {
		t.Fatal("a peer at a metadata address")
	}
}

func TestErrorsHoldNoSecrets(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "9")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	c := fetch.New(fetch.Options{Allow: []string{srv.URL}})
	defer c.Close()
	_, err := get(c, srv.URL+"/x?Signature=s3cret", "Bearer tok")
	var fe *fetch.Error
	if !errors.As(err, &fe) || fe.Status != 503 || fe.RetryAfter().Seconds() != 9 || !fe.Temporary() {
		t.Fatal(err)
	}
	srv.Close()
	_, gone := get(c, srv.URL+"/x?Signature=s3cret", "Bearer tok")
	for _, err := range []error{err, gone} {
		if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "tok") {
			t.Fatalf("a secret in %v", err)
		}
	}
}

// TestRebinding: a name that is harmless when checked and leads inside when dialled. The dialer's own
// resolver is the only one that is asked, so the check can't be fooled: "localhost" stands for such a name.
func TestRebinding(t *testing.T) {
	inside := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer inside.Close()
	u, _ := url.Parse(inside.URL)
	c := fetch.New(fetch.Options{TLS: inside.Client().Transport.(*http.Transport).TLSClientConfig})
	defer c.Close()
	_, err := get(c, "https://"+net.JoinHostPort("localhost", u.Port()), "")
	var blocked *fetch.BlockedError
	if !errors.As(err, &blocked) {
		t.Fatal(err)
	}
}
