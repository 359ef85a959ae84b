package provisioner_test

import (
	"context"
	"fmt"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

func Example() {
	ctx := context.Background()
	p, err := provisioner.New(ctx, &fakeHives{nodes: []string{"attic"}}, provisioner.NewMemoryStore(), provisioner.Options{
		Entries: []provisioner.Entry{{Name: "demo", Ref: "sim:demo?memory=2GiB&load=1s", Slots: 4}},
		Aliases: map[string]string{"gpt-4": "demo"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	e, _ := p.Resolve("gpt-4")
	n := p.Need(e.Ref, e.Slots, e.Context)
	fmt.Println(e.Name, e.Ref, n.Memory>>30, "GiB", n.LoadTime)
	m, err := p.Ensure(ctx, "attic", e.Name)
	fmt.Println(m.State, err)
	_, err = p.Resolve("../../etc/passwd")
	fmt.Println(err)
	// Output:
	// demo sim:demo?load=1s&memory=2GiB 2 GiB 1s
	// ready <nil>
	// invalid model reference: "../../etc/passwd": it contains `..`
}
