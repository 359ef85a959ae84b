package scriptsched_test

import (
	"fmt"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/scheduler/scriptsched"
)

// A policy of three lines in the place of the native one.
func Example() {
	p, err := scriptsched.Compile("mine.star", []byte(`
def schedule(job, workers, hives):
    return route(least_loaded(by_label(workers, "room", "attic")))
`), scriptsched.Limits{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fleet := &scheduler.Snapshot{Version: 1,
		Workers: []scheduler.Worker{{ID: "w1", Node: "desk", Model: "m"}, {ID: "w2", Node: "box", Model: "m"}},
		Hives:   []scheduler.Hive{{Name: "desk"}, {Name: "box", Labels: map[string]string{"room": "attic"}}}}
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return fleet }), scheduler.Options{Policy: p})
	d := s.Decide(&scheduler.Job{Model: "m", PromptTokens: 100})
	fmt.Println(d.Action, d.Worker, d.Policy)

	_, err = scriptsched.Compile("bad.star", []byte("def schedule(job, workers, hives):\n    return rout(workers)\n"), scriptsched.Limits{})
	fmt.Println(err)
	// Output:
	// route w2 mine.star
	// bad.star:2:12: undefined: rout
}
