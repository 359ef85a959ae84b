package modelstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/provisioner/hub/hubtest"
	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gguf is random content that begins like a model.
func gguf(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	copy(b, "GGUF")
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

type rig struct {
	t     *testing.T
	hub   *hubtest.Server
	dir   string
	store *modelstore.Store
	o     modelstore.Options
}

func newRig(t *testing.T, change func(*modelstore.Options)) *rig {
	h := hubtest.New(t)
	r := &rig{t: t, hub: h, dir: filepath.Join(t.TempDir(), "store")}
	r.o = modelstore.Options{HFEndpoint: h.Endpoint(), Allow: h.Allow(), Chunk: 64 << 10, Headroom: -1, Stall: 2 * time.Second}
	if change != nil {
		change(&r.o)
	}
	r.open()
	t.Cleanup(func() { r.store.Close() })
	return r
}

func (r *rig) open() {
	r.t.Helper()
	s, err := modelstore.Open(r.dir, r.o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.store = s
}

func (r *rig) reopen() {
	r.t.Helper()
	if err := r.store.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

func (r *rig) get(req modelstore.Request) (modelstore.Model, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	j, err := r.store.Ensure(ctx, req)
	if err != nil {
		return modelstore.Model{}, err
	}
	return j.Wait(ctx)
}

func (r *rig) must(req modelstore.Request, want []byte) modelstore.Model {
	r.t.Helper()
	m, err := r.get(req)
	if err != nil {
		r.t.Fatal(err)
	}
	if want != nil {
		got, err := os.ReadFile(m.Path)
		if err != nil || !bytes.Equal(got, want) {
			r.t.Fatalf("the file has %d bytes (%v), want %d others", len(got), err, len(want))
		}
	}
	return m
}

func (r *rig) never(ref string) {
	r.t.Helper()
	if m, ok := r.store.Get(ref); ok {
		r.t.Fatalf("a bad model is served: %+v", m)
	}
	blobs, _ := filepath.Glob(filepath.Join(r.dir, "blobs", "*"))
	if len(blobs) > 0 {
		r.t.Fatalf("bad content in the store: %v", blobs)
	}
}

func code(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return ""
}

func TestHubDownload(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(1<<20+777, 1)
	r.hub.Add("org/tiny", "tiny-q8_0.gguf", data, true)
	r.hub.Add("org/tiny", "README.md", []byte("hello"), false)
	m := r.must(modelstore.Request{Ref: "hf:org/tiny"}, data)
	if m.SHA256 != sum(data) || m.Commit != r.hub.Repo("org/tiny").Commit || filepath.Base(m.Path) != "tiny-q8_0.gguf" || m.Choice == "" {
		t.Fatalf("%+v", m)
	}
	before := r.hub.Requests.Load()
	r.must(modelstore.Request{Ref: "hf:org/tiny"}, data)
	r.must(modelstore.Request{Ref: "hf:org/tiny@main::file=tiny-q8_0.gguf"}, data)
	if n := r.hub.Requests.Load(); n != before {
		t.Fatalf("content that is there was fetched again: %d requests", n-before)
	}
	r.reopen()
	if _, ok := r.store.Get("hf:org/tiny"); !ok {
		r.must(modelstore.Request{Ref: "hf:org/tiny"}, data) // not synced in time: verified, not fetched
	}
	if n := r.hub.Requests.Load(); n != before {
		t.Fatalf("after a restart it was fetched again: %d requests", n-before)
	}
	f, err := r.store.OpenFile(sum(data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := io.ReadAll(f); !bytes.Equal(got, data) {
		t.Fatal("the file server gives something else")
	}
}

func TestOneDownloadForAll(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(2<<20, 2)
	r.hub.Add("org/m", "m.gguf", data, true)
	var wg sync.WaitGroup
	var bad atomic.Int64
	for range 100 {
		wg.Go(func() {
			j, err := r.store.Ensure(context.Background(), modelstore.Request{Ref: "hf:org/m"})
			if err == nil {
				_, err = j.Wait(context.Background())
			}
			if err != nil {
				bad.Add(1)
			}
		})
	}
	wg.Wait()
	if bad.Load() != 0 || r.hub.Served.Load() != int64(len(data)) {
		t.Fatalf("%d failed, %d bytes served for a file of %d", bad.Load(), r.hub.Served.Load(), len(data))
	}
}

func TestFault24BadSources(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault hubtest.Fault
		kind  error
		text  string
	}{
		{"corrupt", hubtest.Fault{Corrupt: true}, modelstore.ErrCorrupt, "sha256"},
		{"html", hubtest.Fault{HTML: true}, modelstore.ErrSource, "web page"},
		{"cut", hubtest.Fault{CutAfter: 10_000}, modelstore.ErrSource, "connection broke"},
		{"stalled", hubtest.Fault{Stall: true}, modelstore.ErrSource, "connection broke"},
		{"404", hubtest.Fault{Status: 404}, nil, "not found"},
		{"500", hubtest.Fault{Status: 500}, nil, "hub failed"},
		{"redirect to http", hubtest.Fault{Redirect: "http://example.com/x"}, modelstore.ErrSource, "only https"},
		{"redirect to metadata", hubtest.Fault{Redirect: "https://169.254.169.254/latest"}, modelstore.ErrSource, "link-local"},
		{"redirect to loopback", hubtest.Fault{Redirect: "https://[::ffff:127.0.0.1]/x"}, modelstore.ErrSource, "loopback"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(o *modelstore.Options) { o.Stall = 300 * time.Millisecond })
			data := gguf(300_000, 3)
			r.hub.Add("org/m", "m.gguf", data, true)
			r.hub.SetTrip(func(*http.Request) hubtest.Fault { return tc.fault })
			_, err := r.get(modelstore.Request{Ref: "hf:org/m"})
			if err == nil || tc.kind != nil && !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), "Signature") {
				t.Fatalf("a signed address in an error: %v", err)
			}
			r.never("hf:org/m")
			r.hub.SetTrip(nil)
			r.must(modelstore.Request{Ref: "hf:org/m"}, data) // it is whole again: nothing bad was kept
		})
	}
}

