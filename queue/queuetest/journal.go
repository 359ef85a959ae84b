package queuetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// JournalHarness makes an empty journal for a test and returns a function that opens it with a clock. The suite
// opens it again after it closed what it got before, and expects the same frames and a higher epoch.
type JournalHarness func(t testing.TB) (open func(clock func() time.Time) (queue.Journal, error))

// RunJournal checks a journal.
func RunJournal(t *testing.T, h JournalHarness) {
	t.Run("Order", func(t *testing.T) { testJournalOrder(t, h) })
	t.Run("Tail", func(t *testing.T) { testJournalTail(t, h) })
	t.Run("Epoch", func(t *testing.T) { testJournalEpoch(t, h) })
	t.Run("Expire", func(t *testing.T) { testJournalExpire(t, h) })
	t.Run("Closed", func(t *testing.T) { testJournalClosed(t, h) })
	t.Run("Model", func(t *testing.T) { testJournalModel(t, h) })
}

func openedJournal(t testing.TB, open func(func() time.Time) (queue.Journal, error), clock func() time.Time) queue.Journal {
	t.Helper()
	j, err := open(clock)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = j.Close() }) // the test may have closed it
	return j
}

type frame struct {
	meta uint32
	data string
}

// read returns a stream's frames after a position.
func read(t testing.TB, j queue.Journal, job string, after uint64) []frame {
	t.Helper()
	var out []frame
	err := j.Read(context.Background(), job, after, func(seq uint64, meta uint32, data []byte) error {
		if seq != after+uint64(len(out))+1 {
			t.Errorf("number %d where %d was due", seq, after+uint64(len(out))+1)
		}
		out = append(out, frame{meta, string(data)})
		return nil
	})
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return out
}

