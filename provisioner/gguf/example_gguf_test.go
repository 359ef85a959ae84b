package gguf_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/queen-rbee/queen-rbee/provisioner/gguf"
)

func Example() {
	dir, _ := os.MkdirTemp("", "gguf")
	defer os.RemoveAll(dir)
	p := filepath.Join(dir, "tiny.gguf")
	_ = os.WriteFile(p, tiny(), 0o600)
	info, err := gguf.Inspect(p)
	fmt.Println(info.Architecture, info.ContextLength, err)
	_ = os.WriteFile(p, header(1<<63, 0), 0o600)
	_, err = gguf.Inspect(p)
	fmt.Println(errors.Is(err, gguf.ErrDamaged))
	// Output:
	// llama 2048 <nil>
	// true
}
