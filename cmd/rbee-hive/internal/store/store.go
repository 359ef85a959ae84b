// Package store speaks the hive's language about the models that provisioner/modelstore keeps.
package store

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/gguf"
	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

// Options say where models may come from.
type Options struct {
	Logger     *slog.Logger
	HFEndpoint string   // "" = the public hub
	AllowURLs  []string // what https: references may begin with
	AllowHosts []string // further hosts that may be private or speak plain http
	Budget     int64    // bytes; 0 = as much as the disk has
	HubToken   string   // for requests that bring none
}

// Store holds the models of one machine. Its methods are safe for concurrent use.
type Store struct {
	node string
	o    Options
	ms   *modelstore.Store
}

// Open opens the store in dir.
func Open(dir, node string, o Options) (*Store, error) {
	ms, err := modelstore.Open(dir, modelstore.Options{Logger: o.Logger, HFEndpoint: o.HFEndpoint, AllowURLs: o.AllowURLs, Allow: o.AllowHosts,
		Budget: o.Budget, Inspect: gguf.Inspect, Evictor: makeRoom})
	if err != nil {
		return nil, err
	}
	return &Store{node: node, o: o, ms: ms}, nil
}

// Close stops downloads; they go on when they are asked for again.
func (s *Store) Close() error { return s.ms.Close() }

// Models lists what is there, by reference.
func (s *Store) Models(context.Context) []hiveapi.Model {
	list := s.ms.List()
	out := make([]hiveapi.Model, 0, len(list))
	for _, m := range list {
		out = append(out, s.model(m))
	}
	slices.SortFunc(out, func(a, b hiveapi.Model) int { return strings.Compare(a.ModelRef, b.ModelRef) })
	return out
}

// Provision makes a model available and returns when it is.
func (s *Store) Provision(ctx context.Context, r hiveapi.ProvisionRequest, progress func(hiveapi.Progress)) (hiveapi.Model, error) {
	if strings.HasPrefix(r.ModelRef, "sim:") {
		if _, err := sim.ParseRef(r.ModelRef); err != nil {
			return hiveapi.Model{}, &refError{err}
		}
	}
	req := modelstore.Request{Ref: r.ModelRef, SHA256: r.SHA256, Token: r.HubToken, DeviceMemory: r.DeviceMemory}
	if req.Token == "" {
		req.Token = s.o.HubToken
	}
	for _, src := range r.Sources {
		req.Peers = append(req.Peers, modelstore.Peer{URL: src.URL, Authorization: src.Authorization})
	}
	job, err := s.ms.Ensure(ctx, req)
	if err != nil {
		return hiveapi.Model{}, err
	}
	ectx, cancel := context.WithCancel(ctx)
	defer cancel()
	for p := range job.Events(ectx) {
		if !p.State.Final() {
			progress(hiveapi.Progress{State: hiveapi.ModelDownloading, Phase: string(p.State), File: p.File, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, Rate: p.Rate, ETASeconds: p.ETA.Seconds(), Message: message(p)})
		}
	}
	m, err := job.Wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			job.Cancel()
		}
		return hiveapi.Model{}, err
	}
	return s.model(m), nil
}

func message(p modelstore.Progress) string {
	if p.Message != "" {
		return p.Message
	}
	return strings.TrimSpace(string(p.State) + " " + p.File)
}

// Path is what an engine is given for a model. What needs no download is looked up on the spot.
func (s *Store) Path(ctx context.Context, ref string) (string, error) {
	if m, ok := s.ms.Get(Canonical(ref)); ok && m.Path != "" && m.Owned {
		return m.Path, nil
	}
	if !local(ref) {
		return "", &modelstore.Error{Kind: modelstore.ErrNotFound, Ref: ref, Message: "provision it on this machine first"}
	}
	m, err := s.Provision(ctx, hiveapi.ProvisionRequest{ModelRef: ref}, func(hiveapi.Progress) {})
	if err != nil {
		return "", err
	}
	if m.Path == "" {
		return ref, nil
	}
	return m.Path, nil
}

// Model is the record of a model that is here.
func (s *Store) Model(ref string) (hiveapi.Model, bool) {
	m, ok := s.ms.Get(Canonical(ref))
	if !ok {
		return hiveapi.Model{}, false
	}
	return s.model(m), true
}

// local says that a reference names something that lies on this machine or needs no file.
func local(ref string) bool {
	return strings.HasPrefix(ref, "file:") || strings.HasPrefix(ref, "sim:") || strings.HasPrefix(ref, "ollama:")
}

// Use keeps a model from being dropped until release is called. ok is false for one that the store does not have, or
// has yet to verify after a crash.
func (s *Store) Use(ref string) (release func(), ok bool) {
	release, err := s.ms.Use(Canonical(ref))
	return release, err == nil
}

// Evict removes a model. Files that the store does not own stay where they are.
func (s *Store) Evict(ref string) error { return s.ms.Evict(Canonical(ref)) }

// Open gives the file with a checksum, for another hive.
func (s *Store) Open(sha256 string) (*os.File, error) { return s.ms.OpenFile(sha256) }

// Canonical is the form in which the store lists a reference.
func Canonical(ref string) string {
	r, err := provisioner.ParseRef(ref)
	if err != nil {
		return ref
	}
	return r.String()
}

func (s *Store) model(m modelstore.Model) hiveapi.Model {
	out := hiveapi.Model{Model: m.Ref, ModelRef: m.Ref, Node: s.node, State: hiveapi.ModelReady, Progress: 1, Path: m.Path, SizeBytes: m.SizeBytes, SHA256: m.SHA256,
		Commit: m.Commit, Choice: m.Choice, Pinned: m.Pinned, LastUsedAt: m.LastUsed, ContextLength: int64(m.Info.ContextLength), Parameters: m.Info.Parameters, Layers: m.Info.Layers,
		Architecture: m.Info.Architecture, Quantization: m.Info.Quantization, Memory: hiveapi.Memory(m.Info.Memory)}
	if c, err := sim.ParseRef(m.Ref); err == nil {
		out.MemoryEstimate, out.ContextLength = c.Memory, int64(c.Context)
		out.Memory = hiveapi.Memory{Fixed: c.Memory}
	}
	return out
}

// refError is a reference that the simulator does not understand.
type refError struct{ error }

// Code is the contract's code.
func (*refError) Code() string { return "INVALID_MODEL_REF" }

// Unwrap gives the cause.
func (e *refError) Unwrap() error { return e.error }