func TestFault24RangeIgnored(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(500_000, 4)
	r.hub.Add("org/m", "m.gguf", data, true)
	r.hub.SetTrip(func(*http.Request) hubtest.Fault { return hubtest.Fault{NoRange: true} })
	r.must(modelstore.Request{Ref: "hf:org/m"}, data)
}

func TestFault24TruncatedAtTheSource(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(500_000, 5)
	f := r.hub.Add("org/m", "m.gguf", data, true)
	f.Size -= 100 // the content server has less than... the tree says the same: the hash tells
	_, err := r.get(modelstore.Request{Ref: "hf:org/m"})
	if !errors.Is(err, modelstore.ErrCorrupt) {
		t.Fatal(err)
	}
	r.never("hf:org/m")
}

func TestFault24ResumeLosesLittle(t *testing.T) {
	r := newRig(t, func(o *modelstore.Options) { o.Connections = 2 })
	data := gguf(2<<20, 6) // 32 chunks
	r.hub.Add("org/m", "m.gguf", data, true)
	var n atomic.Int64
	r.hub.SetTrip(func(*http.Request) hubtest.Fault {
		if n.Add(1) > 20 {
			return hubtest.Fault{Status: 503}
		}
		return hubtest.Fault{}
	})
	if _, err := r.get(modelstore.Request{Ref: "hf:org/m"}); err == nil {
		t.Fatal("it should have failed")
	}
	r.never("hf:org/m")
	first := r.hub.Served.Load()
	if first < 18*(64<<10) {
		t.Fatalf("only %d bytes served before the fault", first)
	}
	// one chunk rots on the disk, and the log ends in a torn line
	parts, _ := filepath.Glob(filepath.Join(r.dir, "partial", "*.data"))
	logs, _ := filepath.Glob(filepath.Join(r.dir, "partial", "*.log"))
	if len(parts) != 1 || len(logs) != 1 {
		t.Fatalf("%v %v", parts, logs)
	}
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}
	rot(t, parts[0], 100)
	lf, err := os.OpenFile(logs[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(lf, "3")
	lf.Close()
	r.hub.SetTrip(nil)
	r.open()
	r.must(modelstore.Request{Ref: "hf:org/m"}, data)
	again := r.hub.Served.Load() - first
	if want := int64(len(data)) - first + 4*(64<<10); again > want {
		t.Fatalf("the resume fetched %d bytes, want at most %d", again, want)
	}
}

func rot(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func TestRetryHookGoesOnWhereItStopped(t *testing.T) {
	var tries atomic.Int64
	r := newRig(t, func(o *modelstore.Options) {
		o.Connections, o.Chunk = 1, 1<<20
		o.Retry = func(ctx context.Context, _ string, fn func(context.Context) error) (err error) {
			for range 40 {
				tries.Add(1)
				var tmp interface{ Temporary() bool }
				if err = fn(ctx); err == nil || !errors.As(err, &tmp) || !tmp.Temporary() {
					return err
				}
			}
			return err
		}
	})
	data := gguf(1<<20, 7)
	r.hub.Add("org/m", "m.gguf", data, true)
	r.hub.SetTrip(func(*http.Request) hubtest.Fault { return hubtest.Fault{CutAfter: 100_000} })
	r.must(modelstore.Request{Ref: "hf:org/m"}, data)
	if served := r.hub.Served.Load(); served > int64(len(data))*3/2 {
		t.Fatalf("%d bytes served for %d: attempts start over", served, len(data))
	}
	if tries.Load() < 5 {
		t.Fatal("the hook was not asked")
	}
}

func TestGatedPrivateAndMissing(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(100_000, 8)
	r.hub.Add("org/gated", "m.gguf", data, true)
	r.hub.Repo("org/gated").Gated = true
	for _, tc := range []struct{ ref, token, text string }{
		{"hf:org/gated", "", "accept the conditions"},
		{"hf:org/gated", "hf_wrong", "accept the conditions"},
		{"hf:org/none", "", "does not exist, is private"},
		{"hf:org/gated@nope", hubtest.Token, "no revision"},
		{"hf:org/gated::file=nope.gguf", hubtest.Token, "no file"},
	} {
		_, err := r.get(modelstore.Request{Ref: tc.ref, Token: tc.token})
		if err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", tc.ref, err)
		}
		if tc.token != "" && strings.Contains(fmt.Sprint(err), tc.token) {
			t.Errorf("the token is in the error: %v", err)
		}
	}
	r.must(modelstore.Request{Ref: "hf:org/gated", Token: hubtest.Token}, data)
	if r.hub.TokenSeen.Load() {
		t.Fatal("the token went to the content server")
	}
	err := filepath.Walk(r.dir, func(p string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if raw, _ := os.ReadFile(p); bytes.Contains(raw, []byte(hubtest.Token)) {
			t.Errorf("the token is stored in %s", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTooManyRequests(t *testing.T) {
	r := newRig(t, nil)
	r.hub.Add("org/m", "m.gguf", gguf(1000, 9), true)
	r.hub.SetHubTrip(func(*http.Request) hubtest.Fault { return hubtest.Fault{Status: 429, RetryAfter: "7"} })
	_, err := r.get(modelstore.Request{Ref: "hf:org/m"})
	var after interface{ RetryAfter() time.Duration }
	if !errors.As(err, &after) || after.RetryAfter() != 7*time.Second {
		t.Fatalf("Retry-After is lost: %v", err)
	}
}

func TestSignedAddressExpires(t *testing.T) {
	r := newRig(t, func(o *modelstore.Options) { o.Connections = 1 })
	data := gguf(1<<20, 10)
	r.hub.Add("org/m", "m.gguf", data, true)
	var n atomic.Int64
	r.hub.SetTrip(func(*http.Request) hubtest.Fault {
		if n.Add(1) == 8 {
			r.hub.Expire()
		}
		return hubtest.Fault{}
	})
	r.must(modelstore.Request{Ref: "hf:org/m"}, data)
	if calls := r.hub.HubCalls.Load(); calls > 6 {
		t.Fatalf("%d calls to the hub: each range went over it", calls)
	}
}

func TestShardsAndSafetensors(t *testing.T) {
	r := newRig(t, nil)
	r.hub.PageSize = 2
	for i := 1; i <= 3; i++ {
		r.hub.Add("org/big", fmt.Sprintf("Q4/big-Q4_K_M-%05d-of-00003.gguf", i), gguf(100_000, uint64(20+i)), true)
	}
	m := r.must(modelstore.Request{Ref: "hf:org/big::file=Q4/big-Q4_K_M-00001-of-00003.gguf"}, gguf(100_000, 21))
	if len(m.Files) != 3 || m.SizeBytes != 300_000 {
		t.Fatalf("%+v", m)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(m.Path), "big-Q4_K_M-00003-of-00003.gguf")); err != nil {
		t.Fatal("the shards must lie side by side: ", err)
	}
	r.hub.Add("org/st", "model-00001-of-00002.safetensors", gguf(50_000, 30), true)
	r.hub.Add("org/st", "model-00002-of-00002.safetensors", gguf(50_000, 31), true)
	r.hub.Add("org/st", "config.json", []byte(`{"a":1}`), false)
	r.hub.Add("org/st", "pytorch_model.bin", gguf(5000, 32), true)
	m = r.must(modelstore.Request{Ref: "hf:org/st"}, nil)
	got, err := os.ReadFile(filepath.Join(m.Path, "config.json"))
	if err != nil || string(got) != `{"a":1}` || len(m.Files) != 3 {
		t.Fatalf("%v %+v", err, m)
	}
}

func TestSmallFileWithWrongGitChecksum(t *testing.T) {
	r := newRig(t, nil)
	r.hub.Add("org/st", "model.safetensors", gguf(50_000, 30), true)
	r.hub.Add("org/st", "config.json", []byte(`{"a":1}`), false).Data = strings.NewReader(`{"a":2}`)
	if _, err := r.get(modelstore.Request{Ref: "hf:org/st"}); !errors.Is(err, modelstore.ErrCorrupt) {
		t.Fatal(err)
	}
}

func TestEvictUseAndShared(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(100_000, 11)
	r.hub.Add("org/a", "a.gguf", data, true)
	r.hub.Add("org/b", "b.gguf", data, true) // the same content
	r.must(modelstore.Request{Ref: "hf:org/a"}, data)
	b := r.must(modelstore.Request{Ref: "hf:org/b"}, data)
	release, err := r.store.Use("hf:org/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Evict("hf:org/a"); !errors.Is(err, modelstore.ErrInUse) || code(err) != "CONFLICT" {
		t.Fatalf("evicting a model in use: %v", err)
	}
	release()
	release()
	if err := r.store.Evict("hf:org/a"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b.Path); err != nil || !bytes.Equal(got, data) {
		t.Fatal("shared content was removed with the other model")
	}
	if err := r.store.Evict("hf:org/b"); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Evict("hf:org/b"); code(err) != "MODEL_NOT_FOUND" {
		t.Fatal(err)
	}
	var left int64
	_ = filepath.Walk(r.dir, func(_ string, info os.FileInfo, _ error) error {
		if info != nil && !info.IsDir() {
			left += info.Size()
		}
		return nil
	})
	if left != 0 {
		t.Fatalf("%d bytes left after eviction", left)
	}
}

func TestBudget(t *testing.T) {
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	r := newRig(t, func(o *modelstore.Options) {
		o.Budget = 250_000
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); clock = clock.Add(time.Second); return clock }
	})
	for i, n := range []string{"a", "b", "c", "d"} {
		r.hub.Add("org/"+n, n+".gguf", gguf(100_000, uint64(40+i)), true)
	}
	r.must(modelstore.Request{Ref: "hf:org/a"}, nil)
	r.must(modelstore.Request{Ref: "hf:org/b"}, nil)
	release, err := r.store.Use("hf:org/a") // now b is the least recently used
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	r.must(modelstore.Request{Ref: "hf:org/c"}, nil)
	if _, ok := r.store.Get("hf:org/b"); ok {
		t.Fatal("b should have made room")
	}
	if err := r.store.Pin("hf:org/c", true); err != nil {
		t.Fatal(err)
	}
	_, err = r.get(modelstore.Request{Ref: "hf:org/d"})
	if !errors.Is(err, modelstore.ErrNoSpace) || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "pinned") {
		t.Fatalf("busy and pinned models must stay, and the error say so: %v", err)
	}
	for _, n := range []string{"a", "c"} {
		if _, ok := r.store.Get("hf:org/" + n); !ok {
			t.Fatalf("%s is gone", n)
		}
	}
}

// TestAskingAgainCounts: a model that was asked for again is not the first to make room, although it was there already.
func TestAskingAgainCounts(t *testing.T) {
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	r := newRig(t, func(o *modelstore.Options) {
		o.Budget = 250_000
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); clock = clock.Add(time.Second); return clock }
	})
	for i, n := range []string{"a", "b", "c"} {
		r.hub.Add("org/"+n, n+".gguf", gguf(100_000, uint64(60+i)), true)
	}
	for _, n := range []string{"a", "b", "a", "c"} {
		r.must(modelstore.Request{Ref: "hf:org/" + n}, nil)
	}
	if _, ok := r.store.Get("hf:org/a"); !ok {
		t.Error("a, which was asked for last, is gone")
	}
	if _, ok := r.store.Get("hf:org/b"); ok {
		t.Error("b should have made room")
	}
}

