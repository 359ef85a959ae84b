package schedsim_test

import (
	"fmt"
	"strings"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/scheduler/schedsim"
)

// Two turns of one conversation on two workers: the second finds its prefix.
func Example() {
	reqs, err := schedsim.ReadJSONL(strings.NewReader(`{"timestamp":0,"input_length":1024,"output_length":10,"hash_ids":[1,2]}
{"timestamp":5000,"input_length":2048,"output_length":10,"hash_ids":[1,2,3,4]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg := schedsim.Config{Workers: 2, Slots: 1, CacheBlocks: 100, Prefill: 1024, Decode: 100, Models: 1, ModelBytes: 1, Bandwidth: 1}
	r, err := schedsim.Run("native", schedsim.Shape(reqs, 0, 1, 1, 0, 1), cfg, scheduler.Weights{})
	fmt.Printf("%d done, first token after at most %v, %.0f%% of the prompt tokens were cached %v\n", r.Done, r.Max, r.Hit, err)
	// Output: 2 done, first token after at most 1s, 33% of the prompt tokens were cached <nil>
}
