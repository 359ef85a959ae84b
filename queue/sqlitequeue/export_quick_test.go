package sqlitequeue

import "os"

// QuickWriter is the writer of small pieces of the tail.
type QuickWriter struct{ w quickWriter }

// WriteAt reports whether the piece is settled: else the ordinary way is taken.
func (q *QuickWriter) WriteAt(f *os.File, b []byte, off int64) (done bool, err error) {
	return q.w.writeAt(f, b, off)
}

// TailPut writes as the tail does: quickly where that can be.
func TailPut(f *os.File, pieces [][]byte) error {
	t := tail{f: f}
	for _, b := range pieces {
		if err := t.put(b); err != nil {
			return err
		}
		t.size += int64(len(b))
	}
	return nil
}
