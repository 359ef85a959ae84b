package app

import "testing"

func TestGrowth(t *testing.T) {
	for live, want := range map[uint64]int{0: mostGrowth, 1 << 20: mostGrowth, 16 << 20: 400, 64 << 20: 50, 200 << 20: leastGrows, 10 << 30: leastGrows} {
		if got := growth(live); got != want {
			t.Errorf("%d MiB live: %d, want %d", live>>20, got, want)
		}
	}
}
