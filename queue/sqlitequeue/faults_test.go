package sqlitequeue_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// long says whether the full number of rounds is wanted.
func long() bool { return os.Getenv("RBEE_LONG") == "1" }

func rounds(short, full int) int {
	if long() {
		return full
	}
	return short
}

// TestMain is also the child process of the tests that kill one.
func TestMain(m *testing.M) {
	switch os.Getenv("RBEE_QUEUE_CHILD") {
	case "":
		os.Exit(m.Run())
	case "hold":
		holdChild()
	case "write":
		writeChild()
	}
	os.Exit(0)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

// holdChild opens the store, or says why not.
func holdChild() {
	_, err := sqlitequeue.Open(context.Background(), os.Getenv("RBEE_QUEUE_PATH"), sqlitequeue.Options{Address: "127.0.0.1:7833"})
	exitOn(err)
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// frameOf is what a run of the child writes as a frame: another run writes another.
func frameOf(run, job string, seq uint64) string {
	return fmt.Sprintf("data: {\"run\":%q,\"job\":%q,\"n\":%d}\n\n", run, job, seq)
}

// writeChild stores jobs and frames as fast as it can and prints each thing after it was acknowledged.
func writeChild() {
	ctx := context.Background()
	path, run := os.Getenv("RBEE_QUEUE_PATH"), os.Getenv("RBEE_QUEUE_RUN")
	o := sqlitequeue.Options{Settle: 60 * time.Millisecond, Linger: 5 * time.Millisecond, Sync: 40 * time.Millisecond, TailSize: 96 << 10}
	if os.Getenv("RBEE_QUEUE_NORMAL") == "1" {
		o.Durability = sqlitequeue.Process
	}
	if shadow := os.Getenv("RBEE_QUEUE_SHADOW"); shadow != "" {
		o = o.WithSync(func(f *os.File) error {
			if err := f.Sync(); err != nil {
				return err
			}
			if st, err := f.Stat(); err != nil || st.IsDir() {
				return errors.Join(err, dropGone(f.Name(), shadow))
			}
			return copyFile(f.Name(), filepath.Join(shadow, filepath.Base(f.Name())))
		})
	}
	s, err := sqlitequeue.Open(ctx, path, o)
	exitOn(err)
	j, err := sqlitequeue.OpenJournal(ctx, path+".frames", o)
	exitOn(err)
	q := queue.New(s, queue.Options{Max: -1})
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		fmt.Printf(format+"\n", args...)
		mu.Unlock()
	}
	for w := range 8 {
		go func() {
			for {
				job, err := q.Enqueue(ctx, queue.Job{Tenant: fmt.Sprint(w), Payload: []byte(run)})
				exitOn(err)
				say("queued %s", job.ID)
				if w%2 == 0 {
					job, err = q.Next(ctx, queue.ClaimOptions{Worker: "w"})
					exitOn(err)
					say("running %s", job.ID)
					exitOn(q.Finish(ctx, job.Lease, queue.Result{TokensOut: w + 1}))
					say("complete %s", job.ID)
				}
			}
		}()
	}
	for w := range 4 {
		go func() {
			id := fmt.Sprintf("%s-%d", run, w)
			for seq := uint64(1); ; seq++ {
				exitOn(j.Append(ctx, id, seq, uint32(w), []byte(frameOf(run, id, seq))))
				say("frame %s %d", id, seq)
				if seq%50 == 0 {
					<-time.After(time.Millisecond)
				}
			}
		}()
	}
	select {}
}

// dropGone deletes from the shadow what is no longer in a directory that was synced.
func dropGone(dir, shadow string) error {
	kept, err := os.ReadDir(shadow)
	for _, k := range kept {
		if _, serr := os.Stat(filepath.Join(dir, k.Name())); errors.Is(serr, os.ErrNotExist) && !strings.HasPrefix(k.Name(), ".") {
			err = errors.Join(err, os.Remove(filepath.Join(shadow, k.Name())))
		}
	}
	return err
}

// copyFile replaces dst by a copy of src in one step.
func copyFile(src, dst string) error {
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(dst), ".new."+filepath.Base(dst))
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, dst)
}

// acks is what a child said it had acknowledged.
type acks struct {
	state  map[string]queue.State
	frames map[string]uint64
	n      int
}

