package compose

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	gssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/remote"
)

// sshHost is an SSH server in this process whose every command takes a round trip, and whose hive takes a while to come
// up, as on a machine that is far away. The handshakes, sessions and tunnels are real.
type sshHost struct {
	rtt, boot time.Duration
	sum       string // of the program that lies there already
	hive      string // where its hive's API listens
	addr      *net.TCPAddr
	hostKey   string

	mu        sync.Mutex
	token, id string
	up        time.Time
}

var hiveID = regexp.MustCompile(`hive_[0-9a-f]{16}`)

func newSSHHost(t *testing.T, sum string) *sshHost {
	t.Helper()
	h := &sshHost{rtt: 50 * time.Millisecond, boot: 2 * time.Second, sum: sum}
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(h.api), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(api) }()
	t.Cleanup(func() { _ = srv.Close() })
	h.hive = api.Addr().String()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	h.hostKey = ssh.FingerprintSHA256(signer.PublicKey())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().(*net.TCPAddr)
	sshd := &gssh.Server{Handler: h.exec, PublicKeyHandler: func(gssh.Context, gssh.PublicKey) bool { return true },
		LocalPortForwardingCallback: func(gssh.Context, string, uint32) bool { return true },
		ChannelHandlers:             map[string]gssh.ChannelHandler{"session": gssh.DefaultSessionHandler, "direct-tcpip": gssh.DirectTCPIPHandler}}
	sshd.AddHostKey(signer)
	go func() { _ = sshd.Serve(l) }()
	t.Cleanup(func() { _ = sshd.Close() })
	return h
}

// exec knows hivelifecycle's scripts by what is in them.
func (h *sshHost) exec(s gssh.Session) {
	<-time.After(h.rtt)
	cmd, out, exit := s.RawCommand(), "", 0
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case strings.Contains(cmd, "uname="):
		out = "uname=Linux x86_64\nwritable=1\ndir=/h/d\nbin=/h/bin\nfree=9999999\nstate:\n"
	case strings.Contains(cmd, "sha256sum"):
		out = h.sum
	case strings.Contains(cmd, ".token.new"):
		raw, _ := io.ReadAll(s)
		h.token, h.id, h.up = strings.TrimSpace(string(raw)), hiveID.FindString(cmd), time.Now().Add(h.boot)
	case strings.Contains(cmd, "hive.json"):
		exit = 75 // not yet
		if !h.up.IsZero() && time.Now().After(h.up) {
			exit, out = 0, fmt.Sprintf(`{"pid":77,"address":%q,"id":%q,"version":"v"}`, h.hive, h.id)
		}
	default:
		exit = 1
	}
	_, _ = fmt.Fprintf(s, "\n==rbee-begin==\n%s\n==rbee-end== %d\n", out, exit)
}

func (h *sshHost) api(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = json.NewEncoder(w).Encode(hiveapi.Health{ID: h.id, PID: 77, Epoch: 1, Version: "v", Proof: hiveapi.Proof(h.token, h.id, r.URL.Query().Get("nonce"))})
}

// startOverSSH starts n hives at once, each over an SSH connection of its own, and says how long that took.
func startOverSSH(t *testing.T, n int) time.Duration {
	t.Helper()
	bundle, key := t.TempDir(), filepath.Join(t.TempDir(), "id")
	program := []byte("program")
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "test")
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{filepath.Join(bundle, hivelifecycle.BinaryName+"-linux-amd64"): program, key: pem.EncodeToMemory(block)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256(program)
	hosts := make([]*sshHost, n)
	for i := range hosts {
		hosts[i] = newSSHHost(t, hex.EncodeToString(sum[:]))
	}
	pool := remote.NewPool(remote.Options{ConfigFile: remote.None, AgentSocket: remote.None})
	defer func() { _ = pool.Close() }()
	m, err := hivelifecycle.New(nil, hivelifecycle.Options{DataDir: t.TempDir(), BundleDir: bundle, Connector: &connector{pool}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close(context.Background()) }()
	begun := time.Now()
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			ep, err := m.StartNetwork(t.Context(), hivelifecycle.NetworkConfig{Name: fmt.Sprintf("h%d", i),
				Target: hivelifecycle.SSHTarget{User: "u", Host: "127.0.0.1", Port: h.addr.Port, Identity: key, HostKey: h.hostKey}})
			if err != nil || ep.PID != 77 || ep.Adopted {
				t.Errorf("%s: %v", ep, err)
			}
		})
	}
	wg.Wait()
	return time.Since(begun)
}

// TestHundredHivesOverSSH: a hundred machines take at most three times as long as five. What a machine lets one wait for
// is simulated, so that not this machine's speed is measured but whether the starts wait for each other; the best of three
// rounds counts.
func TestHundredHivesOverSSH(t *testing.T) {
	best := 1e9
	for range 3 {
		five, hundred := startOverSSH(t, 5), startOverSSH(t, 100)
		ratio := hundred.Seconds() / five.Seconds()
		t.Logf("5 hives %s, 100 hives %s, ratio %.2f", five.Round(time.Millisecond), hundred.Round(time.Millisecond), ratio)
		if best = min(best, ratio); best <= 3 || t.Failed() {
			break
		}
	}
	if best > 3 {
		t.Errorf("100 hives take %.1f times as long as 5", best)
	}
}
