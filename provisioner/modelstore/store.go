package modelstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
	"github.com/queen-rbee/queen-rbee/provisioner/hub"
)

// Store holds the models of one machine. All methods are safe for concurrent use.
type Store struct {
	dir  string
	root *os.Root
	lock *os.File
	o    Options
	log  *slog.Logger

	web *fetch.Client
	hub *hub.Client

	ctx    context.Context // of background work; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	space sync.Mutex // serialises the making of room; taken before index
	index sync.Mutex // serialises changes of the index on disk; taken before mu

	mu       sync.Mutex
	models   map[string]*Model
	uses     map[string]int
	jobs     map[string]*Job // that run, by reference
	partials map[string]chan struct{}
	unsynced map[string]bool // to be verified before use: an earlier life may not have brought them to the disk
	onDisk   map[string]bool // known to be on the disk
	closed   bool
}

// Open opens or creates the store in dir, which only one process may hold. What an earlier life left is
// checked: models whose files are gone are forgotten, those that may not have reached the disk before a
// power cut are verified when they are next asked for, stale partial files are removed.
func Open(dir string, o Options) (*Store, error) {
	o.defaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("modelstore: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("modelstore: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("modelstore: %w", err)
	}
	s := &Store{dir: dir, root: root, o: o, log: o.Logger, models: map[string]*Model{}, uses: map[string]int{}, jobs: map[string]*Job{},
		partials: map[string]chan struct{}{}, unsynced: map[string]bool{}, onDisk: map[string]bool{}}
	if err := s.open(); err != nil {
		if s.lock != nil {
			_ = s.lock.Close()
		}
		return nil, errors.Join(fmt.Errorf("modelstore: %s: %w", dir, err), root.Close())
	}
	allow := append(slices.Clone(o.Allow), o.AllowURLs...)
	if o.HFEndpoint != "" {
		allow = append(allow, o.HFEndpoint)
	}
	s.web = fetch.New(fetch.Options{Allow: allow, TLS: o.TLS})
	s.hub = hub.New(o.HFEndpoint, s.web)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Headroom == 0 {
		o.Headroom = 1 << 30
	}
	if o.Connections <= 0 {
		o.Connections = 4
	}
	if o.Chunk <= 0 {
		o.Chunk = 8 << 20
	}
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.PartialTTL <= 0 {
		o.PartialTTL = 7 * 24 * time.Hour
	}
	if o.Free == nil {
		o.Free = freeSpace
	}
}

func freeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// The places inside the store.
const (
	dirBlobs   = "blobs"   // sha256-HEX: verified content
	dirModels  = "models"  // KEY/...: the files of a model under their own names, hard links to blobs
	dirIndex   = "index"   // KEY.json: a Model
	dirPartial = "partial" // ID.data, ID.log: content on its way
)

func (s *Store) open() error {
	for _, d := range []string{dirBlobs, dirModels, dirIndex, dirPartial} {
		if err := s.root.MkdirAll(d, 0o700); err != nil {
			return err
		}
		if info, err := s.root.Lstat(d); err != nil || !info.IsDir() {
			return fmt.Errorf("%s is no directory", d)
		}
	}
	f, err := s.root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	s.lock = f
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%w; stop it first", ErrLocked)
	}
	return s.load()
}

// Close cancels what runs (it goes on when it is asked for again) and releases the directory. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
	s.web.Close()
	return errors.Join(s.lock.Close(), s.root.Close())
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Get finds a model that is ready.
func (s *Store) Get(ref string) (Model, bool) {
	s.mu.Lock()
	m, ok := s.models[ref]
	if !ok || s.unsynced[ref] {
		s.mu.Unlock()
		return s.inPlace(ref)
	}
	out := s.viewLocked(m)
	s.mu.Unlock()
	return out, true
}

func (s *Store) viewLocked(m *Model) Model {
	out := *m
	out.Files = slices.Clone(m.Files)
	out.Busy, out.Owned = s.uses[m.Ref] > 0, m.owned()
	return out
}

func (m *Model) owned() bool { return len(m.Files) > 0 && m.Files[0].SHA256 != "" }

// inPlace describes references that need no files of the store.
func (s *Store) inPlace(ref string) (Model, bool) {
	r, err := provisioner.ParseRef(ref)
	if err != nil {
		return Model{}, false
	}
	m := Model{Ref: ref}
	switch r.Scheme {
	case provisioner.SchemeSim, provisioner.SchemeOllama:
		return m, true
	case provisioner.SchemeFile:
		info, err := os.Stat(r.Path)
		if err != nil || !info.Mode().IsRegular() && !info.IsDir() {
			return m, false
		}
		m.Path, m.Added = r.Path, info.ModTime()
		if !info.IsDir() {
			m.SizeBytes = info.Size()
		}
		return m, true
	}
	return m, false
}

// List gives the models that are ready and were asked for, by reference.
func (s *Store) List() []Model {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Model, 0, len(s.models))
	for ref, m := range s.models {
		if !s.unsynced[ref] {
			out = append(out, s.viewLocked(m))
		}
	}
	slices.SortFunc(out, func(a, b Model) int { return cmp.Compare(a.Ref, b.Ref) })
	return out
}

