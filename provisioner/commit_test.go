package provisioner_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

// A queen that was restarted while the hub is away goes on with the commit that the machine has.
func TestTheMachinesCommitServesWithoutTheHub(t *testing.T) {
	ctx := context.Background()
	have := "hf:org/repo@" + strings.Repeat("d", 40)
	for _, state := range []string{provisioner.StateReady, "loaded", "loading"} {
		h := &fakeHives{nodes: []string{"a", "b"}, models: map[string][]provisioner.Model{"a": {
			{Ref: "hf:org/repo@" + strings.Repeat("e", 40) + "::file=other.gguf", State: state},
			{Ref: have, State: state, SizeBytes: 1000, Memory: provisioner.Memory{Weights: 1000, PerToken: 2}}}}}
		p := open(t, h, nil, provisioner.Options{Entries: []provisioner.Entry{{Name: "m", Ref: "hf:org/repo"}},
			Pin: func(context.Context, provisioner.Ref) (string, error) { return "", errors.New("no network") }})
		if m, err := p.Ensure(ctx, "a", "m"); err != nil || m.Ref != have {
			t.Errorf("%s: %+v %v", state, m, err)
		}
		if m, err := p.Ensure(ctx, "b", "m"); err != nil || m.Ref != "hf:org/repo" {
			t.Errorf("a machine that has nothing: %+v %v", m, err)
		}
		if e, ok := p.Named(have); !ok || e.Name != "m" {
			t.Errorf("the entry of %s: %+v %v", have, e, ok)
		}
		if _, ok := p.Named("hf:org/other@" + strings.Repeat("d", 40)); ok {
			t.Error("another model has this entry")
		}
		if n := p.Need("hf:org/repo", 1, 100); !n.Known || n.Memory != 1200 {
			t.Errorf("the need by what the machine has under its commit: %+v", n)
		}
		if err := p.Evict(ctx, "a", "m"); err != nil || len(h.models["a"]) != 1 {
			t.Errorf("evict: %v, left %+v", err, h.models["a"])
		}
	}
}
