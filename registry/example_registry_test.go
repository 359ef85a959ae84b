package registry_test

import (
	"context"
	"fmt"

	"github.com/queen-rbee/queen-rbee/registry"
)

func Example() {
	ctx := context.Background()
	r, err := registry.New(ctx, registry.NewMemoryStore(), registry.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	_ = r.Put(ctx, registry.Hive{Name: "attic", Mode: registry.ModeLocal})
	_ = r.Apply(registry.Report{Node: "attic", Epoch: 1, Seq: 1, Full: true, Workers: []registry.Worker{
		{ID: "w1", Model: "demo", State: registry.WorkerIdle, SlotsTotal: 4, SlotsFree: 4},
	}})
	_ = r.SetStatus("attic", registry.StatusOnline, "")

	s := r.Snapshot()
	for _, w := range s.Workers {
		fmt.Println(w.ID, w.Node, w.State, s.Reachable(w))
	}
	fmt.Println(r.Apply(registry.Report{Node: "attic", Epoch: 0, Seq: 9, Full: true}))
	// Output:
	// w1 attic idle true
	// stale report: attic: epoch 0 number 9 is older than epoch 1 number 1; send a full report of the present epoch
}
