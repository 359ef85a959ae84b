package sqliteregistry_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/registry/sqliteregistry"
)

func Example() {
	dir, _ := os.MkdirTemp("", "registry")
	defer os.RemoveAll(dir)
	ctx := context.Background()
	store, err := sqliteregistry.Open(ctx, filepath.Join(dir, "rbee.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	r, err := registry.New(ctx, store, registry.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = r.Put(ctx, registry.Hive{Name: "attic", Mode: registry.ModeLocal})
	_ = r.Close()
	hives, _ := store.Hives(ctx)
	fmt.Println(len(hives), hives[0].Name)
	// Output: 1 attic
}
