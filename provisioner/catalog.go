package provisioner

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// CatalogEntry is a model over all machines.
type CatalogEntry struct {
	Entry
	Nodes         []string // that have its files
	SizeBytes     int64
	SHA256        string
	ContextLength int
	Parameters    int64
}

// catalogTimeout bounds how long one machine may hold up the catalog.
const catalogTimeout = 2 * time.Second

// Catalog lists every configured model and every other one that a machine has, by name, with what is
// known of it. A machine that does not answer in time is left out.
func (p *Provisioner) Catalog() []CatalogEntry {
	have := p.onHives(p.ctx)
	p.mu.RLock()
	aliases := p.aliases
	p.mu.RUnlock()
	entries := p.Entries()
	for alias := range aliases {
		if e, err := p.Resolve(alias); err == nil && !slices.ContainsFunc(entries, func(o Entry) bool { return o.Name == alias }) {
			e.Name = alias
			entries = append(entries, e)
		}
	}
	seen := map[string]bool{}
	out := make([]CatalogEntry, 0, len(entries))
	for _, e := range entries {
		refs := []string{e.Ref}
		p.mu.RLock()
		if pinned, ok := p.pins[e.Ref]; ok {
			refs = append(refs, pinned)
		}
		p.mu.RUnlock()
		c := CatalogEntry{Entry: e}
		for _, ref := range refs {
			seen[ref] = true
			c.add(have[ref])
		}
		if len(c.Nodes) == 0 {
			c.know(p.known(e.Ref))
		}
		out = append(out, c)
	}
	for ref, models := range have {
		if !seen[ref] {
			c := CatalogEntry{Entry: Entry{Name: ref, Ref: ref, Source: SourceRef}}
			c.add(models)
			if len(c.Nodes) > 0 {
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b CatalogEntry) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (c *CatalogEntry) add(models []Model) {
	for _, m := range models {
		if onDisk(m.State) {
			c.Nodes = append(c.Nodes, m.Node)
			c.know(m)
		}
	}
	slices.Sort(c.Nodes)
}

// onDisk says that a machine in this state has the model's files.
func onDisk(state string) bool { return state == StateReady || state == "loaded" || state == "loading" }

func (c *CatalogEntry) know(m Model) {
	c.SizeBytes, c.SHA256 = max(c.SizeBytes, m.SizeBytes), cmp.Or(m.SHA256, c.SHA256)
	c.ContextLength, c.Parameters = max(c.ContextLength, m.ContextLength), max(c.Parameters, m.Parameters)
}

func (p *Provisioner) known(ref string) Model {
	p.needs.mu.RLock()
	defer p.needs.mu.RUnlock()
	if i := p.needs.known[ref]; i != nil {
		return i.model
	}
	return Model{}
}

// onHives asks every machine at once what it has, and learns from the answers.
func (p *Provisioner) onHives(ctx context.Context) map[string][]Model {
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		out = map[string][]Model{}
	)
	for _, node := range p.hives.Nodes() {
		wg.Go(func() {
			models, err := p.hives.Models(ctx, node)
			if err != nil {
				p.log.Debug("models not listed", "node", node, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, m := range models {
				m.Node = node
				out[m.Ref] = append(out[m.Ref], m)
				if m.State != StateFailed && m.State != StateDownloading {
					p.Learn(m)
				}
			}
		})
	}
	wg.Wait()
	return out
}

// Evict drops a model's files from a machine. It is refused while they are in use.
func (p *Provisioner) Evict(ctx context.Context, node, nameOrRef string) error {
	e, err := p.ResolveRef(nameOrRef)
	if err != nil {
		return err
	}
	return p.hives.Evict(ctx, node, p.onNode(ctx, node, e.Ref))
}

// onNode is the name under which a machine has the model: as written, or with a commit.
func (p *Provisioner) onNode(ctx context.Context, node, ref string) string {
	p.mu.RLock()
	pinned, ok := p.pins[ref]
	p.mu.RUnlock()
	models, err := p.hives.Models(ctx, node)
	if err == nil && slices.ContainsFunc(models, func(m Model) bool { return m.Ref == ref }) {
		return ref
	}
	if ok {
		return pinned
	}
	if want, err := ParseRef(ref); err == nil {
		for _, m := range models {
			if sameButCommit(m.Ref, want) {
				return m.Ref
			}
		}
	}
	return ref
}