// Jobs lists the downloads that run, by reference.
func (s *Store) Jobs() []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Job, 0, len(s.jobs))
	for _, j := range s.jobs {
		out = append(out, j)
	}
	slices.SortFunc(out, func(a, b *Job) int { return cmp.Compare(a.ref, b.ref) })
	return out
}

// Use locks a model against eviction until release is called, once or often.
func (s *Store) Use(ref string) (release func(), err error) {
	if _, ok := s.Get(ref); !ok {
		return nil, &Error{Kind: ErrNotFound, Ref: ref, Message: "provision it first"}
	}
	s.mu.Lock()
	s.uses[ref]++
	m := s.models[ref]
	if m != nil {
		m.LastUsed = s.o.Now()
		m.Uses++
	}
	s.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			s.mu.Lock()
			if s.uses[ref]--; s.uses[ref] <= 0 {
				delete(s.uses, ref)
			}
			m := s.models[ref]
			if m == nil || !m.owned() || s.closed {
				s.mu.Unlock()
				return
			}
			m.LastUsed = s.o.Now()
			s.mu.Unlock()
			if err := s.keep(ref); err != nil {
				s.log.Warn("last use not saved", "ref", ref, "error", err)
			}
		})
	}, nil
}

// Pin keeps a model from being chosen for removal, or lets it go again.
func (s *Store) Pin(ref string, pinned bool) error {
	s.mu.Lock()
	m, ok := s.models[ref]
	if !ok {
		s.mu.Unlock()
		return &Error{Kind: ErrNotFound, Ref: ref}
	}
	m.Pinned = pinned
	s.mu.Unlock()
	return s.keep(ref)
}

// keep writes a model's record as it is now, unless the model is gone.
func (s *Store) keep(ref string) error {
	s.index.Lock()
	defer s.index.Unlock()
	s.mu.Lock()
	m, ok := s.models[ref]
	if !ok || !m.owned() {
		s.mu.Unlock()
		return nil
	}
	record, synced := *m, s.onDisk[ref]
	s.mu.Unlock()
	return s.saveIndex(record, synced)
}

// Evict removes a model and the content that no other model shares. A model that is in use, or on its way,
// is ErrInUse. Files that lie outside the store stay where they are.
func (s *Store) Evict(ref string) error {
	s.index.Lock()
	defer s.index.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evictLocked(ref)
}

func (s *Store) evictLocked(ref string) error {
	m, ok := s.models[ref]
	switch {
	case s.uses[ref] > 0:
		return &Error{Kind: ErrInUse, Ref: ref, Message: "a worker runs it; stop that first"}
	case s.jobs[ref] != nil:
		return &Error{Kind: ErrInUse, Ref: ref, Message: "it is being downloaded; cancel that first"}
	case !ok:
		return &Error{Kind: ErrNotFound, Ref: ref, Message: "list the models with `rbee ls`"}
	}
	if m.owned() {
		// the index first: a half-removed model must not look ready
		if err := s.root.Remove(indexName(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &Error{Kind: ErrSource, Ref: ref, Message: "can't be removed", Err: err}
		}
	}
	delete(s.models, ref)
	delete(s.unsynced, ref)
	delete(s.onDisk, ref)
	if !m.owned() {
		return nil
	}
	err := s.root.RemoveAll(dirModels + "/" + key(ref))
	for _, f := range m.Files {
		if !s.sharedLocked(f.SHA256) {
			if rerr := s.root.Remove(blobName(f.SHA256)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}
	if err != nil {
		return &Error{Kind: ErrSource, Ref: ref, Message: "not all of it could be removed", Err: err}
	}
	return nil
}

// sharedLocked says that some model, ready or on its way, needs the content.
func (s *Store) sharedLocked(sum string) bool {
	for _, m := range s.models {
		for _, f := range m.Files {
			if f.SHA256 == sum {
				return true
			}
		}
	}
	for _, j := range s.jobs {
		if j.needs(sum) {
			return true
		}
	}
	return false
}

// OpenFile opens content by its checksum, for another machine. Only content of ready models is served.
func (s *Store) OpenFile(sum string) (*os.File, error) {
	sum = strings.TrimPrefix(sum, "sha256:")
	if !isSum(sum) {
		return nil, &Error{Kind: ErrNotFound, Ref: "sha256", Message: "a checksum is 64 hexadecimal digits"}
	}
	s.mu.Lock()
	known := false
	for ref, m := range s.models {
		known = known || !s.unsynced[ref] && slices.ContainsFunc(m.Files, func(f File) bool { return f.SHA256 == sum })
	}
	s.mu.Unlock()
	if !known {
		return nil, &Error{Kind: ErrNotFound, Ref: "sha256:" + sum, Message: "this machine has no such file"}
	}
	f, err := s.root.Open(blobName(sum))
	if err != nil {
		return nil, &Error{Kind: ErrNotFound, Ref: "sha256:" + sum, Err: err}
	}
	return f, nil
}
