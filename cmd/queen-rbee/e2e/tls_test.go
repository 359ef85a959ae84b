package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pki is an authority with the certificate that it made for a queen.
type pki struct {
	t             *testing.T
	key           *ecdsa.PrivateKey
	ca            *x509.Certificate
	pool          *x509.CertPool
	caFile        string
	cert, private string // files
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	dir := t.TempDir()
	p := &pki{t: t, pool: x509.NewCertPool(), caFile: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), private: filepath.Join(dir, "key.pem")}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.ca = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := p.sign(p.ca, &p.key.PublicKey)
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.pool.AddCert(p.ca)
	p.write(p.caFile, "CERTIFICATE", der)
	p.issue(2)
	return p
}

func (p *pki) sign(c *x509.Certificate, public *ecdsa.PublicKey) []byte {
	p.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, p.ca, public, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return der
}

func (p *pki) write(path, kind string, der []byte) {
	p.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// issue puts a new certificate and key in place.
func (p *pki) issue(serial int64) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(p.cert, "CERTIFICATE", p.sign(&x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "queen"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}, &key.PublicKey))
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(p.private, "PRIVATE KEY", private)
}

// client speaks one protocol alone.
func (p *pki) client(h2 bool) *http.Client {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool, MinVersion: tls.VersionTLS12}, Protocols: protocols}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// queen is one that listens with TLS, asked over HTTP/1.1 or HTTP/2.
func (p *pki) queen(h2 bool, config string) *queen {
	p.t.Helper()
	bin, err := build()
	if err != nil {
		p.t.Fatal(err)
	}
	q := startVia(p.t, p.client(h2), bin, fmt.Sprintf("tls: {cert: %s, key: %s}\n", p.cert, p.private)+config)
	if !strings.HasPrefix(q.url, "https://127.0.0.1:") {
		p.t.Fatalf("it serves at %s", q.url)
	}
	return q
}

// overTLS runs a test with each protocol.
func overTLS(t *testing.T, config string, test func(t *testing.T, p *pki, q *queen, proto string)) {
	for proto, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(proto, func(t *testing.T) {
			p := newPKI(t)
			test(t, p, p.queen(h2, config), proto)
		})
	}
}