func TestEvictorHookCannotNameBusyModels(t *testing.T) {
	r := newRig(t, func(o *modelstore.Options) {
		o.Budget = 150_000
		o.Evictor = func(_ context.Context, items []modelstore.Item, _ int64) ([]string, error) {
			if len(items) > 0 {
				return nil, errors.New("it was offered a busy model")
			}
			return []string{"hf:org/a"}, nil
		}
	})
	r.hub.Add("org/a", "a.gguf", gguf(100_000, 50), true)
	r.hub.Add("org/b", "b.gguf", gguf(100_000, 51), true)
	r.must(modelstore.Request{Ref: "hf:org/a"}, nil)
	release, _ := r.store.Use("hf:org/a")
	defer release()
	if _, err := r.get(modelstore.Request{Ref: "hf:org/b"}); !errors.Is(err, modelstore.ErrNoSpace) {
		t.Fatal(err)
	}
	if _, ok := r.store.Get("hf:org/a"); !ok {
		t.Fatal("a hook evicted a model in use")
	}
}

func TestHeadroom(t *testing.T) {
	r := newRig(t, func(o *modelstore.Options) {
		o.Headroom = 1000
		o.Free = func(string) (int64, error) { return 50_000, nil }
	})
	r.hub.Add("org/a", "a.gguf", gguf(100_000, 60), true)
	_, err := r.get(modelstore.Request{Ref: "hf:org/a"})
	if !errors.Is(err, modelstore.ErrNoSpace) || r.hub.Requests.Load() != 0 {
		t.Fatalf("%v after %d requests", err, r.hub.Requests.Load())
	}
}