// child runs writeChild, kills it after a while and returns its acknowledgements.
func child(t *testing.T, path, run string, after time.Duration, env ...string) acks {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RBEE_QUEUE_CHILD=write", "RBEE_QUEUE_PATH="+path, "RBEE_QUEUE_RUN="+run)
	cmd.Env = append(cmd.Env, env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := acks{state: map[string]queue.State{}, frames: map[string]uint64{}}
	var once sync.Once
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		once.Do(func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
		f := strings.Fields(lines.Text())
		a.n++
		if f[0] == "frame" {
			var seq uint64
			if _, err := fmt.Sscan(f[2], &seq); err == nil {
				a.frames[f[1]] = seq
			}
			continue
		}
		a.state[f[1]] = queue.State(f[0])
	}
	_ = cmd.Wait() // it was killed
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v %s", cmd.ProcessState, stderr.String())
	}
	return a
}

// rankOf orders states by how far a job has come.
func rankOf(s queue.State) int {
	return map[queue.State]int{queue.Queued: 1, queue.Running: 2, queue.Complete: 3}[s]
}

// check opens the files and counts what is less than what was acknowledged.
func (a acks) check(t *testing.T, path string) (lostJobs, lostFrames int) {
	t.Helper()
	ctx := context.Background()
	s, err := sqlitequeue.Open(ctx, path, sqlitequeue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for id, want := range a.state {
		key, _ := queue.ParseID(id)
		rec, err := s.Get(ctx, key)
		if errors.Is(err, queue.ErrNotFound) || err == nil && rankOf(rec.State) < rankOf(want) {
			lostJobs++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	j, err := sqlitequeue.OpenJournal(ctx, path+".frames", sqlitequeue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for id, want := range a.frames {
		run, _, _ := strings.Cut(id, "-")
		var last uint64
		err := j.Read(ctx, id, 0, func(seq uint64, _ uint32, data []byte) error {
			if seq != last+1 || string(data) != frameOf(run, id, seq) {
				t.Errorf("frame %d of %s is %q", seq, id, data)
			}
			last = seq
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if last < want {
			lostFrames += int(want - last)
			// the reader saw more than there is: it must be told
			if err := j.Read(ctx, id, want, nil); !errors.Is(err, queue.ErrDiverged) {
				t.Errorf("a resume beyond the end: %v", err)
			}
		}
		if r, _, err := j.Recovered(ctx, id); err != nil || r != last {
			t.Errorf("recovered %d, last %d, %v", r, last, err)
		}
	}
	return lostJobs, lostFrames
}

func TestFault01KillMinus9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	lost, n, total := 0, rounds(5, 200), 0
	for round := range n {
		after := time.Duration(10+rand.IntN(190)) * time.Millisecond
		a := child(t, path, fmt.Sprint("run", round), after)
		total += a.n
		jobs, frames := a.check(t, path)
		if jobs > 0 || frames > 0 {
			lost++
			t.Errorf("round %d: %d jobs and %d frames of %d acknowledgements were lost", round, jobs, frames, a.n)
		}
	}
	t.Logf("row 1 kill -9 of the store: rounds %d, survived %d, lost %d (%d acknowledgements)", n, n-lost, lost, total)
	if long() && total < 20_000 {
		t.Errorf("only %d acknowledgements", total)
	}
}

func TestFault23SecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	start := func() (*exec.Cmd, io.WriteCloser, *bufio.Reader, *strings.Builder) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "RBEE_QUEUE_CHILD=hold", "RBEE_QUEUE_PATH="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, in, bufio.NewReader(out), &stderr
	}
	first, in, out, _ := start()
	if line, err := out.ReadString('\n'); err != nil || line != "held\n" {
		t.Fatal(line, err)
	}
	begin := time.Now()
	second, in2, out2, stderr := start()
	_, _ = io.Copy(io.Discard, out2)
	err := second.Wait()
	in2.Close()
	who := fmt.Sprintf("process %d at 127.0.0.1:7833", first.Process.Pid)
	if err == nil || !strings.Contains(stderr.String(), who) {
		t.Fatalf("the second process: %v %q; it should name %s", err, stderr, who)
	}
	t.Logf("row 23 second process: rounds 1, survived 1, lost 0 (refused after %v)", time.Since(begin).Round(time.Millisecond))
	_, err = sqlitequeue.Open(t.Context(), path, sqlitequeue.Options{})
	var locked *sqlitequeue.LockedError
	if !errors.Is(err, queue.ErrLocked) || !errors.As(err, &locked) || locked.PID != first.Process.Pid {
		t.Fatalf("in this process: %v", err)
	}
	in.Close()
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	open(t, path) // free again
}
