package cli

import "testing"

// A decision shows its workers by rank, and the hives that the model could be loaded on as hives.
func TestDecisionText(t *testing.T) {
	candidate := func(worker string, kept bool, reason string, rank, total float64) any {
		return map[string]any{"worker_id": worker, "node": "attic", "kept": kept, "reason": reason, "rank": rank, "cost": map[string]any{"total_s": total}}
	}
	got := decisionText(map[string]any{"action": "route", "worker_id": "w-1", "node": "attic", "code": "", "reason": "lowest cost", "candidates": []any{
		candidate("w-1", true, "", 1, 0.25), candidate("w-2", false, "every slot is taken", 0, 0),
		candidate("", true, "", 0, 0), candidate("", false, "draining", 0, 0)}})
	want := "route w-1 attic lowest cost\nw-1 on attic: rank 1, 0.250 s\nw-2 on attic: left out every slot is taken\nhive attic: could load it\nhive attic: left out draining"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
