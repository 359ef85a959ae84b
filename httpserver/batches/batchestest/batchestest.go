// Package batchestest checks that a batches.Store does what Batches relies on. Every implementation runs it.
package batchestest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/httpserver/batches"
)

// TestStore runs the suite; open makes an empty store each time.
func TestStore(t *testing.T, open func(*testing.T) batches.Store) {
	t.Run("files", func(t *testing.T) { files(t, open(t)) })
	t.Run("chunks", func(t *testing.T) { chunks(t, open(t)) })
	t.Run("batches", func(t *testing.T) { batchesOf(t, open(t)) })
	t.Run("lines", func(t *testing.T) { lines(t, open(t)) })
}

func at(n int) time.Time { return time.UnixMicro(1_700_000_000_000_000 + int64(n)).UTC() }

func files(t *testing.T, s batches.Store) {
	ctx := t.Context()
	if _, err := s.File(ctx, "none"); !errors.Is(err, batches.ErrNotFound) {
		t.Fatalf("a missing file: %v", err)
	}
	for i := range 5 {
		f := batches.File{ID: fmt.Sprintf("f%d", i), Tenant: "a", Name: "n.jsonl", Purpose: "batch", Bytes: 7, Chunks: 1, Created: at(i)}
		if i == 3 {
			f.Tenant = "b"
		}
		if i == 4 {
			f.Purpose = "batch_output"
		}
		must(t, s.SaveFile(ctx, f))
	}
	must(t, s.SaveFile(ctx, batches.File{ID: "f0", Tenant: "a", Name: "again", Purpose: "batch", Created: at(0)}))
	got, err := s.File(ctx, "f0")
	must(t, err)
	if diff := cmp.Diff(batches.File{ID: "f0", Tenant: "a", Name: "again", Purpose: "batch", Created: at(0)}, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct {
		tenant, purpose, after string
		limit                  int
		want                   []string
	}{
		{"a", "", "", 10, []string{"f4", "f2", "f1", "f0"}}, {"a", "batch", "", 2, []string{"f2", "f1"}}, {"a", "batch", "f1", 9, []string{"f0"}},
		{"b", "", "", 9, []string{"f3"}}, {"c", "", "", 9, nil}, {"a", "", "gone", 9, nil},
	} {
		page, err := s.Files(ctx, c.tenant, c.purpose, c.after, c.limit)
		must(t, err)
		var ids []string
		for _, f := range page {
			ids = append(ids, f.ID)
		}
		if diff := cmp.Diff(c.want, ids); diff != "" {
			t.Errorf("%+v: %s", c, diff)
		}
	}
}

func chunks(t *testing.T, s batches.Store) {
	ctx := t.Context()
	must(t, s.WriteChunk(ctx, "f", 0, []byte("one")))
	must(t, s.WriteChunk(ctx, "f", 1, []byte{0, 255, 10}))
	must(t, s.WriteChunk(ctx, "f", 0, []byte("two")))
	for seq, want := range map[int]string{0: "two", 1: "\x00\xff\n"} {
		if b, err := s.ReadChunk(ctx, "f", seq); err != nil || string(b) != want {
			t.Errorf("chunk %d: %q %v", seq, b, err)
		}
	}
	if _, err := s.ReadChunk(ctx, "f", 2); !errors.Is(err, batches.ErrNotFound) {
		t.Errorf("a missing chunk: %v", err)
	}
	must(t, s.DeleteFile(ctx, "f"))
	must(t, s.DeleteFile(ctx, "f"))
	if _, err := s.ReadChunk(ctx, "f", 0); !errors.Is(err, batches.ErrNotFound) {
		t.Errorf("a deleted chunk: %v", err)
	}
}

func batchesOf(t *testing.T, s batches.Store) {
	ctx := t.Context()
	if _, err := s.Batch(ctx, "none"); !errors.Is(err, batches.ErrNotFound) {
		t.Fatalf("a missing batch: %v", err)
	}
	whole := batches.Batch{ID: "b0", Tenant: "a", KeyID: "k", Models: []string{"m"}, Endpoint: "/v1/x", Input: "f", Output: "o", ErrorFile: "e",
		Status: batches.InProgress, Created: at(0), Expires: at(9), At: map[batches.Status]time.Time{batches.InProgress: at(3)}, Total: 3, Completed: 1, Failed: 1,
		Errors: []batches.LineError{{Code: "c", Message: "m", Param: "p", Line: 2}}, Metadata: map[string]string{"x": "y"}, BodyHash: "h", Correlated: "r"}
	must(t, s.SaveBatch(ctx, whole))
	got, err := s.Batch(ctx, "b0")
	must(t, err)
	if diff := cmp.Diff(whole, got); diff != "" {
		t.Error(diff)
	}
	must(t, s.SaveBatch(ctx, batches.Batch{ID: "b1", Tenant: "a", Status: batches.Completed, Created: at(1)}))
	must(t, s.SaveBatch(ctx, batches.Batch{ID: "b2", Tenant: "b", Status: batches.Validating, Created: at(2)}))
	ids := func(all []batches.Batch, err error) []string {
		t.Helper()
		must(t, err)
		var out []string
		for _, b := range all {
			out = append(out, b.ID)
		}
		return out
	}
	for want, got := range map[string][]string{
		"[b1 b0]": ids(s.Batches(ctx, "a", "", 5)), "[b1]": ids(s.Batches(ctx, "a", "", 1)), "[b0]": ids(s.Batches(ctx, "a", "b1", 5)),
		"[b0 b2]": ids(s.Unfinished(ctx)),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	whole.Status = batches.Cancelled
	must(t, s.SaveBatch(ctx, whole))
	if got := ids(s.Unfinished(ctx)); fmt.Sprint(got) != "[b2]" {
		t.Errorf("%v", got)
	}
}

func lines(t *testing.T, s batches.Store) {
	ctx := t.Context()
	b := batches.Batch{ID: "b", Tenant: "a", Status: batches.InProgress, Created: at(0), Completed: 2}
	must(t, s.SaveLines(ctx, b, []batches.Line{{Number: 3, Data: []byte("three")}, {Number: 1, Failed: true, Data: []byte("one")}}))
	b.Completed = 3
	must(t, s.SaveLines(ctx, b, []batches.Line{{Number: 2, Data: []byte("two")}, {Number: 3, Data: []byte("THREE")}}))
	must(t, s.SaveLines(ctx, batches.Batch{ID: "other", Created: at(1)}, []batches.Line{{Number: 1, Data: []byte("x")}}))
	must(t, s.SaveLines(ctx, b, nil))
	if got, err := s.Batch(ctx, "b"); err != nil || got.Completed != 3 {
		t.Errorf("%+v %v", got, err)
	}
	got, err := s.Lines(ctx, "b", 0, 10)
	must(t, err)
	want := []batches.Line{{Number: 1, Failed: true, Data: []byte("one")}, {Number: 2, Data: []byte("two")}, {Number: 3, Data: []byte("THREE")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err = s.Lines(ctx, "b", 1, 1); err != nil || len(got) != 1 || got[0].Number != 2 {
		t.Errorf("%v %v", got, err)
	}
	must(t, s.DropLines(ctx, "b"))
	if got, err = s.Lines(ctx, "b", 0, 10); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	if got, err = s.Lines(ctx, "other", 0, 10); err != nil || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
