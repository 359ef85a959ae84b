package provisioner

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Options tune a Provisioner. The zero value is usable.
type Options struct {
	Logger *slog.Logger
	Now    func() time.Time // nil means time.Now

	Entries []Entry           // from the configuration
	Aliases map[string]string // name -> reference or other name

	// Pin resolves the revision of an hf reference to a commit. Nil, or an error of it, leaves the
	// reference as it is; the machine that downloads it then says which commit it got.
	Pin func(ctx context.Context, ref Ref) (commit string, err error)
	// Inspect reads a model's metadata where this process can see the file; nil or an error means no.
	Inspect func(ctx context.Context, ref Ref) (Model, error)
	// Token is the credential for a reference's source, asked for each download and never kept.
	Token func(ref Ref) string
	// Retry, when given, wraps each attempt to provision: the package itself makes one.
	Retry func(ctx context.Context, op string, fn func(context.Context) error) error
	// Keep is how long a finished download can still be looked up; 0 means one hour.
	Keep time.Duration
}

// Provisioner holds names and downloads. All methods are safe for concurrent use.
type Provisioner struct {
	hives Hives
	store Store
	o     Options
	log   *slog.Logger
	needs needs

	ctx    context.Context // of background jobs; ended by Close
	cancel context.CancelFunc
	jobs   sync.WaitGroup

	edit sync.Mutex // serialises Put and Delete; taken before mu

	mu        sync.RWMutex
	config    map[string]Entry
	runtime   map[string]Entry
	aliases   map[string]string
	pins      map[string]string // hf reference as written -> pinned
	downloads map[string]*Download
	running   map[jobKey]*Download
	waiting   []Record // unfinished ones of an earlier life, until their machine is back
	closed    bool
}

type jobKey struct{ node, ref string }

