package schedsim

import (
	"bytes"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// The grid runs the same cells for the same seeds, at the load that each names, and counts what is behind.
func TestGrid(t *testing.T) {
	cells := Cells(3)
	if len(cells) != 36 || len(Cells()) != 72 {
		t.Fatalf("%d and %d cells", len(cells), len(Cells()))
	}
	some := []Cell{cells[0], cells[18]} // one model; five on one device
	load := func(seed uint64) ([]Request, error) { return Synthetic("chat", 300, seed) }
	var tables [2]bytes.Buffer
	for i := range tables {
		seen := 0
		scores, err := Grid("native", "gen:chat", some, load, scheduler.Weights{}, func(c *Cell, rs []*Result) {
			if want := map[bool]int{true: 1 + len(Rivals()), false: 2}[c.Config.Models == 1]; len(rs) != want {
				t.Errorf("%s: %d results, want %d", c.Name, len(rs), want)
			}
			for _, r := range rs {
				if r.Done != 300 {
					t.Errorf("%s: %s answered %d of 300", c.Name, r.Policy, r.Done)
				}
			}
			seen++
		})
		if err != nil || len(scores) != 2 || seen != 2 {
			t.Fatalf("%d scores, %d cells seen, %v", len(scores), seen, err)
		}
		if err := WriteScores(&tables[i], scores, 5); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := tables[0].String(), tables[1].String(); a != b || !strings.Contains(a, "| TTFT p99 | 2 |") {
		t.Errorf("two equal grids:\n%s\n%s", a, b)
	}
	raw, _ := load(3)
	half, full := cells[0], cells[0]
	full.Load = 2 * half.Load
	a, b := half.reshape(raw), full.reshape(raw)
	if x := float64(a[299].At-a[0].At) / float64(b[299].At-b[0].At); x < 1.99 || x > 2.01 {
		t.Errorf("half the load takes %.3f times as long, want twice", x)
	}
	behind := Score{Ours: [4]float64{2, 1, 0, 5}, Best: [4]float64{1, 2, 0, 5}}
	for i, want := range []float64{2, 0.5, 1, 1} {
		if got := behind.Ratio(i); got < want-1e-6 || got > want+1e-6 {
			t.Errorf("ratio %d is %v, want %v", i, got, want)
		}
	}
	if _, err := Grid("nope", "gen:chat", some, load, scheduler.Weights{}, nil); err == nil {
		t.Error("an unknown policy was taken")
	}
}
