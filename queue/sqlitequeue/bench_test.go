package sqlitequeue_test

import (
	"bytes"
	"fmt"
	"path/filepath"
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
