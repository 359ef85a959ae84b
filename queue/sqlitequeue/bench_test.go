package sqlitequeue_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// BenchmarkShortStreams journals streams of three frames that are over at once, with all that becomes of them in SQLite.
func BenchmarkShortStreams(b *testing.B) {
	j, err := sqlitequeue.OpenJournal(b.Context(), filepath.Join(b.TempDir(), "frames.db"), sqlitequeue.Options{Settle: 250 * time.Millisecond,
		Ended: func(meta uint32) bool { return meta == metaEnd }})
	if err != nil {
		b.Fatal(err)
	}
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	ids := make([]string, b.N)
	for i := range ids {
		ids[i] = q.NewID()
	}
	data := bytes.Repeat([]byte("what a worker says in short "), 30)
	metas, ends := []uint32{1, 3, metaEnd}, []int{180, 720, len(data)}
	b.ReportAllocs()
	b.ResetTimer()
	for _, id := range ids {
		if err := j.BufferAll(id, 1, metas, ends, data); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// words are frames as a worker's stream has them.
func words(n int) (metas []uint32, ends []int, data []byte) {
	for i := range n {
		data = fmt.Appendf(data, `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"word %d"}}],"created":1764345600,"id":"chatcmpl-`+
			`w7Zk0bXc9vQeR2tYuI3oPa4sDf5gHj6k","model":"models/m-7b-instruct-q4_k_m.gguf","system_fingerprint":"b6178-5e6229a8","object":"chat.completion.chunk"}`+"\n", i)
		metas, ends = append(metas, 2), append(ends, len(data))
	}
	return metas, ends, data
}

// quiet opens a journal that moves frames into SQLite only when it is told to.
func quiet(b *testing.B) *sqlitequeue.Journal {
	b.Helper()
	j, err := sqlitequeue.OpenJournal(b.Context(), filepath.Join(b.TempDir(), "frames.db"), sqlitequeue.Options{Settle: time.Hour, Sync: time.Hour,
		TailSize: 1 << 40, Ended: func(meta uint32) bool { return meta == metaEnd }})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { j.Close() })
	return j
}

// newIDs makes jobs' ids.
func newIDs(b *testing.B, n int) []string {
	b.Helper()
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = q.NewID()
	}
	return ids
}

// BenchmarkBurst20 takes in 20 frames at once, of streams of 200; SQLite is not counted.
func BenchmarkBurst20(b *testing.B) {
	j := quiet(b)
	metas, ends, data := words(20)
	ids := newIDs(b, 50)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	at := 0
	for b.Loop() {
		if at%(50*10) == 0 {
			b.StopTimer()
			if err := errors.Join(j.Flush(), j.SettleNow()); err != nil {
				b.Fatal(err)
			}
			ids = newIDs(b, 50)
			b.StartTimer()
		}
		if err := j.BufferAll(ids[at%50], uint64(at/50%10*20+1), metas, ends, data); err != nil {
			b.Fatal(err)
		}
		at++
	}
}

// BenchmarkSettle moves 1000 streams of 20 frames that are over into SQLite, and 50 of 200 in bursts of 20.
func BenchmarkSettle(b *testing.B) {
	metas, ends, data := words(20)
	over := append(metas[:19:19], metaEnd)
	for _, c := range []struct {
		name            string
		streams, bursts int
	}{{"1000of20", 1000, 1}, {"50of200", 50, 10}} {
		b.Run(c.name, func(b *testing.B) {
			j := quiet(b)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ids := newIDs(b, c.streams)
				for k := range c.bursts {
					m := metas
					if k == c.bursts-1 {
						m = over
					}
					for _, id := range ids {
						if err := j.BufferAll(id, uint64(k*20+1), m, ends, data); err != nil {
							b.Fatal(err)
						}
					}
				}
				if err := j.Flush(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := j.SettleNow(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTokens takes in frames one at a time, of 1000 streams in turn, settled after every 10 of each.
func BenchmarkTokens(b *testing.B) {
	j := quiet(b)
	_, ends, data := words(20)
	ids := newIDs(b, 1000)
	b.ReportAllocs()
	at := 0
	for b.Loop() {
		if at%10_000 == 0 {
			b.StopTimer()
			if err := errors.Join(j.Flush(), j.SettleNow()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		if k := at / 1000 % 20; k > 0 {
			if err := j.Buffer(ids[at%1000], uint64(at/1000+1), 2, data[ends[k-1]:ends[k]]); err != nil {
				b.Fatal(err)
			}
		} else if err := j.Buffer(ids[at%1000], uint64(at/1000+1), 2, data[:ends[0]]); err != nil {
			b.Fatal(err)
		}
		at++
	}
}

// BenchmarkHeld says what memory holds of a stream in B/stream: of one with a frame or two since the last settling,
// as an idle one has, and of one with 200.
func BenchmarkHeld(b *testing.B) {
	metas, ends, data := words(20)
	for _, c := range []struct {
		name            string
		streams, frames int
	}{{"1", 4000, 1}, {"2", 4000, 2}, {"200", 250, 200}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				j := quiet(b)
				ids := newIDs(b, c.streams)
				before := heap()
				for _, id := range ids {
					for at := 0; at < c.frames; at += 20 {
						n := min(20, c.frames)
						var err error
						if n == 20 {
							err = j.BufferAll(id, uint64(at+1), metas, ends, data)
						} else if err = j.Buffer(id, 1, 2, data[:ends[0]]); n == 2 && err == nil {
							err = j.Buffer(id, 2, 2, data[ends[0]:ends[1]])
						}
						if err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(heap()-before)/float64(c.streams), "B/stream")
				if err := j.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// heap is how much of it is in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkBursts journals what a fast worker says, 40 frames at once.
func BenchmarkBursts(b *testing.B) {
	j, err := sqlitequeue.OpenJournal(b.Context(), filepath.Join(b.TempDir(), "frames.db"), sqlitequeue.Options{Settle: 250 * time.Millisecond,
		Ended: func(meta uint32) bool { return meta == metaEnd }})
	if err != nil {
		b.Fatal(err)
	}
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	var data []byte
	var metas []uint32
	var ends []int
	for i := range 40 {
		data = fmt.Appendf(data, `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"word %d"}}],"created":7,"id":"chatcmpl-w","model":"m.gguf"}`+"\n", i)
		metas, ends = append(metas, 2), append(ends, len(data))
	}
	id, seq := q.NewID(), uint64(1)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	for i := range b.N {
		if i%5 == 0 {
			id, seq = q.NewID(), 1
		}
		if err := j.BufferAll(id, seq, metas, ends, data); err != nil {
			b.Fatal(err)
		}
		if seq += 40; i%2 == 0 {
			_ = j.Flush()
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
