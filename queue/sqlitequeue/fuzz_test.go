package sqlitequeue_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// FuzzChunk decodes anything without a panic, and encodes so that it decodes to the same.
func FuzzChunk(f *testing.F) {
	f.Add([]byte("data: {\"a\":1}\n\x00data: {\"a\":2}\n"), uint32(3))
	f.Add([]byte{1, 0, 0, 0, 200, 1}, uint32(0))
	f.Add([]byte{2, 5, 0, 0, 1, 'x', 5, 1, 0, 0}, uint32(9))
	f.Add([]byte(strings.Repeat("0123456789", 15)+"<a>"+strings.Repeat("9876543210", 15)+"\x00"+strings.Repeat("0123456789", 15)+"<bc>"+strings.Repeat("9876543210", 15)), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, meta uint32) {
		_ = sqlitequeue.DecodeFrames(b, func(_ uint32, data []byte) error { return nil }) // an error is a fine answer
		frames := bytes.Split(b, []byte{0})
		metas := make([]uint32, len(frames))
		for i := range metas {
			metas[i] = meta * uint32(i)
		}
		i := 0
		err := sqlitequeue.DecodeFrames(sqlitequeue.EncodeFrames(frames, metas), func(m uint32, data []byte) error {
			if m != metas[i] || !bytes.Equal(data, frames[i]) {
				t.Errorf("frame %d: %q %d, was %q %d", i, data, m, frames[i], metas[i])
			}
			i++
			return nil
		})
		if err != nil || i != len(frames) {
			t.Errorf("%d frames of %d: %v", i, len(frames), err)
		}
		for i := range len(frames) - 1 {
			x, y := frames[i], frames[i+1]
			p, s := sqlitequeue.Common(x, y)
			n, m, least := 0, 0, min(len(x), len(y))
			for ; n < least && x[n] == y[n]; n++ {
			}
			for ; m < least && x[len(x)-1-m] == y[len(y)-1-m]; m++ {
			}
			if p != n || s != m {
				t.Errorf("%q and %q have %d and %d bytes in common, not %d and %d", x, y, n, m, p, s)
			}
		}
	})
}

// FuzzCoded encodes frames in bursts of any sizes: SQLite gets the same as if they had come at once.
func FuzzCoded(f *testing.F) {
	f.Add([]byte("data: {\"a\":1}\n\x00data: {\"a\":2}\n\x00\x00data: {\"a\":3}\n\x00data: {\"a\":3}\n"), uint32(3), []byte{2, 2, 1}, uint16(0))
	f.Add([]byte("one\x00two\x00three\x00four\x00five"), uint32(1<<31), []byte{1, 2}, uint16(900))
	wide := bytes.Repeat([]byte("0123456789abcdef"), 8)
	f.Add(bytes.Join([][]byte{wide, wide[:100], wide[3:], wide, wide[:9], wide, wide}, []byte{0}), uint32(5), []byte{0, 1, 1, 0, 1}, uint16(999))
	f.Fuzz(func(t *testing.T, b []byte, meta uint32, bursts []byte, wide uint16) {
		data := bytes.Split(b, []byte{0})
		metas, longest := make([]uint32, len(data)), 0
		for i := range data {
			metas[i] = meta * uint32(i)
			data[i] = bytes.Repeat(data[i], 1+int(wide)%1000)
			longest = max(longest, len(data[i]))
		}
		var sizes []int
		for left := len(data); left > 0; left -= sizes[len(sizes)-1] {
			n := 1
			if i := len(sizes); i < len(bursts) {
				n = min(left, 1+int(bursts[i]))
			}
			if n*longest > sqlitequeue.ChunkSize {
				n = 1
			}
			sizes = append(sizes, n)
		}
		chunks, counts, newest := sqlitequeue.CodeFrames(data, metas, sizes)
		last := sqlitequeue.EncodeFrames(data[len(data)-1:], metas[len(data)-1:])
		var got []byte
		if err := sqlitequeue.DecodeFrames(newest, func(m uint32, d []byte) error {
			got = sqlitequeue.EncodeFrames([][]byte{d}, []uint32{m})
			return nil
		}); err != nil || !bytes.Equal(got, last) {
			t.Errorf("the newest frame is %q, want %q, %v", got, last, err)
		}
		for i, chunk := range chunks {
			n, size := counts[i], 0
			for _, d := range data[:n] {
				size += len(d)
			}
			if size > sqlitequeue.ChunkSize && n > 1 {
				t.Errorf("a chunk of %d bytes", size)
			}
			if want := sqlitequeue.EncodeFrames(data[:n], metas[:n]); !bytes.Equal(chunk, want) {
				t.Errorf("chunk %d of %d frames in bursts of %v: %q, want %q", i, n, sizes, chunk, want)
			}
			data, metas = data[n:], metas[n:]
		}
		if len(data) > 0 {
			t.Errorf("%d frames are in no chunk", len(data))
		}
	})
}

