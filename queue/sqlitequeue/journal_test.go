package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

func openJournal(t *testing.T, path string, o sqlitequeue.Options) *sqlitequeue.Journal {
	t.Helper()
	j, err := sqlitequeue.OpenJournal(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func frame(i int) []byte {
	return fmt.Appendf(nil, "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\" word%d\"}}]}\n\n", i)
}

// readAll returns the frames after a position and checks their numbers.
func readAll(t *testing.T, j queue.Journal, job string, after uint64) (out []string) {
	t.Helper()
	err := j.Read(t.Context(), job, after, func(seq uint64, _ uint32, data []byte) error {
		if seq != after+uint64(len(out))+1 {
			t.Errorf("frame %d comes as number %d", after+uint64(len(out))+1, seq)
		}
		out = append(out, string(data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestJournalAcrossSettlingAndReopening(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "q.frames")
	o := sqlitequeue.Options{Settle: 10 * time.Millisecond, Linger: time.Millisecond, TailSize: 64 << 10}
	j := openJournal(t, path, o)
	const streams, frames = 8, 500
	var wg sync.WaitGroup
	for s := range streams {
		wg.Go(func() {
			job := fmt.Sprint("job", s)
			for i := range frames {
				var err error
				if s%2 == 0 {
					err = j.Append(ctx, job, uint64(i+1), uint32(i%3), frame(i))
				} else {
					err = j.Buffer(job, uint64(i+1), uint32(i%3), frame(i))
				}
				if err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					if n := len(readAll(t, j, job, 0)); s%2 == 0 && n != i+1 {
						t.Errorf("%d frames of %d", n, i+1)
					}
				}
			}
		})
	}
	wg.Wait()
	for round := range 3 {
		for s := range streams {
			job := fmt.Sprint("job", s)
			for _, after := range []uint64{0, 1, 250, frames - 1, frames} {
				got := readAll(t, j, job, after)
				if uint64(len(got)) != frames-after {
					t.Fatalf("round %d: %d frames after %d", round, len(got), after)
				}
				for i, g := range got {
					if g != string(frame(i+int(after))) {
						t.Fatalf("frame %d is %q", i+int(after), g)
					}
				}
			}
			if err := j.Read(ctx, job, frames+1, nil); !errors.Is(err, queue.ErrDiverged) {
				t.Fatalf("beyond the end: %v", err)
			}
			last, meta, epoch, err := j.End(ctx, job)
			if err != nil || last != frames || meta != (frames-1)%3 || epoch != 1 {
				t.Fatalf("end = %d %d %d %v", last, meta, epoch, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = openJournal(t, path, o)
		if e := j.Epoch(); e != uint64(round+2) {
			t.Fatalf("epoch %d in round %d", e, round)
		}
		if last, epoch, err := j.Recovered(ctx, "job0"); last != frames || epoch != 1 || err != nil {
			t.Fatalf("recovered = %d %d %v", last, epoch, err)
		}
	}
}
