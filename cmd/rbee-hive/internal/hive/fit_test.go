package hive

import (
	"testing"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// TestContextIsFitted has the hive choose the context of a real model from its metadata and the machine's free memory.
func TestContextIsFitted(t *testing.T) {
	req, ok := storiesRequest(t, "w")
	if !ok {
		t.Skip("no llama-server or no model data on this machine")
	}
	h := startHive(t, t.TempDir())
	m, err := h.Provision(t.Context(), hiveapi.ProvisionRequest{ModelRef: req.ModelRef}, nil)
	if err != nil || m.Layers == 0 || m.ContextLength == 0 || m.Memory.PerToken == 0 {
		t.Fatalf("%+v %v", m, err)
	}
	given := h.spawn(req)
	mustEqual(t, "a context that was given", given.Context, 512)
	req.WorkerID, req.Context, req.Slots, req.Devices = "fitted", 0, 2, []string{"cpu"}
	fitted := h.spawn(req)
	mustEqual(t, "the model's own context for each slot", fitted.Context, 2*m.ContextLength)
	want := m.Memory.Weights + m.Memory.Fixed + m.Memory.PerToken*int64(fitted.Context) + m.Memory.PerSlot*2
	mustEqual(t, "memory", fitted.MemoryBytes, want)
	if complete(t, fitted) == "" {
		t.Error("no text")
	}
	req.WorkerID, req.Args = "own", append(req.Args, "-c", "256")
	mustEqual(t, "an argument of its own", h.spawn(req).Context, 0)
}
