package modelstore_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner/hub/hubtest"
	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

// TestChild is no test of its own: other tests run this binary with RBEE_CHILD to get a process that they
// can kill, or whose memory they can measure.
func TestChild(t *testing.T) {
	switch os.Getenv("RBEE_CHILD") {
	case "pull":
		childPull(t)
	case "serve":
		childServe(t)
	}
}

func childPull(t *testing.T) {
	chunk, _ := strconv.ParseInt(os.Getenv("RBEE_CHUNK"), 10, 64)
	s, err := modelstore.Open(os.Getenv("RBEE_DIR"), modelstore.Options{HFEndpoint: os.Getenv("RBEE_HUB"), Allow: strings.Split(os.Getenv("RBEE_ALLOW"), ","), Headroom: -1, Chunk: chunk})
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	j, err := s.Ensure(context.Background(), modelstore.Request{Ref: "hf:org/m"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(started)
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Fprintf(os.Stderr, "PULLED %d %s\n", took.Microseconds(), strings.Fields(v)[0])
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// childServe is a hub and content server with one large file, as fast as net/http serves one.
func childServe(t *testing.T) {
	file, sum := os.Getenv("RBEE_FILE"), os.Getenv("RBEE_SUM")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	commit := strings.Repeat("a", 40)
	mux := http.NewServeMux()
	mux.HandleFunc("/api/models/org/m/revision/main", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"sha":%q}`, commit) })
	mux.HandleFunc("/api/models/org/m/tree/"+commit, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `[{"type":"file","path":"m.gguf","size":%d,"oid":%q,"lfs":{"oid":%q,"size":%d}}]`, info.Size(), commit, sum, info.Size())
	})
	var served atomic.Int64
	mux.HandleFunc("/served", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, served.Load()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if first, last, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"); ok {
			a, _ := strconv.ParseInt(first, 10, 64)
			b, _ := strconv.ParseInt(last, 10, 64)
			served.Add(b - a + 1)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"x"`)
		http.ServeFile(w, r, file)
	})
	fmt.Fprintf(os.Stderr, "SERVING http://%s\n", l.Addr())
	t.Fatal(http.Serve(l, mux))
}

// child starts this binary in a role and returns it with the lines of its stderr.
func child(t *testing.T, env ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), env...)
	r, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
		_ = r.Close()
	})
	return cmd, bufio.NewScanner(r)
}

func line(t *testing.T, s *bufio.Scanner, prefix string) string {
	t.Helper()
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("the child never said %s", prefix)
	return ""
}

// TestFault24KillMinus9: killed at moments of no choosing, the store goes on where it stopped.
func TestFault24KillMinus9(t *testing.T) {
	const size, chunk = 8 << 20, 64 << 10
	data := gguf(size, 90)
	h := hubtest.New(t)
	h.Add("org/m", "m.gguf", data, true)
	dir := filepath.Join(t.TempDir(), "store")
	rounds := 4
	if os.Getenv("RBEE_LONG") == "1" {
		rounds = 40
	}
	var total int64
	for round := range rounds {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		stop := int64(size/8 + round*977*1024%(size*3/4))
		before := h.Served.Load()
		var killed atomic.Bool
		reached := make(chan struct{}, 1)
		h.SetTrip(func(r *http.Request) hubtest.Fault {
			if !killed.Load() && h.Served.Load()-before > stop {
				select {
				case reached <- struct{}{}:
				default:
				}
				<-r.Context().Done() // the child waits here for its end
			}
			return hubtest.Fault{}
		})
		cmd, _ := child(t, "RBEE_CHILD=pull", "RBEE_DIR="+dir, "RBEE_HUB="+h.Endpoint(), "RBEE_ALLOW="+strings.Join(h.Allow(), ","), fmt.Sprint("RBEE_CHUNK=", chunk))
		<-reached
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_, _ = cmd.Process.Wait()
		killed.Store(true)
		r := &rig{t: t, hub: h, dir: dir, o: modelstore.Options{HFEndpoint: h.Endpoint(), Allow: h.Allow(), Chunk: chunk, Headroom: -1}}
		r.open()
		if _, ok := r.store.Get("hf:org/m"); ok {
			t.Fatal("half a model is served")
		}
		r.must(modelstore.Request{Ref: "hf:org/m"}, data)
		if err := r.store.Close(); err != nil {
			t.Fatal(err)
		}
		lost := h.Served.Load() - before - size
		total += max(0, lost)
		if limit := int64(6 * chunk); lost > limit {
			t.Fatalf("round %d: %d bytes were fetched twice, want at most %d", round, lost, limit)
		}
	}
	t.Logf("fault 24: %d kills, %d survived, %d KiB fetched twice in all", rounds, rounds, total>>10)
}

