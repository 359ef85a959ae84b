package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// world is what a page's blocks find around them.
type world struct {
	t     *testing.T
	n     fleetNet
	bin   string
	home  string
	dir   string // where the blocks run
	env   []string
	after func() // what must be true when they have run
}

// newWorld makes the surroundings of a page: everybody's, and what the page speaks of.
func newWorld(t *testing.T, n fleetNet, p page) *world {
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	tmp := filepath.Join(home, ".tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, n: n, bin: bin, home: home, dir: home}
	w.env = []string{"HOME=" + home, "PATH=" + bin + ":" + os.Getenv("PATH") + ":/usr/sbin", "TMPDIR=" + tmp, "TERM=dumb", "LANG=C.UTF-8"}
	for _, name := range []string{"GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GONOSUMDB", "GOSUMDB", "GOTOOLCHAIN"} {
		if out, err := exec.Command("go", "env", name).Output(); err == nil && strings.TrimSpace(string(out)) != "" {
			w.env = append(w.env, name+"="+strings.TrimSpace(string(out)))
		}
	}
	script := p.script()
	switch {
	case strings.Contains(script, "make "):
		w.dir = root()
	case strings.Contains(script, "rbee") && !strings.Contains(script, "rbee serve"):
		q := start(t, "models: {demo: {ref: \"sim:demo?ttft=5ms&itl=1ms\"}}\n")
		w.env = append(w.env, "RBEE_URL="+q.url)
	}
	switch p.name {
	case "docs/add-a-machine.md":
		w.attic()
	case "docs/cli.md":
		w.release()
	case "docs/embed/README.md":
		w.moduleProxy()
	case "docs/engines.md", "docs/quickstart.md":
		w.llama()
	case "docs/models.md":
		w.hub()
	case "docs/operations.md":
		w.collector()
	}
	return w
}

// llama puts llama-server on PATH, and a model's path into MODEL.
func (w *world) llama() (model string) {
	binary, model := llamaServer(w.t)
	w.env = append(w.env, "PATH="+w.bin+":"+filepath.Dir(binary)+":"+os.Getenv("PATH")+":/usr/sbin", "MODEL="+model)
	return model
}

// hub answers as the Hugging Face hub does, with the tests' own model in the place of the page's.
func (w *world) hub() {
	data, err := os.ReadFile(w.llama())
	if err != nil {
		w.t.Fatal(err)
	}
	h := newHub(w.t, "bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q8_0.gguf", data)
	w.env = append(w.env, "HF_ENDPOINT="+h.URL)
	w.after = func() {
		if all, _ := h.downloads(0); all == 0 {
			w.t.Error("nothing was asked of the hub")
		}
	}
}

// collector is an OTLP receiver at the address that it has by default; the page's trace must arrive there.
func (w *world) collector() {
	_, err := exec.LookPath("sqlite3")
	need(w.t, err == nil, "sqlite3 (a tool for the backup)")
	c := &collected{}
	l, err := net.Listen("tcp", "127.0.0.1:4318")
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: c}}
	srv.Start()
	w.t.Cleanup(srv.Close)
	w.after = func() {
		spans := c.of("4bf92f3577b34da6a3ce929d0e0e4736")
		for _, name := range []string{"queen-rbee/request", "queen-rbee/admit", "queen-rbee/relay"} {
			if _, ok := spans[name]; !ok {
				w.t.Errorf("the page's trace lacks %s: %v", name, spans)
			}
		}
	}
}

