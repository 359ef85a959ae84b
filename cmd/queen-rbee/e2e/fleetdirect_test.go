package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// direct: a hive that is reached without a tunnel shows a certificate of its queen's making and takes no other queen's.
func (f *theFleet) direct(t *testing.T) {
	m := f.hosts[1]
	f.stop()
	f.config = filepath.Join(f.home, "direct.yaml")
	addr := address(1) + ":7900"
	text := fmt.Sprintf("data_dir: %s\nmodels: {demo: {ref: \"sim:demo\"}}\nhives:\n  - {name: gpu1, mode: network, ssh: \"root@%s\", identity: %s, host_key: %q, address: %q}\n",
		f.dir, address(1), m.key, m.fingerprint, addr)
	if err := os.WriteFile(f.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.launch(f.addr())
	f.online("the direct hive is online", 30*time.Second, 1)
	f.infer(t, 1)
	ca := filepath.Join(f.dir, "hives-ca.pem")
	if info, err := os.Stat(ca); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the queen's authority: %v %v", info, err)
	}
	before := m.hivePID(t)
	// whoever has no certificate of hers is refused before a byte of HTTP
	none := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a stranger who takes any certificate
	if _, err := get(t, none, "https://"+addr+"/v1/health"); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("no certificate: %v", err)
	}
	if body, err := get(t, none, "http://"+addr+"/v1/health"); err == nil && !strings.Contains(body, "HTTPS") {
		t.Errorf("without TLS: %s", body)
	}
	b, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	// a queen who restarts adopts it
	f.kill()
	f.launch(f.addr())
	f.online("the direct hive is adopted", 15*time.Second, 1)
	f.infer(t, 1)
	if after := m.hivePID(t); after != before {
		t.Errorf("hive %d became %d", before, after)
	}
	f.otherAuthority(t, ca, b, none, addr)
	if _, errOut, code := f.rbee("hive", "rm", "gpu1"); code != 0 {
		t.Errorf("rm: exit %d: %s", code, errOut)
	}
}

// otherAuthority: a queen whose authority is another one, with the right token all the same, is told so and starts a hive
// that has her certificate. A hive's own certificate opens no hive.
func (f *theFleet) otherAuthority(t *testing.T, ca string, b []byte, stranger *tls.Config, addr string) {
	files, _ := filepath.Glob(f.hosts[1].home + "/.local/share/rbee/hives/*/token")
	if len(files) != 1 {
		t.Fatalf("tokens: %v", files)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("what the hive was handed: %v %v", info, err)
	}
	bundle, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		t.Fatal(err)
	}
	as := stranger.Clone()
	as.Certificates = []tls.Certificate{stolen}
	if _, err := get(t, as, "https://"+addr+"/v1/health"); err == nil || !strings.Contains(err.Error(), "tls:") {
		t.Errorf("a hive's certificate: %v", err)
	}
	if strings.Contains(f.logs(), "PRIVATE KEY") {
		t.Error("a key is in the queen's log")
	}
	f.stop()
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	old := f.hosts[1].hivePID(t)
	f.launch(f.addr())
	f.online("a hive with the new authority is online", 30*time.Second, 1)
	f.infer(t, 1)
	if f.hosts[1].hivePID(t) == old || !strings.Contains(f.logs(), "a certificate that this queen did not make for it") {
		t.Errorf("hive %d under another authority:\n%s", old, f.logs())
	}
	if now, err := os.ReadFile(ca); err != nil || string(now) == string(b) {
		t.Errorf("the authority was not made anew: %v", err)
	}
}

// get asks with a TLS configuration of its own.
func get(t *testing.T, c *tls.Config, url string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	return string(data), err
}
