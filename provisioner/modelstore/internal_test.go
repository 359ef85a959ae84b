package modelstore

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 0-0/*", "bytes */5", "bytes -1-2/3", "", "bytes 9223372036854775808-1/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, _, ok := contentRange(s); ok && (first < 0 || last < first) {
			t.Fatalf("%q gave %d-%d", s, first, last)
		}
	})
}

// FuzzPartialLog: whatever an earlier life, or a bad disk, left in a log, no chunk beyond the file comes of it.
func FuzzPartialLog(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	for _, seed := range []string{"", "{", `{"size":10,"chunk":4}` + "\n0 00000000.\n9 ffffffff.\n1 0", `{"size":9223372036854775807,"chunk":1}`, `{"size":-1,"chunk":-1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(filepath.Join(dir, dirPartial, "x.log"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		head, marks := s.readLog("x")
		for i := range marks {
			if i < 0 || i >= head.chunks() {
				t.Fatalf("chunk %d of %d", i, head.chunks())
			}
		}
		if n := s.partialDone("x"); n < 0 || n > max(0, head.Size) {
			t.Fatalf("%d of %d bytes done", n, head.Size)
		}
	})
}
