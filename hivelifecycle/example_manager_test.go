package hivelifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/queen-rbee/queen-rbee/hivelifecycle"
)

func Example() {
	dir, err := os.MkdirTemp("", "queen")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	m, err := hivelifecycle.New(nil, hivelifecycle.Options{
		DataDir: dir,
		Events:  func(e hivelifecycle.Event) { fmt.Println(e.Step, e.State) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	defer func() { _ = m.Close(ctx) }()

	_, err = m.StartLocal(ctx, hivelifecycle.LocalConfig{Name: "local", Binary: "/nowhere/rbee-hive"})
	var step *hivelifecycle.Error
	if errors.As(err, &step) {
		fmt.Println(step.Code(), "at step", step.Step)
		fmt.Println(step.Remedy)
	}
	// Output:
	// binary failed
	// HIVE_FAILED at step binary
	// put rbee-hive beside queen-rbee or on PATH (make build makes both)
}
