package hivelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// farm is any number of machines inside this process, each a round trip away and slow to start a hive.
type farm struct {
	rtt, boot time.Duration
	mu        sync.Mutex
	boxes     map[string]*box
}

type box struct {
	f     *farm
	token string
	id    string
	ready time.Time
	conns chan net.Conn
	done  chan struct{}
}

func (f *farm) Connect(ctx context.Context, t SSHTarget) (Runner, error) {
	sleep(ctx, 3*f.rtt)
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.boxes[t.Host]
	if b == nil {
		b = &box{f: f, conns: make(chan net.Conn), done: make(chan struct{})}
		f.boxes[t.Host] = b
		go func() { _ = http.Serve(b, http.HandlerFunc(b.serve)) }()
	}
	return b, nil
}

var idRE = regexp.MustCompile(`hive_[0-9a-f]{16}`)

// Run knows our scripts by what is in them.
func (b *box) Run(ctx context.Context, cmd string, stdin io.Reader) ([]byte, []byte, int, error) {
	sleep(ctx, b.f.rtt)
	out, exit := "", 0
	switch {
	case strings.Contains(cmd, "uname="):
		out = "uname=Linux x86_64\nwritable=1\ndir=/h/d\nbin=/h/bin\nfree=9999999\nstate:\n"
	case strings.Contains(cmd, "sha256sum"):
		exit = 3
	case strings.Contains(cmd, ".token.new"):
		raw, err := io.ReadAll(stdin)
		if err != nil {
			return nil, nil, -1, err
		}
		b.token, b.id, b.ready = strings.TrimSpace(string(raw)), idRE.FindString(cmd), time.Now().Add(b.f.boot)
	case strings.Contains(cmd, "hive.json"):
		exit = notYet
		if !b.ready.IsZero() && time.Now().After(b.ready) {
			exit, out = 0, fmt.Sprintf(`{"pid":77,"address":"127.0.0.1:1","id":%q,"version":"v"}`, b.id)
		}
	case strings.Contains(cmd, "kill -"):
		exit = 1
	}
	return []byte("\n==rbee-begin==\n" + out + "\n==rbee-end== " + fmt.Sprint(exit) + "\n"), nil, 0, nil
}

func (b *box) Upload(ctx context.Context, src io.Reader, _ int64, _, _ string, _ fs.FileMode) error {
	sleep(ctx, 4*b.f.rtt)
	_, err := io.Copy(io.Discard, src)
	return err
}

func (b *box) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	sleep(ctx, b.f.rtt)
	here, there := net.Pipe()
	select {
	case b.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *box) serve(w http.ResponseWriter, r *http.Request) {
	_ = json.NewEncoder(w).Encode(hiveapi.Health{ID: b.id, PID: 77, Epoch: 1, Version: "v", Proof: hiveapi.Proof(b.token, b.id, r.URL.Query().Get("nonce"))})
}

func (b *box) Close() error { return nil }

// Accept, with Addr and Close, makes a box the listener of its own hive.
func (b *box) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.done:
		return nil, errors.New("closed")
	}
}

func (b *box) Addr() net.Addr { return &net.TCPAddr{} }

// startFleet starts n hives at once and says how long that took by the (virtual) clock.
func startFleet(t *testing.T, n int) time.Duration {
	t.Helper()
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, BinaryName+"-linux-amd64"), []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var took time.Duration
	synctest.Test(t, func(t *testing.T) {
		f := &farm{rtt: 30 * time.Millisecond, boot: 800 * time.Millisecond, boxes: map[string]*box{}}
		m, err := New(nil, Options{DataDir: dir, BundleDir: bundle, Connector: f})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if _, err := m.StartNetwork(context.Background(), gpu(fmt.Sprintf("h%d", i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		took = time.Since(begun)
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		for _, b := range f.boxes {
			close(b.done)
		}
	})
	return took
}

// TestHundredHives: what a hundred starts wait for, they wait for together. The clock is synctest's.
func TestHundredHives(t *testing.T) {
	five, hundred := startFleet(t, 5), startFleet(t, 100)
	t.Logf("5 hives %s, 100 hives %s, ratio %.2f", five, hundred, float64(hundred)/float64(five))
	if hundred > 3*five {
		t.Fatal("100 hives take more than 3 times as long as 5")
	}
}
