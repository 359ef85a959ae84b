package store

import (
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

func TestMakeRoom(t *testing.T) {
	now := time.Now()
	items := []modelstore.Item{
		{Ref: "hf:a/used", Size: 4 << 30, LastUsed: now.Add(-time.Minute), Uses: 50},
		{Ref: "hf:a/old", Size: 4 << 30, LastUsed: now.Add(-90 * 24 * time.Hour), Uses: 1},
		{Ref: "hf:a/new", Size: 4 << 30, Added: now},
	}
	got, err := makeRoom(t.Context(), items, 3<<30)
	if err != nil || len(got) != 1 || got[0] != "hf:a/old" {
		t.Errorf("for 3 GiB: %v %v", got, err)
	}
	if got, err := makeRoom(t.Context(), items, 100<<30); err != nil || len(got) != 0 {
		t.Errorf("what can't be enough drops %v (%v)", got, err)
	}
}