// TestFault12DiskFull: a disk that fills up during a download leaves the store serving, says what to free,
// and takes the next model when there is room again.
func TestFault12DiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: no small disk can be mounted")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		if os.Getenv("RBEE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skipf("root, but no privilege to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, nil)
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}
	r.dir = filepath.Join(disk, "store")
	r.o.Free = func(string) (int64, error) { return 1 << 40, nil } // somebody else fills the disk meanwhile
	r.open()
	small, large := gguf(3<<20, 91), gguf(7<<20, 92)
	r.hub.Add("org/small", "s.gguf", small, true)
	r.hub.Add("org/large", "l.gguf", large, true)
	r.must(modelstore.Request{Ref: "hf:org/small"}, small)
	_, err := r.get(modelstore.Request{Ref: "hf:org/large"})
	if !errors.Is(err, modelstore.ErrNoSpace) || !strings.Contains(err.Error(), "hf:org/small") || code(err) != "PROVISION_FAILED" {
		t.Fatalf("a full disk: %v", err)
	}
	r.must(modelstore.Request{Ref: "hf:org/small"}, small)
	if parts, _ := filepath.Glob(filepath.Join(r.dir, "partial", "*")); len(parts) != 0 {
		t.Fatalf("the partial file still fills the disk: %v", parts)
	}
	if err := r.store.Evict("hf:org/small"); err != nil {
		t.Fatal(err)
	}
	r.must(modelstore.Request{Ref: "hf:org/large"}, large)
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLongFigures measures what docs/bench/provisioner.md says, on a file of RBEE_GIB GiB: 2 by default in the long run, a
// slice of that in a normal one.
func TestLongFigures(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("RBEE_CI") == "1" {
			t.Fatal("curl is missing: run make deps")
		}
		t.Skip("curl is missing (make deps installs it): its data rate is the anchor")
	}
	gib := 1.0 / 16
	if os.Getenv("RBEE_LONG") == "1" {
		gib = 2
	}
	if v, err := strconv.ParseFloat(os.Getenv("RBEE_GIB"), 64); err == nil {
		gib = v
	}
	work := t.TempDir()
	file := filepath.Join(work, "big.gguf")
	size := int64(gib * (1 << 30))
	sum := makeBig(t, file, size)
	_, lines := child(t, "RBEE_CHILD=serve", "RBEE_FILE="+file, "RBEE_SUM="+sum)
	url := line(t, lines, "SERVING")
	env := func(dir string) []string {
		return []string{"RBEE_CHILD=pull", "RBEE_DIR=" + filepath.Join(work, dir), "RBEE_HUB=" + url, "RBEE_ALLOW=" + url}
	}
	curl := func() (wall, cpu time.Duration) {
		at := time.Now()
		cmd := exec.Command("sh", "-c", "curl -s "+url+"/x | sha256sum")
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), sum) {
			t.Fatalf("curl: %v %s", err, out)
		}
		return time.Since(at), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	for round := range 3 {
		c, ccpu := curl()
		dir := fmt.Sprint("store", round)
		cmd, lines := child(t, env(dir)...)
		var us, kib int64
		if _, err := fmt.Sscan(line(t, lines, "PULLED"), &us, &kib); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // to its end: it syncs, which curl does not
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		ocpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		ours := time.Duration(us) * time.Microsecond
		t.Logf("processor time: curl | sha256sum %.2f s, modelstore %.2f s: %.2fx", ccpu.Seconds(), ocpu.Seconds(), ccpu.Seconds()/ocpu.Seconds())
		t.Logf("%.1f GiB: curl | sha256sum %.2f s (%.0f MiB/s), modelstore %.2f s (%.0f MiB/s): %.2fx; peak memory %d MiB", gib, c.Seconds(), float64(size>>20)/c.Seconds(), ours.Seconds(), float64(size>>20)/ours.Seconds(), c.Seconds()/ours.Seconds(), kib>>10)
		if err := os.RemoveAll(filepath.Join(work, dir)); err != nil {
			t.Fatal(err)
		}
	}
	served := func() int64 {
		resp, err := http.Get(url + "/served")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		n, _ := strconv.ParseInt(string(b), 10, 64)
		return n
	}
	before := served()
	cmd, _ := child(t, env("killed")...)
	for served()-before < size/2 {
		<-time.After(10 * time.Millisecond)
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_, _ = cmd.Process.Wait()
	_, again := child(t, env("killed")...)
	line(t, again, "PULLED")
	t.Logf("kill -9 in the middle: %.1f MiB fetched twice", float64(served()-before-size)/(1<<20))
	http.DefaultClient.CloseIdleConnections()
}

func makeBig(t *testing.T, name string, size int64) string {
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	block := gguf(4<<20, 7)
	for n := int64(0); n < size; n += int64(len(block)) {
		block[100] = byte(n >> 22)
		b := block[:min(int64(len(block)), size-n)]
		if _, err := io.MultiWriter(f, h).Write(b); err != nil {
			t.Fatal(err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
