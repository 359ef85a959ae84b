// Package store says where a hive's models are. Store is the door: Basic serves references that need no download.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// Store holds the models of one machine. Its methods are safe for concurrent use.
type Store interface {
	// Models lists what is there or on its way, by reference.
	Models(ctx context.Context) []hiveapi.Model
	// Provision makes a model available and returns when it is; progress may be called from another goroutine, but not
	// after the return.
	Provision(ctx context.Context, r hiveapi.ProvisionRequest, progress func(hiveapi.Progress)) (hiveapi.Model, error)
	// Path is what an engine is given for a model that is ready. An error has the contract's code.
	Path(ctx context.Context, ref string) (string, error)
	// Evict removes a model. A file that the store does not own stays where it is.
	Evict(ctx context.Context, ref string) error
	// Open gives the file with a checksum, for another hive.
	Open(sha256 string) (*os.File, error)
}

// Error is a refusal with the contract's code.
type Error struct{ Name, Message string }

// Error is the sentence.
func (e *Error) Error() string { return e.Message }

// Code is the contract's code.
func (e *Error) Code() string { return e.Name }

// Basic knows models that are on the machine already: sim: references and file: paths. It owns no file.
type Basic struct {
	node string

	mu     sync.Mutex
	models map[string]hiveapi.Model
}

// NewBasic returns an empty store.
func NewBasic(node string) *Basic { return &Basic{node: node, models: map[string]hiveapi.Model{}} }

// Models lists what was asked for so far.
func (b *Basic) Models(context.Context) []hiveapi.Model {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]hiveapi.Model, 0, len(b.models))
	for _, m := range b.models {
		out = append(out, m)
	}
	slices.SortFunc(out, func(x, y hiveapi.Model) int { return strings.Compare(x.ModelRef, y.ModelRef) })
	return out
}

// Provision checks that the file is there and, when asked, that it has the checksum.
func (b *Basic) Provision(ctx context.Context, r hiveapi.ProvisionRequest, progress func(hiveapi.Progress)) (hiveapi.Model, error) {
	m, err := b.look(r.ModelRef)
	if err != nil {
		return m, err
	}
	if r.Size > 0 && m.Path != "" && m.SizeBytes != r.Size {
		return m, &Error{"PROVISION_FAILED", fmt.Sprintf("%s has %d bytes and not %d; copy it again", r.ModelRef, m.SizeBytes, r.Size)}
	}
	if r.SHA256 != "" && m.Path != "" {
		if m.SHA256, err = sum(ctx, m.Path, func(done int64) {
			progress(hiveapi.Progress{ModelRef: r.ModelRef, State: hiveapi.ModelDownloading, BytesDone: done, BytesTotal: m.SizeBytes, Message: "checking the file"})
		}); err != nil {
			return m, &Error{"PROVISION_FAILED", fmt.Sprintf("%s can't be read: %v", r.ModelRef, err)}
		}
		if !strings.EqualFold(m.SHA256, strings.TrimPrefix(r.SHA256, "sha256:")) {
			return m, &Error{"PROVISION_FAILED", fmt.Sprintf("%s has another sha256 than it should; it is damaged or another file", r.ModelRef)}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.models[r.ModelRef] = m
	return m, nil
}

// look describes a reference that needs no download.
func (b *Basic) look(ref string) (hiveapi.Model, error) {
	m := hiveapi.Model{Model: ref, ModelRef: ref, Node: b.node, State: hiveapi.ModelReady, Progress: 1}
	if strings.HasPrefix(ref, "sim:") {
		c, err := sim.ParseRef(ref)
		if err != nil {
			return m, &Error{"INVALID_MODEL_REF", err.Error()}
		}
		m.MemoryEstimate, m.ContextLength = c.Memory, int64(c.Context)
		return m, nil
	}
	path, ok := strings.CutPrefix(ref, "file:")
	if !ok {
		return m, &Error{"INVALID_MODEL_REF", fmt.Sprintf("this hive has no store that can fetch %.120q; use a file: reference", ref)}
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsAny(path, "\x00\n\r") {
		return m, &Error{"INVALID_MODEL_REF", fmt.Sprintf("%.120q is not file: with a clean absolute path", ref)}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return m, &Error{"MODEL_NOT_FOUND", fmt.Sprintf("%s is not on %s; copy it there or correct the reference", path, b.node)}
	case err != nil:
		return m, &Error{"PROVISION_FAILED", fmt.Sprintf("%s can't be read: %v", path, err)}
	case !info.Mode().IsRegular() && !info.IsDir():
		return m, &Error{"INVALID_MODEL_REF", fmt.Sprintf("%s is neither a file nor a directory", path)}
	}
	m.Path, m.SizeBytes, m.LastUsedAt = path, info.Size(), time.Now().UTC()
	return m, nil
}

// Path looks a model up, whether it was asked for before or not.
func (b *Basic) Path(ctx context.Context, ref string) (string, error) {
	m, err := b.Provision(ctx, hiveapi.ProvisionRequest{ModelRef: ref}, func(hiveapi.Progress) {})
	if err != nil {
		return "", err
	}
	if m.Path == "" {
		return ref, nil
	}
	return m.Path, nil
}

// Evict forgets a model; its file is the operator's.
func (b *Basic) Evict(_ context.Context, ref string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.models[ref]; !ok {
		return &Error{"MODEL_NOT_FOUND", fmt.Sprintf("%.120q is not in this hive's store", ref)}
	}
	delete(b.models, ref)
	return nil
}

// Open serves nothing: the files are the operator's.
func (b *Basic) Open(string) (*os.File, error) {
	return nil, &Error{"MODEL_NOT_FOUND", "this hive serves no file with that checksum"}
}

func sum(ctx context.Context, path string, progress func(int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h, buf, done := sha256.New(), make([]byte, 1<<20), int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if done += int64(n); done%(64<<20) < int64(n) {
			progress(done)
		}
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