// release serves a release of the three programs at its place on the internet, as curl is told in its own configuration:
// every address leads to a server of this test, whose certificate it trusts.
func (w *world) release() {
	dist := filepath.Join(w.home, ".dist")
	archive := fmt.Sprintf("queen-rbee-%s-%s.tar.gz", runtime.GOOS, runtime.GOARCH)
	command(w.t, "mkdir -p "+dist)
	command(w.t, "cp "+filepath.Join(root(), "cmd/rbee/install.sh")+" "+dist)
	pack := exec.Command("tar", "-C", w.bin, "-I", "gzip -1", "-cf", filepath.Join(dist, archive), "queen-rbee", "rbee-hive", "rbee")
	if out, err := pack.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	sums := exec.Command("sha256sum", archive)
	sums.Dir = dist
	out, err := sums.Output()
	if err == nil {
		err = os.WriteFile(filepath.Join(dist, "SHA256SUMS"), out, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	files := http.FileServer(http.Dir(dist))
	mux := http.NewServeMux()
	for _, place := range []string{"github.com/queen-rbee/queen-rbee/releases/latest/download/", "github.com/queen-rbee/queen-rbee/releases/download/v0.1.0/", "mirror.example/rbee/"} {
		_, path, _ := strings.Cut(place, "/")
		mux.Handle(place, http.StripPrefix("/"+path, files))
	}
	srv := httptest.NewUnstartedServer(mux)
	cert, authority := certificate(w.t, "github.com", "mirror.example")
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	w.t.Cleanup(srv.Close)
	ca := filepath.Join(w.home, ".ca.pem")
	curlrc := fmt.Sprintf("connect-to = \"::%s\"\ncacert = %q\n", srv.Listener.Addr(), ca)
	for path, text := range map[string]string{ca: authority, filepath.Join(w.home, ".curlrc"): curlrc} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// certificate is one for some names, and the authority to trust, which is itself.
func certificate(t *testing.T, names ...string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// packModules packs the modules of this checkout as a release would. It needs the internet where the packer was not built before.
func packModules(t *testing.T) string {
	t.Helper()
	proxy := t.TempDir()
	cmd := exec.Command("go", "run", ".", "-root", root(), "-pack", proxy)
	cmd.Dir = filepath.Join(root(), ".ci", "consumertest")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pack the modules: %v\n%s", err, out)
	}
	return proxy
}

// moduleProxy makes the packed modules the first place where go looks.
func (w *world) moduleProxy() {
	cache := strings.TrimSpace(command(w.t, "go env GOMODCACHE"))
	w.env = append(w.env, "GOPROXY=file://"+os.Getenv("RBEE_PACKED")+",file://"+filepath.Join(cache, "cache", "download"), "GONOSUMDB=github.com/queen-rbee/*",
		"GOMODCACHE="+filepath.Join(w.home, "modules"), "GOFLAGS=-modcacherw")
}

// attic is a machine named gpu1 in ssh's configuration, with an sshd, and with an account ops that the reader's key opens.
func (w *world) attic() {
	t := w.t
	m := &machine{n: w.n, i: 1, dir: t.TempDir()}
	m.home = filepath.Join(m.dir, "home")
	ssh := filepath.Join(w.home, ".ssh")
	for dir, mode := range map[string]os.FileMode{m.home: 0o755, "/run/sshd": 0o755, ssh: 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	_, m.fingerprint = writeKey(t, filepath.Join(m.dir, "host"))
	pub, _ := writeKey(t, filepath.Join(ssh, "id_ed25519"))
	accounts, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	const ops = 61107 // nobody's
	conf := fmt.Sprintf("ListenAddress %s\nPort 22\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"+
		"KbdInteractiveAuthentication no\nPermitRootLogin no\nSubsystem sftp internal-sftp\nPidFile %s/pid\n", address(1), m.dir, m.dir, m.dir)
	for path, text := range map[string]string{
		filepath.Join(m.dir, "conf"): conf, filepath.Join(m.dir, "authorized"): pub + "\n", filepath.Join(ssh, "config"): "Host gpu1\n  HostName " + address(1) + "\n",
		filepath.Join(m.dir, "passwd"): string(accounts) + fmt.Sprintf("ops:x:%d:%d::%s:/bin/bash\n", ops, ops, m.home),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(m.home, ops, ops); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(m.dir), 0o711); err != nil { // the account has to come through
		t.Fatal(err)
	}
	m.daemon(t, `mount --bind "$1/passwd" /etc/passwd && exec /usr/sbin/sshd -D -f "$1/conf" -E "$1/log"`)
	w.env = append(w.env, "FINGERPRINT="+m.fingerprint, "SSH_AUTH_SOCK=")
}