func testJournalOrder(t *testing.T, h JournalHarness) {
	ctx := t.Context()
	j := openedJournal(t, h(t), nil)
	if last, meta, epoch, err := j.End(ctx, "a"); last != 0 || meta != 0 || epoch != 0 || err != nil {
		t.Errorf("the end of nothing: %d %d %d %v", last, meta, epoch, err)
	}
	if got := read(t, j, "a", 0); got != nil {
		t.Errorf("nothing holds %v", got)
	}
	buf := []byte("one")
	for i, err := range []error{
		j.Append(ctx, "a", 2, 0, buf), j.Append(ctx, "a", 0, 0, buf), j.Buffer("a", 7, 0, buf), // not the first
		j.Read(ctx, "a", 1, nil), j.Tail(ctx, "a", 1, nil), // beyond the end
	} {
		if !errors.Is(err, queue.ErrDiverged) {
			t.Errorf("case %d: %v", i, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(j.Append(ctx, "a", 1, 1<<31, buf))
	copy(buf, "xxx") // the caller's bytes are its own again
	must(j.Buffer("a", 2, 5, nil))
	must(j.Append(ctx, "a", 3, 6, []byte("three")))
	if err := j.Append(ctx, "a", 3, 6, []byte("other")); !errors.Is(err, queue.ErrDiverged) {
		t.Errorf("a number used twice: %v", err)
	}
	want := []frame{{1 << 31, "one"}, {5, ""}, {6, "three"}}
	for after := range uint64(4) {
		if got := read(t, j, "a", after); !slices.Equal(got, want[after:]) {
			t.Errorf("after %d: %v", after, got)
		}
	}
	if last, meta, epoch, err := j.End(ctx, "a"); last != 3 || meta != 6 || epoch != j.Epoch() || err != nil {
		t.Errorf("end: %d %d %d %v", last, meta, epoch, err)
	}
	stop := errors.New("stop")
	if err := j.Read(ctx, "a", 0, func(uint64, uint32, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the reader's error became %v", err)
	}
	must(j.Drop(ctx, "a"))
	must(j.Drop(ctx, "never"))
	if got := read(t, j, "a", 0); got != nil {
		t.Errorf("a dropped stream holds %v", got)
	}
	must(j.Append(ctx, "a", 1, 0, []byte("anew")))
	if got := read(t, j, "a", 0); !slices.Equal(got, []frame{{0, "anew"}}) {
		t.Errorf("after drop: %v", got)
	}
}

func testJournalTail(t *testing.T, h JournalHarness) {
	ctx, cancel := context.WithCancel(t.Context())
	j := openedJournal(t, h(t), nil)
	const n = 300
	got := make(chan string, n)
	stop := errors.New("stop")
	var wg sync.WaitGroup
	wg.Go(func() { // begins before there is anything
		err := j.Tail(ctx, "a", 0, func(seq uint64, _ uint32, data []byte) error {
			got <- string(data)
			if seq == n {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Errorf("tail ended with %v", err)
		}
	})
	wg.Go(func() {
		if err := j.Tail(ctx, "b", 0, func(uint64, uint32, []byte) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("tail of nothing ended with %v", err)
		}
	})
	for i := range n {
		var err error
		if data := fmt.Append(nil, i); i%2 == 0 {
			err = j.Append(ctx, "a", uint64(i+1), 0, data)
		} else {
			err = j.Buffer("a", uint64(i+1), 0, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if g := <-got; g != fmt.Sprint(i) {
			t.Fatalf("frame %d is %q", i, g)
		}
	}
	cancel()
	wg.Wait()
}

func testJournalEpoch(t *testing.T, h JournalHarness) {
	ctx := t.Context()
	open := h(t)
	j := openedJournal(t, open, nil)
	first := j.Epoch()
	if first == 0 {
		t.Error("an epoch is at least 1")
	}
	for seq := range uint64(3) {
		if err := j.Append(ctx, "a", seq+1, 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if last, epoch, err := j.Recovered(ctx, "a"); last != 0 || epoch != 0 || err != nil {
		t.Errorf("recovered at the beginning: %d %d %v", last, epoch, err)
	}
	for range 2 { // it does not matter how often it is opened without writing
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = openedJournal(t, open, nil)
	}
	second := j.Epoch()
	if second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	check := func(when string, wantEnd, wantEpoch uint64) {
		t.Helper()
		last, epoch, err := j.Recovered(ctx, "a")
		if last != 3 || epoch != first || err != nil {
			t.Errorf("%s: recovered %d %d %v", when, last, epoch, err)
		}
		if end, _, epoch, err := j.End(ctx, "a"); end != wantEnd || epoch != wantEpoch || err != nil {
			t.Errorf("%s: end %d %d %v", when, end, epoch, err)
		}
	}
	check("before it goes on", 3, first)
	if err := j.Append(ctx, "a", 4, 0, []byte("y")); err != nil {
		t.Fatal(err)
	}
	check("after it went on", 4, second)
	if err := j.Append(ctx, "b", 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	if last, epoch, err := j.Recovered(ctx, "b"); last != 0 || epoch != 0 || err != nil {
		t.Errorf("a stream of this epoch: %d %d %v", last, epoch, err)
	}
}

func testJournalExpire(t *testing.T, h JournalHarness) {
	ctx := t.Context()
	open := h(t)
	var mu sync.Mutex
	now := start()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	j := openedJournal(t, open, clock)
	for i := range 5 {
		if err := j.Append(ctx, fmt.Sprint(i), 1, 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil { // by now every implementation knows when it was written
			t.Fatal(err)
		}
		mu.Lock()
		now = now.Add(time.Minute)
		mu.Unlock()
		j = openedJournal(t, open, clock)
	}
	n, err := j.Expire(ctx, start().Add(150*time.Second))
	if n != 3 || err != nil {
		t.Errorf("%d streams expired, 3 should have: %v", n, err)
	}
	if n, err := j.Expire(ctx, start().Add(150*time.Second)); n != 0 || err != nil {
		t.Errorf("%d streams expired again: %v", n, err)
	}
	for i := range 5 {
		want := 0
		if i >= 3 {
			want = 1
		}
		if got := read(t, j, fmt.Sprint(i), 0); len(got) != want {
			t.Errorf("stream %d has %d frames, want %d", i, len(got), want)
		}
	}
}

func testJournalClosed(t *testing.T, h JournalHarness) {
	ctx := t.Context()
	j := openedJournal(t, h(t), nil)
	if err := j.Append(ctx, "a", 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	tail := make(chan error, 1)
	seen := make(chan struct{})
	go func() {
		tail <- j.Tail(ctx, "a", 0, func(uint64, uint32, []byte) error { close(seen); return nil })
	}()
	<-seen
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for i, err := range []error{<-tail, j.Append(ctx, "a", 2, 0, nil), j.Buffer("a", 2, 0, nil), j.Read(ctx, "a", 0, nil)} {
		if !errors.Is(err, queue.ErrClosed) {
			t.Errorf("case %d after Close: %v", i, err)
		}
	}
	if err := j.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// testJournalModel compares random histories, with reopening, with plain slices.
func testJournalModel(t *testing.T, h JournalHarness) {
	ctx := t.Context()
	const n = seeds / 5
	for seed := range n {
		rnd := rand.New(rand.NewPCG(uint64(seed), 11))
		open := h(t)
		j := openedJournal(t, open, nil)
		model := map[string][]frame{}
		recovered := map[string]int{}
		verify := func(job string) {
			t.Helper()
			after := rnd.IntN(len(model[job]) + 1)
			if got := read(t, j, job, uint64(after)); !slices.Equal(got, model[job][after:]) {
				t.Fatalf("seed %d: %s after %d: %d frames, want %d, or others", seed, job, after, len(got), len(model[job])-after)
			}
			if last, _, err := j.Recovered(ctx, job); last != uint64(recovered[job]) || err != nil {
				t.Fatalf("seed %d: %s recovered at %d, want %d (%v)", seed, job, last, recovered[job], err)
			}
		}
		for range 150 {
			job := fmt.Sprint("job", rnd.IntN(4))
			switch k := rnd.IntN(20); {
			case k < 14:
				f := frame{meta: rnd.Uint32() >> rnd.IntN(32), data: fmt.Sprintf("data: {\"i\":%d}%0*d", len(model[job]), rnd.IntN(60), rnd.IntN(9))}
				put := j.Append
				if rnd.IntN(2) == 0 {
					put = func(_ context.Context, job string, seq uint64, meta uint32, data []byte) error {
						return j.Buffer(job, seq, meta, data)
					}
				}
				if err := put(ctx, job, uint64(len(model[job])+1), f.meta, []byte(f.data)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				model[job] = append(model[job], f)
			case k < 17:
				verify(job)
			case k < 18:
				if err := j.Drop(ctx, job); err != nil {
					t.Fatal(err)
				}
				delete(model, job)
				delete(recovered, job)
			default:
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				j = openedJournal(t, open, nil)
				clear(recovered)
				for job, frames := range model {
					recovered[job] = len(frames)
				}
			}
		}
		for _, job := range slices.Sorted(maps.Keys(model)) {
			verify(job)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("row journal model: rounds %d, survived %d, lost 0", n, n)
}
