package modelstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

func Example() {
	dir, _ := os.MkdirTemp("", "models")
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "tiny.gguf")
	_ = os.WriteFile(file, []byte("GGUF and so on"), 0o600)

	ctx := context.Background()
	s, err := modelstore.Open(filepath.Join(dir, "store"), modelstore.Options{Budget: 100 << 30})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	job, err := s.Ensure(ctx, modelstore.Request{Ref: "file:" + file}) // or hf:ORG/REPO, https://...
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := job.Wait(ctx) // job.Events(ctx) has the progress
	fmt.Println(filepath.Base(m.Path), m.SizeBytes, err)

	release, _ := s.Use(m.Ref)
	fmt.Println(errors.Is(s.Evict(m.Ref), modelstore.ErrInUse))
	release()
	fmt.Println(s.Evict(m.Ref))
	// Output:
	// tiny.gguf 14 <nil>
	// true
	// <nil>
}