// New loads what was added at run time and checks the configured entries. Unfinished downloads of an
// earlier life go on when Resume names their machine.
func New(ctx context.Context, hives Hives, store Store, o Options) (*Provisioner, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Keep <= 0 {
		o.Keep = time.Hour
	}
	p := &Provisioner{hives: hives, store: store, o: o, log: o.Logger, runtime: map[string]Entry{}, pins: map[string]string{},
		downloads: map[string]*Download{}, running: map[jobKey]*Download{}}
	if err := p.Configure(ctx, o.Entries, o.Aliases); err != nil {
		return nil, err
	}
	kept, err := store.Entries(ctx)
	if err != nil {
		return nil, fmt.Errorf("provisioner: load models: %w", err)
	}
	for _, e := range kept {
		e.Source = SourceRuntime
		p.runtime[e.Name] = e
		p.inspect(ctx, e.Ref)
	}
	if p.waiting, err = store.Downloads(ctx); err != nil {
		return nil, fmt.Errorf("provisioner: load downloads: %w", err)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Check says whether entries and aliases could be configured: names, references and where the aliases lead.
func Check(entries []Entry, aliases map[string]string) error {
	_, err := checked(entries, aliases)
	return err
}

// checked gives the entries by name, with canonical references.
func checked(entries []Entry, aliases map[string]string) (map[string]Entry, error) {
	config := make(map[string]Entry, len(entries))
	for _, e := range entries {
		e = e.clone()
		e.Source = SourceConfig
		if err := checkEntry(&e, aliases); err != nil {
			return nil, err
		}
		if _, twice := config[e.Name]; twice {
			return nil, &Error{Kind: ErrInvalidEntry, Model: e.Name, Message: "the name is configured twice"}
		}
		config[e.Name] = e
	}
	for name, target := range aliases {
		if r, err := ParseRef(name); err != nil || r.Scheme != SchemeAlias {
			return nil, &Error{Kind: ErrInvalidEntry, Model: name, Message: "an alias is a plain name", Err: err}
		}
		if _, err := ParseRef(target); err != nil {
			return nil, &Error{Kind: ErrInvalidEntry, Model: name, Message: "the alias points nowhere", Err: err}
		}
		if _, err := follow(name, aliases); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// Configure replaces the configured entries and aliases, all or none. What was added at run time stays.
func (p *Provisioner) Configure(ctx context.Context, entries []Entry, aliases map[string]string) error {
	config, err := checked(entries, aliases)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.config, p.aliases = config, maps.Clone(aliases)
	p.mu.Unlock()
	for _, e := range config {
		p.inspect(ctx, e.Ref)
	}
	return nil
}

// follow goes along aliases until something that is none.
func follow(name string, aliases map[string]string) (string, error) {
	for range 8 {
		next, ok := aliases[name]
		if !ok {
			return name, nil
		}
		name = next
	}
	return "", &Error{Kind: ErrInvalidEntry, Model: name, Message: "aliases point at each other in a circle or too far"}
}

// checkEntry validates an entry and makes its reference canonical.
func checkEntry(e *Entry, aliases map[string]string) error {
	fail := func(message string, err error) error {
		return &Error{Kind: ErrInvalidEntry, Model: e.Name, Message: message, Err: err}
	}
	if r, err := ParseRef(e.Name); err != nil || r.Scheme != SchemeAlias {
		return fail("a model's name is a plain name", err)
	}
	target, err := follow(e.Ref, aliases)
	if err != nil {
		return err
	}
	r, err := ParseRef(target)
	if err != nil {
		return err
	}
	if r.Scheme == SchemeAlias {
		return fail(fmt.Sprintf("ref %q is neither a reference (hf:, file:, ollama:, sim:, https:) nor an alias", e.Ref), nil)
	}
	e.Ref = r.String()
	if e.Slots < 0 || e.Context < 0 || e.Workers < 0 || e.TTL < 0 {
		return fail("slots, context, workers and ttl can't be negative", nil)
	}
	return nil
}

// inspect reads metadata of a model that this process can see itself.
func (p *Provisioner) inspect(ctx context.Context, ref string) {
	r, err := ParseRef(ref)
	if err != nil || p.o.Inspect == nil || r.Scheme == SchemeSim {
		return
	}
	m, err := p.o.Inspect(ctx, r)
	if err != nil {
		p.log.Debug("metadata not read", "ref", ref, "error", err)
		return
	}
	m.Ref = ref
	p.Learn(m)
}

// Resolve finds the entry behind a name that a client used: a model's name, an alias, or the exact
// reference of a model that is configured. Others are ErrModelNotFound: only configured models are for
// everyone.
func (p *Provisioner) Resolve(name string) (Entry, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if e, ok := p.entryLocked(name); ok {
		return e.clone(), nil
	}
	target, err := follow(name, p.aliases)
	if err != nil {
		return Entry{}, err
	}
	if e, ok := p.entryLocked(target); ok {
		return e.clone(), nil
	}
	r, err := ParseRef(target)
	if err != nil {
		return Entry{}, err
	}
	if r.Scheme != SchemeAlias {
		ref := r.String()
		if e, ok := p.byRefLocked(ref); ok {
			return e.clone(), nil
		}
		if target != name { // an alias for a reference
			return Entry{Name: name, Ref: ref, Source: SourceConfig}, nil
		}
	}
	return Entry{}, &Error{Kind: ErrModelNotFound, Model: r.String(), Message: "list the models with `rbee ls`, or add one with `rbee pull REF --as NAME`"}
}

// Listed reports whether a name is a model's or an alias. It allocates nothing, so that others can be looked up elsewhere first.
func (p *Provisioner) Listed(name string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if _, ok := p.entryLocked(name); ok {
		return true
	}
	_, ok := p.aliases[name]
	return ok
}

// ResolveRef is Resolve for operators: a bare reference is an entry too, with SourceRef.
func (p *Provisioner) ResolveRef(nameOrRef string) (Entry, error) {
	e, err := p.Resolve(nameOrRef)
	if err == nil {
		return e, nil
	}
	r, bad := ParseRef(nameOrRef)
	if bad != nil {
		return Entry{}, bad
	}
	if r.Scheme == SchemeAlias {
		return Entry{}, err
	}
	return Entry{Name: r.String(), Ref: r.String(), Source: SourceRef}, nil
}

func (p *Provisioner) entryLocked(name string) (Entry, bool) {
	if e, ok := p.runtime[name]; ok {
		return e, true
	}
	e, ok := p.config[name]
	return e, ok
}

func (p *Provisioner) byRefLocked(ref string) (Entry, bool) {
	best, found := Entry{}, false
	for _, m := range []map[string]Entry{p.config, p.runtime} {
		for _, e := range m {
			if e.Ref == ref && (!found || e.Name < best.Name) {
				best, found = e, true
			}
		}
	}
	return best, found
}

// Named finds the entry of a reference as a machine has it, which may be under a commit where the entry names none.
func (p *Provisioner) Named(ref string) (Entry, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if e, ok := p.byRefLocked(ref); ok {
		return e.clone(), true
	}
	for written, pinned := range p.pins {
		if pinned == ref {
			if e, ok := p.byRefLocked(written); ok {
				return e.clone(), true
			}
		}
	}
	r, err := ParseRef(ref)
	if err != nil || r.Scheme != SchemeHF {
		return Entry{}, false
	}
	r.Revision = ""
	e, ok := p.byRefLocked(r.String())
	return e.clone(), ok
}

// Entries lists the models by name, those added at run time included.
func (p *Provisioner) Entries() []Entry {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]Entry, 0, len(p.config)+len(p.runtime))
	for _, e := range p.runtime {
		out = append(out, e.clone())
	}
	for name, e := range p.config {
		if _, hidden := p.runtime[name]; !hidden {
			out = append(out, e.clone())
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Put adds a model or changes one, durably, without a restart. The revision of an hf reference is
// pinned to a commit where that is possible. A configured model with the name is hidden by it.
func (p *Provisioner) Put(ctx context.Context, e Entry) error {
	p.edit.Lock()
	defer p.edit.Unlock()
	e = e.clone()
	e.Source = SourceRuntime
	p.mu.RLock()
	aliases, closed := p.aliases, p.closed
	p.mu.RUnlock()
	if closed {
		return &Error{Kind: ErrClosed, Model: e.Name}
	}
	if err := checkEntry(&e, aliases); err != nil {
		return err
	}
	if _, taken := aliases[e.Name]; taken {
		return &Error{Kind: ErrConflict, Model: e.Name, Message: "the configuration has an alias with this name; choose another"}
	}
	e.Ref = p.pin(ctx, e.Ref)
	if err := p.store.SaveEntry(ctx, e); err != nil {
		return fmt.Errorf("provisioner: save model %s: %w", e.Name, err)
	}
	p.mu.Lock()
	p.runtime[e.Name] = e
	p.mu.Unlock()
	p.inspect(ctx, e.Ref)
	return nil
}

// Delete removes a model that was added at run time, durably. A configured one with its name shows again.
func (p *Provisioner) Delete(ctx context.Context, name string) error {
	p.edit.Lock()
	defer p.edit.Unlock()
	p.mu.RLock()
	_, added := p.runtime[name]
	_, configured := p.config[name]
	p.mu.RUnlock()
	switch {
	case !added && configured:
		return &Error{Kind: ErrConflict, Model: name, Message: "this model is in the configuration file; remove it there and send SIGHUP"}
	case !added:
		return &Error{Kind: ErrModelNotFound, Model: name, Message: "list the models with `rbee ls`"}
	}
	if err := p.store.DeleteEntry(ctx, name); err != nil {
		return fmt.Errorf("provisioner: delete model %s: %w", name, err)
	}
	p.mu.Lock()
	delete(p.runtime, name)
	p.mu.Unlock()
	return nil
}

// pin turns an hf reference into one with a commit, once; where that fails it stays as it is.
func (p *Provisioner) pin(ctx context.Context, ref string) string {
	r, err := ParseRef(ref)
	if err != nil || r.Pinned() || p.o.Pin == nil {
		return ref
	}
	p.mu.RLock()
	pinned, ok := p.pins[ref]
	p.mu.RUnlock()
	if ok {
		return pinned
	}
	commit, err := p.o.Pin(ctx, r)
	if err != nil || !commitHash(commit) {
		p.log.Warn("revision not pinned", "ref", ref, "error", err)
		return ref
	}
	r.Revision = commit
	p.mu.Lock()
	p.pins[ref] = r.String()
	p.mu.Unlock()
	return r.String()
}

// there is the commit of a reference that a machine has already, for when the hub can't be asked for the newest one.
func (p *Provisioner) there(ctx context.Context, node, ref string) string {
	want, err := ParseRef(ref)
	if err != nil || want.Pinned() || p.o.Pin == nil {
		return ref
	}
	models, err := p.hives.Models(ctx, node)
	if err != nil {
		return ref
	}
	for _, m := range models {
		if onDisk(m.State) && sameButCommit(m.Ref, want) {
			p.log.Info("the hub could not be asked; the model that the machine has is used", "ref", m.Ref, "node", node)
			return m.Ref
		}
	}
	return ref
}

// sameButCommit says that have is a commit of what want names without one.
func sameButCommit(have string, want Ref) bool {
	r, err := ParseRef(have)
	if err != nil || r.Scheme != SchemeHF || !r.Pinned() || want.Pinned() {
		return false
	}
	r.Revision = want.Revision
	return r.String() == want.String()
}

// Close cancels the downloads that run here; their records stay, so that Resume continues them in the
// next life. It is idempotent.
func (p *Provisioner) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.jobs.Wait()
	return nil
}
