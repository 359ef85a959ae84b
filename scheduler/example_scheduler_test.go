package scheduler_test

import (
	"context"
	"fmt"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// A fleet of one loaded worker: the first job is routed there, the second waits for its slot.
func Example() {
	fleet := &scheduler.Snapshot{Version: 1,
		Workers: []scheduler.Worker{{ID: "w1", Node: "local", Model: "demo", Slots: 1}},
		Hives:   []scheduler.Hive{{Name: "local"}}}
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return fleet }), scheduler.Options{})
	ctx := context.Background()

	d, release, _ := s.Place(ctx, &scheduler.Job{ID: "a", Model: "demo", PromptTokens: 100})
	fmt.Println(d.Action, d.Worker)
	b := &scheduler.Job{ID: "b", Model: "demo", PromptTokens: 100}
	d, _, _ = s.Place(ctx, b)
	fmt.Println(d.Action, "-", d.Reason)

	release.Done()
	i, d, release, _ := s.Pick(ctx, []*scheduler.Job{b})
	fmt.Println(i, d.Action, d.Worker)
	release.Done()
	_, _, err := s.Place(ctx, &scheduler.Job{ID: "c", Model: "nope"})
	fmt.Println(err)
	// Output:
	// route w1
	// queue - every worker of the model is busy
	// 0 route w1
	// model "nope": no worker serves this model and none may be loaded; GET /v1/models lists those that exist
}
