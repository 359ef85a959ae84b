package gguf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/queen-rbee/queen-rbee/provisioner/gguf"
)

// pair is a metadata entry: a key, its type and its bytes.
type pair struct {
	key  string
	kind uint32
	val  []byte
}

func u32(v uint32) []byte  { return binary.LittleEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte  { return binary.LittleEndian.AppendUint64(nil, v) }
func text(s string) []byte { return append(u64(uint64(len(s))), s...) }

func header(tensors, pairs uint64, list ...pair) []byte {
	b := append([]byte("GGUF"), u32(3)...)
	b = append(append(b, u64(tensors)...), u64(pairs)...)
	for _, p := range list {
		b = append(append(append(b, text(p.key)...), u32(p.kind)...), p.val...)
	}
	return b
}

// tiny is a small llama-like model of one tensor.
func tiny() []byte {
	list := []pair{
		{"general.architecture", 8, text("llama")}, {"general.name", 8, text("tiny")}, {"general.alignment", 4, u32(32)},
		{"llama.context_length", 4, u32(2048)}, {"llama.embedding_length", 4, u32(64)}, {"llama.block_count", 4, u32(2)},
		{"llama.feed_forward_length", 4, u32(128)}, {"llama.attention.head_count", 4, u32(8)}, {"llama.attention.head_count_kv", 4, u32(4)},
		{"llama.attention.layer_norm_rms_epsilon", 6, u32(0x3727c5ac)}, {"llama.rope.dimension_count", 4, u32(8)}, {"llama.vocab_size", 4, u32(32)},
		{"tokenizer.ggml.tokens", 9, append(append(u32(8), u64(2)...), append(text("a"), text("b")...)...)},
	}
	b := header(1, uint64(len(list)), list...)
	b = append(b, text("token_embd.weight")...)
	b = append(append(append(b, u32(2)...), u64(64)...), u64(32)...)
	b = append(append(b, u32(0)...), u64(0)...)
	for len(b)%32 != 0 {
		b = append(b, 0)
	}
	return append(b, make([]byte, 64*32*4)...)
}

func write(t testing.TB, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInspectTiny(t *testing.T) {
	b := tiny()
	info, err := gguf.Inspect(write(t, b))
	if err != nil {
		t.Fatal(err)
	}
	// 2 layers x 4 KV heads x 8 x (K and V) x 2 bytes = 256 a token, and some buffers
	if info.Architecture != "llama" || info.ContextLength != 2048 || info.Parameters != 2048 || info.Memory.Weights != int64(len(b)) || info.Memory.PerToken < 256 || info.Memory.PerToken > 64<<10 {
		t.Fatalf("%+v", info)
	}
}

func TestInspectStories(t *testing.T) {
	path := os.Getenv("RBEE_STORIES")
	if path == "" {
		path = "../../../shared/data/models/stories260K-chat.gguf"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("no test data: set RBEE_STORIES to the stories260K model")
	}
	info, err := gguf.Inspect(path)
	if err != nil || info.ContextLength != 512 || info.Architecture != "llama" || info.Parameters < 200_000 || info.Memory.Weights < 1<<20 {
		t.Fatalf("%+v %v", info, err)
	}
}

func TestOtherFiles(t *testing.T) {
	dir := t.TempDir()
	if info, err := gguf.Inspect(dir); err != nil || info.Architecture != "" {
		t.Fatal(info, err)
	}
	p := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := gguf.Inspect(p); err != nil || info.Architecture != "" {
		t.Fatal(info, err)
	}
	if _, err := gguf.Inspect(filepath.Join(dir, "none.gguf")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestHeadersThatLie(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":               nil,
		"short":               []byte("GGU"),
		"html":                []byte("<!doctype html><html>"),
		"version":             append([]byte("GGUF"), u32(99)...),
		"2^63 tensors":        header(1<<63, 0),
		"2^64-1 tensors":      header(1<<64-1, 0),
		"2^63 entries":        header(0, 1<<63),
		"a million tensors":   header(1<<20, 0),
		"text of 2^63":        header(0, 1, pair{"k", 8, u64(1 << 63)}),
		"key of 2^63":         append(header(0, 1), u64(1<<63)...),
		"array of 2^62":       header(0, 1, pair{"k", 9, append(u32(4), u64(1<<62)...)}),
		"arrays all the way":  header(0, 1, pair{"k", 9, bytes.Repeat(append(u32(9), u64(1)...), 50)}),
		"2^32-1 layers":       bytes.Replace(tiny(), append(append(text("llama.block_count"), u32(4)...), u32(2)...), append(append(text("llama.block_count"), u32(4)...), u32(1<<32-1)...), 1),
		"heads":               bytes.Replace(tiny(), append(append(text("llama.attention.head_count"), u32(4)...), u32(8)...), append(append(text("llama.attention.head_count"), u32(4)...), u32(1<<31)...), 1),
		"unknown type":        header(0, 1, pair{"k", 77, nil}),
		"ends in the header":  tiny()[:200],
		"tensor far away":     append(header(1, 0), append(text("t"), append(append(append(u32(1), u64(8)...), u32(0)...), u64(1<<60)...)...)...),
		"tensor of 2^80":      append(header(1, 0), append(text("t"), append(append(append(append(u32(2), u64(1<<40)...), u64(1<<40)...), u32(0)...), u64(0)...)...)...),
		"tensor with no size": append(header(1, 0), append(text("t"), append(append(append(u32(1), u64(0)...), u32(0)...), u64(0)...)...)...),
	} {
		if _, err := gguf.Inspect(write(t, append(b, make([]byte, 40)...))); !errors.Is(err, gguf.ErrDamaged) && len(b) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(tiny())
	f.Add(header(1<<63, 0))
	f.Add([]byte("GGUF"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		p := filepath.Join(dir, "f.gguf")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := gguf.Inspect(p)
		if err == nil && (info.Memory.PerToken < 0 || info.Memory.Fixed < 0 || info.ContextLength < 0) {
			t.Fatalf("%+v", info)
		}
	})
}