// FuzzTail opens a journal beside a tail file of any content.
func FuzzTail(f *testing.F) {
	dir := f.TempDir()
	j, err := sqlitequeue.OpenJournal(f.Context(), filepath.Join(dir, "seed"), sqlitequeue.Options{Settle: 1 << 40})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		if err := j.Append(f.Context(), "job", uint64(i+1), 1, frame(i)); err != nil {
			f.Fatal(err)
		}
	}
	seed, err := os.ReadFile(filepath.Join(dir, "seed.tail0"))
	if err != nil {
		f.Fatal(err)
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-3])
	f.Add([]byte("rbeetail"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "j")
		write(t, path+".tail0", b)
		j := openJournal(t, path, sqlitequeue.Options{})
		readAll(t, j, "job", 0)
	})
}

// FuzzTailGroup reads anything without a panic; what it takes for a group it writes as one that reads the same. A job with any
// strings comes back as it went.
func FuzzTailGroup(f *testing.F) {
	rec := queue.Record{Key: 7, Rank: 9, Job: queue.Job{ID: "job_x", Tenant: "t", Model: "m", State: queue.Running, Attempt: 2, TokensOut: 3, Detached: true,
		Submitted: time.UnixMicro(1).UTC(), Lease: queue.Lease{Job: "job_x", Holder: "h", Fence: 4, Until: time.UnixMicro(5).UTC()}, Payload: []byte("payload")}}
	f.Add(sqlitequeue.TailGroup(rec, rec), "a \"b\" \x00\u2028")
	f.Add([]byte{1, 0, 0, 0, 0, 0}, "")
	f.Fuzz(func(t *testing.T, b []byte, s string) {
		if again, ok := sqlitequeue.TailJobs(b); ok {
			if third, ok := sqlitequeue.TailJobs(again); !ok || !bytes.Equal(third, again) {
				t.Errorf("%q became %q", again, third)
			}
		}
		if !utf8.ValidString(s) {
			return // such a job goes to SQLite at once
		}
		r := rec
		r.Tenant, r.ErrorMessage, r.Worker, r.Payload = s, s, s, []byte("p"+s)
		got, err := sqlitequeue.ParseTailGroup(sqlitequeue.TailGroup(r))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], r) {
			t.Errorf("%+v\n%+v, %v", got, r, err)
		}
	})
}

// FuzzBundle reads anything without a panic; what it reads it writes as it was.
func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 3, 9, 1, 2, 'x', 'y', 5, 1, 'b', 1, 0, 1, 0})
	f.Add([]byte{0, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		again, ok := sqlitequeue.Rebundle(b)
		if third, same := sqlitequeue.Rebundle(again); ok && (!same || !bytes.Equal(third, again)) {
			t.Errorf("%q became %q", again, third)
		}
	})
}

// FuzzTailFrames reads back what it wrote as one record.
func FuzzTailFrames(f *testing.F) {
	f.Add([]byte("data: {\"a\":1}\n\x00data: {\"a\":2}\n"), uint32(3))
	f.Fuzz(func(t *testing.T, b []byte, meta uint32) {
		frames := bytes.Split(b, []byte{0})
		metas := make([]uint32, len(frames))
		for i := range metas {
			metas[i] = meta * uint32(i)
		}
		i := 0
		torn, err := sqlitequeue.TailFrames(frames, metas, func(seq uint64, m uint32, data []byte) {
			if seq != uint64(i)+7 || m != metas[i] || !bytes.Equal(data, frames[i]) {
				t.Errorf("frame %d: %q %d, was %q %d", seq, data, m, frames[i], metas[i])
			}
			i++
		})
		if torn || err != nil || i != len(frames) {
			t.Errorf("%d frames of %d: torn %v, %v", i, len(frames), torn, err)
		}
	})
}