func TestCancelAndLeavers(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(500_000, 12)
	r.hub.Add("org/m", "m.gguf", data, true)
	hold := make(chan struct{})
	r.hub.SetTrip(func(req *http.Request) hubtest.Fault {
		select {
		case <-hold:
		case <-req.Context().Done():
		}
		return hubtest.Fault{}
	})
	j, err := r.store.Ensure(context.Background(), modelstore.Request{Ref: "hf:org/m"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := j.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if p := j.Progress(); p.State.Final() {
		t.Fatalf("a waiter that left ended the job: %+v", p)
	}
	if err := r.store.Evict("hf:org/m"); !errors.Is(err, modelstore.ErrInUse) {
		t.Fatal(err)
	}
	j.Cancel()
	if _, err := j.Wait(context.Background()); !errors.Is(err, modelstore.ErrCancelled) {
		t.Fatal(err)
	}
	var last modelstore.Progress
	for p := range j.Events(context.Background()) {
		last = p
	}
	if last.State != modelstore.Cancelled {
		t.Fatalf("%+v", last)
	}
	close(hold)
	r.must(modelstore.Request{Ref: "hf:org/m"}, data)
}

func TestPeersBeforeTheHub(t *testing.T) {
	a := newRig(t, nil)
	data := gguf(500_000, 13)
	a.hub.Add("org/m", "m.gguf", data, true)
	am := a.must(modelstore.Request{Ref: "hf:org/m"}, data)
	served := a.hub.Served.Load()
	peer := servePeer(t, a.store)

	b := newRig(t, func(o *modelstore.Options) { o.HFEndpoint = a.hub.Endpoint(); o.Allow = a.hub.Allow() })
	b.must(modelstore.Request{Ref: "hf:org/m", Peers: []modelstore.Peer{{URL: peer.URL, Authorization: "Bearer hive"}}}, data)
	if a.hub.Served.Load() != served {
		t.Fatal("the hub was asked though a peer had the file")
	}
	// the hub is away: the peer's list will do
	c := newRig(t, func(o *modelstore.Options) { o.HFEndpoint = "http://127.0.0.1:9" })
	c.must(modelstore.Request{Ref: "hf:org/m", Peers: []modelstore.Peer{{URL: peer.URL, Authorization: "Bearer hive", Files: am.Files, Commit: am.Commit}}}, data)
	// peers that lie, redirect or refuse: the hub has the last word
	for _, mode := range []string{"corrupt", "redirect", "refuse", "html"} {
		bad := badPeer(t, mode)
		d := newRig(t, func(o *modelstore.Options) { o.HFEndpoint = a.hub.Endpoint(); o.Allow = a.hub.Allow() })
		d.must(modelstore.Request{Ref: "hf:org/m", Peers: []modelstore.Peer{{URL: bad.URL}}}, data)
	}
}

func TestLocalFiles(t *testing.T) {
	r := newRig(t, nil)
	data := gguf(10_000, 14)
	name := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	m := r.must(modelstore.Request{Ref: "file:" + name, SHA256: sum(data)}, data)
	if m.Path != name || m.Owned {
		t.Fatalf("%+v", m)
	}
	if _, err := r.get(modelstore.Request{Ref: "file:" + name, SHA256: strings.Repeat("0", 64)}); !errors.Is(err, modelstore.ErrCorrupt) {
		t.Fatal(err)
	}
	if _, err := r.get(modelstore.Request{Ref: "file:/no/such/file.gguf"}); code(err) != "MODEL_NOT_FOUND" {
		t.Fatal(err)
	}
	page := filepath.Join(t.TempDir(), "page.gguf")
	if err := os.WriteFile(page, []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.get(modelstore.Request{Ref: "file:" + page}); !errors.Is(err, modelstore.ErrCorrupt) {
		t.Fatal(err)
	}
	if err := r.store.Evict("file:" + name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Fatal("evicting removed the operator's own file")
	}
	r.must(modelstore.Request{Ref: "sim:demo?load=1s"}, nil)
}

func TestBadReferences(t *testing.T) {
	r := newRig(t, nil)
	for _, ref := range []string{"", "alias", "hf:../x", "hf:a/b@../c", "hf:a/b::file=../../etc/passwd", "hf:a/b::file=..\\x", "-x", "sha256:../x", "hf:a/b\x00", "file:relative", "http://x/y"} {
		if _, err := r.get(modelstore.Request{Ref: ref}); code(err) != "INVALID_MODEL_REF" {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := r.get(modelstore.Request{Ref: "https://example.com/m.gguf"}); code(err) != "FORBIDDEN" {
		t.Fatal(err)
	}
	for _, s := range []string{"../../etc/passwd", "sha256:../x", "", strings.Repeat("A", 64)} {
		if _, err := r.store.OpenFile(s); code(err) != "MODEL_NOT_FOUND" {
			t.Errorf("%q: %v", s, err)
		}
	}
}