// TestTLSStreams: streams that last are the same over TLS as they are without, a few in a row over one connection, and can be
// resumed; pages and metrics are there.
func TestTLSStreams(t *testing.T) {
	overTLS(t, "models: {demo: {ref: \"sim:demo?ttft=20ms&itl=5ms\"}}\n", func(t *testing.T, _ *pki, q *queen, proto string) {
		for range 3 {
			res, err := q.do(t.Context(), "POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hello"}],"max_tokens":20,"stream":true}`)
			if err != nil {
				t.Fatal(err)
			}
			var chunks, again, ids []string
			if err := events(res.Body, func(ev event) bool { chunks = append(chunks, ev.data); return true }); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if n := len(chunks); res.Proto != proto || n < 20 || chunks[n-1] != "[DONE]" {
				t.Fatalf("over %s: %q", res.Proto, chunks)
			}
			later, err := q.do(t.Context(), "GET", "/v2/tasks/"+res.Header.Get("X-Rbee-Job-Id")+"/events?format=openai", nil, "Last-Event-ID", "5")
			if err != nil {
				t.Fatal(err)
			}
			if err := events(later.Body, func(ev event) bool { again, ids = append(again, ev.data), append(ids, ev.id); return true }); err != nil {
				t.Fatal(err)
			}
			_ = later.Body.Close()
			if !slices.Equal(again, chunks[5:]) || ids[0] != "6" {
				t.Errorf("resumed: %q %q", ids, again)
			}
		}
		for path, want := range map[string]string{"/metrics": "rbee_", "/ui/": "<html", "/metrics/targets": `"__scheme__":"https"`, "/v2/doctor": `"certificate"`} {
			res, err := q.do(t.Context(), "GET", path, nil)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != 200 || res.Proto != proto || !strings.Contains(string(data), want) {
				t.Errorf("%s over %s: %d %v, no %q in %.300s", path, res.Proto, res.StatusCode, err, want, data)
			}
		}
		plain, err := http.Get("http://" + q.addr() + "/health")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = plain.Body.Close() }()
		if said, _ := io.ReadAll(plain.Body); plain.StatusCode != 400 || !strings.Contains(string(said), "HTTPS") {
			t.Errorf("without TLS: %d %s", plain.StatusCode, said)
		}
	})
}

// slowWorker is an engine that says one token, and another at each word of the test.
type slowWorker struct {
	*httptest.Server
	say  chan struct{}
	gone chan time.Time
}

func newSlowWorker(t *testing.T) *slowWorker {
	w := &slowWorker{say: make(chan struct{}), gone: make(chan time.Time, 100)}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "text/event-stream")
		token := func(text, finish string) {
			_, _ = fmt.Fprintf(rw, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"slow\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q},\"finish_reason\":%s}]}\n\n", text, finish)
			_ = http.NewResponseController(rw).Flush()
		}
		token("once", "null")
		for range 3 {
			select {
			case <-w.say:
				token(" more", "null")
			case <-r.Context().Done():
				w.gone <- time.Now()
				return
			}
		}
		token("", `"stop"`)
		_, _ = io.WriteString(rw, "data: [DONE]\n\n")
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *slowWorker) config() string {
	return "hives: []\nexternals: [{name: far, url: \"" + w.URL + "\", protocol: openai, models: {slow: slow}, slots: 8, health: /}]\n"
}

const slowChat = `{"model":"slow","messages":[{"role":"user","content":"x"}],"stream":true}`

// open begins a stream and reads its first chunk.
func (w *slowWorker) open(t *testing.T, q *queen, ctx context.Context) io.ReadCloser {
	t.Helper()
	res, err := q.do(ctx, "POST", "/v1/chat/completions", slowChat)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	buf := make([]byte, 1)
	if _, err := io.ReadFull(res.Body, buf); err != nil || res.StatusCode != 200 {
		t.Fatalf("%d %v", res.StatusCode, err)
	}
	return res.Body
}

// TestTLSClientLeaves: the worker hears of it, from a client that goes at once and from one that goes after its stream was
// silent for a while; a neighbour on the same connection goes on.
func TestTLSClientLeaves(t *testing.T) {
	w := newSlowWorker(t)
	overTLS(t, w.config(), func(t *testing.T, _ *pki, q *queen, _ string) {
		stays := w.open(t, q, t.Context())
		for _, silent := range []time.Duration{0, 100 * time.Millisecond} {
			ctx, leave := context.WithCancel(t.Context())
			w.open(t, q, ctx)
			<-time.After(silent)
			left := time.Now()
			leave()
			select {
			case at := <-w.gone:
				t.Logf("after %s the worker heard it within %s", silent, at.Sub(left).Round(time.Millisecond))
			case <-time.After(20 * time.Second):
				t.Fatal("the worker goes on")
			}
		}
		for range 3 {
			w.say <- struct{}{}
		}
		if data, err := io.ReadAll(stays); err != nil || strings.Count(string(data), " more") != 3 || !strings.Contains(string(data), "[DONE]") {
			t.Errorf("the neighbour: %s %v", data, err)
		}
	})
}

// TestTLSDrain: SIGTERM lets a stream that is under way come to its end.
func TestTLSDrain(t *testing.T) {
	w := newSlowWorker(t)
	overTLS(t, w.config(), func(t *testing.T, p *pki, q *queen, _ string) {
		stays := w.open(t, q, t.Context())
		w.say <- struct{}{}
		_ = q.cmd.Process.Signal(syscall.SIGTERM)
		q.until("she drains", 10*time.Second, func() bool { return strings.Contains(q.logs(), "draining") })
		for range 2 {
			w.say <- struct{}{}
		}
		if data, err := io.ReadAll(stays); err != nil || strings.Count(string(data), " more") != 3 || !strings.Contains(string(data), "[DONE]") {
			t.Errorf("%s %v", data, err)
		}
		select {
		case err := <-q.done:
			if err != nil {
				t.Error(err)
			}
			q.cmd = nil
		case <-time.After(20 * time.Second):
			t.Error("she does not end")
		}
	})
}

// TestTLSRenewed: SIGHUP takes up a new certificate; one that is broken is refused, and the old one goes on.
func TestTLSRenewed(t *testing.T) {
	p := newPKI(t)
	q := p.queen(false, "hives: []\nexternals: []\nmodels: {}\n")
	shows := func() int64 {
		c, err := tls.Dial("tcp", q.addr(), &tls.Config{RootCAs: p.pool, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := shows(); got != 2 {
		t.Fatalf("certificate %d", got)
	}
	p.issue(3)
	_ = q.cmd.Process.Signal(syscall.SIGHUP)
	q.until("the new certificate is shown", 10*time.Second, func() bool { return shows() == 3 })
	p.issue(4)
	if err := os.WriteFile(p.private, []byte("nothing of the kind"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = q.cmd.Process.Signal(syscall.SIGHUP)
	q.until("the refusal is logged", 10*time.Second, func() bool { return strings.Contains(q.logs(), "belong together") })
	if got := shows(); got != 3 || q.status("GET", "/health", nil) != 200 {
		t.Errorf("certificate %d after a broken one", got)
	}
	if strings.Contains(q.logs(), "nothing of the kind") {
		t.Error("the key's file is in the log")
	}
	// and a queen does not start with it
	out, err := exec.Command(filepath.Join(q.bin, "queen-rbee"), "--config", q.config, "config", "check").CombinedOutput()
	if err == nil || !strings.Contains(string(out), p.private) {
		t.Errorf("config check: %v %s", err, out)
	}
}

// TestTLSKeeper: rbee reaches an https queen whose authority it was told, and no other.
func TestTLSKeeper(t *testing.T) {
	p := newPKI(t)
	q := p.queen(false, "models: {demo: {ref: \"sim:demo\"}}\n")
	if out, errOut, code := q.rbee("--ca", p.caFile, "run", "demo", "Say hello"); code != 0 || out == "" {
		t.Errorf("%d %s %s", code, out, errOut)
	}
	if _, errOut, code := q.rbee("status"); code != 3 || !strings.Contains(errOut, "--ca") {
		t.Errorf("an authority that nobody named: %d %s", code, errOut)
	}
	if _, errOut, code := q.rbee("--ca", newPKI(t).caFile, "status"); code != 3 || !strings.Contains(errOut, "not trusted") {
		t.Errorf("another authority: %d %s", code, errOut)
	}
}

// TestTLSOpenAINode is the openai npm client over https.
func TestTLSOpenAINode(t *testing.T) {
	node, err := exec.LookPath("node")
	need(t, err == nil, "node")
	_, err = os.Stat(filepath.Join("node", "node_modules", "openai"))
	need(t, err == nil, "node client (npm ci in cmd/queen-rbee/e2e/node)")
	_, model := llamaServer(t)
	p := newPKI(t)
	q := p.queen(false, "models: {stories: {ref: \"file:"+model+"\", engine: llama.cpp, slots: 2, context: 1024, args: [\"-t\", \"1\", \"-tb\", \"1\"]}}\n")
	cmd := exec.Command(node, "stories.mjs", "3")
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "RBEE_URL="+q.url, "NODE_EXTRA_CA_CERTS="+p.caFile)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "3 rounds") {
		t.Fatalf("%v: %s", err, out)
	}
}
