// Package gguf reads the metadata of GGUF files with github.com/gpustack/gguf-parser-go: architecture,
// context length, parameters, and what a model takes in memory for its weights, for each token of context
// and besides. Files come from anywhere, so the header is walked with bounds before the parser sees it.
package gguf

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	parser "github.com/gpustack/gguf-parser-go"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

// Inspect reads a model's metadata; of a sharded one it takes the first shard's path and counts the
// weights of all that lie beside it. It fits modelstore.Options.Inspect. Files that are not GGUF (or a
// directory) give an empty Info and no error: there is nothing to say about them.
func Inspect(path string) (modelstore.Info, error) {
	if info, err := os.Stat(path); err != nil || info.IsDir() || !strings.EqualFold(filepath.Ext(path), ".gguf") {
		return modelstore.Info{}, err
	}
	weights := int64(0)
	for _, shard := range shards(path) {
		size, err := check(shard)
		if err != nil {
			return modelstore.Info{}, err
		}
		weights += size
	}
	return estimate(path, weights)
}

// check walks one file's header.
func check(path string) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := CheckHeader(f, info.Size()); err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return info.Size(), nil
}

// shards lists the files of a model, given its first one.
func shards(path string) []string {
	m := regexp.MustCompile(`^(.*-)00001(-of-\d{5}\.gguf)$`).FindStringSubmatch(path)
	if m == nil {
		return []string{path}
	}
	all, err := filepath.Glob(escape(m[1]) + "[0-9][0-9][0-9][0-9][0-9]" + escape(m[2]))
	if err != nil || len(all) == 0 {
		return []string{path}
	}
	return all
}

func escape(s string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(s)
}

// estimate asks the parser, whose figures for two contexts give the price of a token.
func estimate(path string, weights int64) (info modelstore.Info, err error) {
	defer func() { // a parser of files from anywhere: its faults end here
		if r := recover(); r != nil {
			info, err = modelstore.Info{}, fmt.Errorf("%s: %w: %v", filepath.Base(path), ErrDamaged, r)
		}
	}()
	f, err := parser.ParseGGUFFile(path)
	if err != nil {
		return info, fmt.Errorf("%s: %w: %w", filepath.Base(path), ErrDamaged, err)
	}
	meta, arch := f.Metadata(), f.Architecture()
	info.Architecture, info.Quantization = meta.Architecture, meta.FileTypeDescriptor
	info.ContextLength, info.Parameters = int(min(arch.MaximumContextLength, 1<<30)), int64(meta.Parameters)
	info.Layers = int(min(arch.BlockCount, 1<<16))
	info.Memory = provisioner.Memory{Weights: weights}
	const small, large = 512, 4096
	at := func(context int32) (kv, rest int64) {
		e := f.EstimateLLaMACppRun(parser.WithLLaMACppContextSize(context))
		for _, d := range e.Devices {
			kv += int64(d.KVCache.Sum())
			rest += int64(d.Computation.Sum())
		}
		return kv, rest
	}
	kv1, rest1 := at(small)
	kv2, rest2 := at(large)
	if kv2 < kv1 || rest2 < rest1 || rest1 < 0 { // nothing sensible: leave it to a guess by size
		return info, nil
	}
	info.Memory.PerToken = (kv2 - kv1 + rest2 - rest1) / (large - small)
	info.Memory.Fixed = max(0, kv1+rest1-info.Memory.PerToken*small)
	return info, nil
}
