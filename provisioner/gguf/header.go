package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrDamaged means that a file is no GGUF that can be true.
var ErrDamaged = errors.New("damaged or not a GGUF file")

// Limits that no real model comes near; the largest have some thousand tensors and a vocabulary of 300,000.
const (
	maxTensors = 1 << 20
	maxPairs   = 1 << 17
	maxString  = 16 << 20
	maxArray   = 1 << 24
	maxKey     = 64 << 10
	maxLayers  = 4096
	maxHeader  = 512 << 20
)

// CheckHeader walks the header of a GGUF file of the given size without keeping any of it, and refuses
// counts and lengths that the file cannot hold. A parser that believes them runs out of memory.
func CheckHeader(r io.Reader, size int64) error {
	w := &walker{r: bufio.NewReaderSize(io.LimitReader(r, min(size, maxHeader)), 64<<10), size: size}
	err := w.walk()
	if err == nil || errors.Is(err, ErrDamaged) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends inside its header", ErrDamaged)
	}
	return err
}

type walker struct {
	r    *bufio.Reader
	size int64
	big  bool
	wide bool // counts of 64 bits: version 2 and later
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

func (w *walker) uint(n int) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(w.r, b[:n]); err != nil {
		return 0, err
	}
	switch {
	case n == 4 && w.big:
		return uint64(binary.BigEndian.Uint32(b[:])), nil
	case n == 4:
		return uint64(binary.LittleEndian.Uint32(b[:])), nil
	case w.big:
		return binary.BigEndian.Uint64(b[:]), nil
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

func (w *walker) count(limit uint64, each int64, what string) (int, error) {
	width := 8
	if !w.wide {
		width = 4
	}
	n, err := w.uint(width)
	if err != nil {
		return 0, err
	}
	if n > limit || int64(n)*each > w.size {
		return 0, bad("it claims %d %s in %d bytes", n, what, w.size)
	}
	return int(n), nil
}

func (w *walker) skip(n int64) error {
	for n > 0 {
		k, err := w.r.Discard(int(min(n, 1<<30)))
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

func (w *walker) str() error {
	n, err := w.count(maxString, 1, "bytes of text")
	if err != nil {
		return err
	}
	return w.skip(int64(n))
}

func (w *walker) walk() error {
	var magic [4]byte
	if _, err := io.ReadFull(w.r, magic[:]); err != nil {
		return err
	}
	if string(magic[:]) != "GGUF" {
		return bad("it does not begin with GGUF")
	}
	version, err := w.uint(4)
	if err != nil {
		return err
	}
	if version > 0xffff { // the other byte order
		w.big = true
		version = uint64(binary.BigEndian.Uint32(binary.LittleEndian.AppendUint32(nil, uint32(version))))
	}
	if version < 1 || version > 3 {
		return bad("version %d is not known", version)
	}
	w.wide = version > 1
	tensors, err := w.count(maxTensors, 24, "tensors")
	if err != nil {
		return err
	}
	pairs, err := w.count(maxPairs, 9, "metadata entries")
	if err != nil {
		return err
	}
	for range pairs {
		if err := w.pair(); err != nil {
			return err
		}
	}
	for range tensors {
		if err := w.tensor(); err != nil {
			return err
		}
	}
	return nil
}

// pair walks one metadata entry. Numbers that a parser would loop over or multiply are held to what
// models can have: a million layers would keep it busy for hours.
func (w *walker) pair() error {
	n, err := w.count(maxKey, 1, "bytes of a key")
	if err != nil {
		return err
	}
	key := make([]byte, n)
	if _, err := io.ReadFull(w.r, key); err != nil {
		return err
	}
	kind, err := w.uint(4)
	if err != nil {
		return err
	}
	width := map[uint64]int{4: 4, 5: 4, 10: 8, 11: 8}[kind] // the types of integers that can be large
	if width == 0 {
		return w.value(kind, 0)
	}
	v, err := w.uint(width)
	if err != nil {
		return err
	}
	limit := uint64(1 << 32)
	switch name := string(key); {
	case strings.HasSuffix(name, "block_count"), strings.HasSuffix(name, "layer_count"), strings.HasSuffix(name, "_layers"):
		limit = maxLayers
	case strings.HasPrefix(name, "general."), strings.HasPrefix(name, "tokenizer."):
	case strings.HasSuffix(name, "context_length"):
		limit = 1 << 31
	default:
		limit = 1 << 26
	}
	if v > limit {
		return bad("%.80q is %d", key, v)
	}
	return nil
}

// value skips one metadata value.
func (w *walker) value(kind uint64, depth int) error {
	widths := [...]int64{1, 1, 2, 2, 4, 4, 4, 1, -1, -2, 8, 8, 8} // by type: -1 text, -2 array
	if kind >= uint64(len(widths)) {
		return bad("metadata of type %d", kind)
	}
	switch width := widths[kind]; width {
	case -1:
		return w.str()
	case -2:
		return w.array(depth)
	default:
		return w.skip(width)
	}
}

func (w *walker) array(depth int) error {
	if depth > 2 {
		return bad("arrays inside arrays inside arrays")
	}
	kind, err := w.uint(4)
	if err != nil {
		return err
	}
	n, err := w.count(maxArray, 1, "elements")
	if err != nil {
		return err
	}
	for range n {
		if err := w.value(kind, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) tensor() error {
	if err := w.str(); err != nil {
		return err
	}
	dims, err := w.uint(4)
	if err != nil {
		return err
	}
	if dims > 8 {
		return bad("a tensor with %d dimensions", dims)
	}
	elements := uint64(1)
	for range dims {
		width := 8
		if !w.wide {
			width = 4
		}
		d, err := w.uint(width)
		if err != nil {
			return err
		}
		if d == 0 || d > 1<<40 || elements > (1<<48)/d {
			return bad("a tensor of %d times %d elements", elements, d)
		}
		elements *= d
	}
	if _, err := w.uint(4); err != nil { // its type
		return err
	}
	offset, err := w.uint(8)
	if err != nil {
		return err
	}
	if offset > uint64(w.size) {
		return bad("a tensor at %d in %d bytes", offset, w.size)
	}
	return nil
}
