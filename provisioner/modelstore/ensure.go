package modelstore

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
	"github.com/queen-rbee/queen-rbee/provisioner/hub"
)

// want is a file to get.
type want struct {
	Path   string
	Size   int64  // -1: not known
	SHA256 string // "": not known
	GitOID string // git's checksum, of small files of a hub
	ETag   string // the server's word for this content, where no checksum is known
}

// plan is what a reference comes down to.
type plan struct {
	files  []want
	main   string // "" is the directory
	commit string
	choice string
	origin func(w want) source
}

// Ensure makes the model available and returns the job that does, shared with everybody else who asks;
// the job of a model that is there is over already. It goes on when ctx ends: ctx is for this call only.
func (s *Store) Ensure(ctx context.Context, req Request) (*Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ref, err := provisioner.ParseRef(req.Ref)
	if err != nil {
		return nil, err
	}
	if ref.Scheme == provisioner.SchemeAlias {
		return nil, &provisioner.Error{Kind: provisioner.ErrInvalidRef, Model: req.Ref, Message: "a machine takes canonical references only (hf:, file:, https:, sim:, ollama:)"}
	}
	req.Ref = ref.String()
	req.SHA256 = strings.ToLower(strings.TrimPrefix(req.SHA256, "sha256:"))
	if req.SHA256 != "" && !isSum(req.SHA256) {
		return nil, &Error{Kind: ErrCorrupt, Ref: req.Ref, Message: "the required sha256 is not 64 hexadecimal digits"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &Error{Kind: ErrClosed, Ref: req.Ref}
	}
	if j, ok := s.jobs[req.Ref]; ok {
		return j, nil
	}
	jobCtx, cancel := context.WithCancelCause(s.ctx)
	j := newJob("mj-"+rand.Text()[:16], req.Ref, s.o.Now, cancel)
	if m, ok := s.models[req.Ref]; ok && m.owned() && !s.unsynced[req.Ref] && (req.SHA256 == "" || req.SHA256 == m.SHA256) {
		m.LastUsed = s.o.Now() // who asks for it does not want it to be the next to go
		s.work.Go(func() {
			if err := s.keep(req.Ref); err != nil {
				s.log.Warn("last use not saved", "ref", req.Ref, "error", err)
			}
		})
		j.end(s.viewLocked(m), nil)
		cancel(nil)
		return j, nil
	}
	s.jobs[req.Ref] = j
	s.work.Go(func() { s.run(jobCtx, j, ref, req) })
	return j, nil
}

// run is the work of one job.
func (s *Store) run(ctx context.Context, j *Job, ref provisioner.Ref, req Request) {
	defer j.cancel(nil)
	stop := make(chan struct{})
	s.work.Go(func() { j.watch(stop) })
	m, err := s.provide(ctx, j, ref, req)
	close(stop)
	if err != nil {
		switch {
		case errors.Is(context.Cause(ctx), ErrCancelled):
			err = &Error{Kind: ErrCancelled, Ref: req.Ref, Message: "what was downloaded stays for the next time"}
		case s.ctx.Err() != nil:
			err = &Error{Kind: ErrClosed, Ref: req.Ref, Message: "the download goes on when it is asked for again"}
		}
	}
	s.mu.Lock()
	delete(s.jobs, req.Ref)
	if err == nil {
		now := s.models[req.Ref]
		if now == nil || !m.owned() { // nothing of the store's own: file:, sim:, ollama:
			kept := m
			if now != nil {
				kept.Pinned, kept.Uses = now.Pinned, now.Uses
			}
			now = &kept
			s.models[req.Ref] = now
		}
		m = s.viewLocked(now)
	}
	s.mu.Unlock()
	j.end(m, err)
}

func (s *Store) provide(ctx context.Context, j *Job, ref provisioner.Ref, req Request) (Model, error) {
	switch ref.Scheme {
	case provisioner.SchemeSim, provisioner.SchemeOllama:
		return Model{Ref: req.Ref, Added: s.o.Now(), LastUsed: s.o.Now()}, nil
	case provisioner.SchemeFile:
		return s.local(ctx, j, ref, req)
	}
	if m, ok := s.recheck(ctx, j, req); ok {
		return m, nil
	}
	var p plan
	var err error
	if ref.Scheme == provisioner.SchemeHF {
		p, err = s.planHub(ctx, ref, req)
	} else {
		p, err = s.planURL(ref, req)
	}
	if err != nil {
		return Model{}, err
	}
	return s.carryOut(ctx, j, req, p)
}

// local uses a file where it lies.
func (s *Store) local(ctx context.Context, j *Job, ref provisioner.Ref, req Request) (Model, error) {
	fail := func(kind error, message string, err error) (Model, error) {
		return Model{}, &Error{Kind: kind, Ref: req.Ref, Message: message, Err: err}
	}
	info, err := os.Stat(ref.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail(ErrNotFound, "the file is not on this machine; copy it there or correct the reference", nil)
	case err != nil:
		return fail(ErrSource, "the file can't be read", err)
	case !info.Mode().IsRegular() && !info.IsDir():
		return fail(ErrSource, "it is neither a file nor a directory", nil)
	}
	m := Model{Ref: req.Ref, Path: ref.Path, Added: info.ModTime(), LastUsed: s.o.Now()}
	if info.IsDir() {
		return m, nil
	}
	m.SizeBytes = info.Size()
	j.total.Store(info.Size())
	if strings.EqualFold(filepath.Ext(ref.Path), ".gguf") {
		f, err := os.Open(ref.Path)
		if err != nil {
			return fail(ErrSource, "the file can't be read", err)
		}
		err = checkMagic(f)
		_ = f.Close()
		if err != nil {
			return fail(ErrCorrupt, err.Error(), nil)
		}
	}
	if req.SHA256 != "" {
		j.state(Verifying, path.Base(ref.Path), "checking the file")
		if m.SHA256, err = sumFile(ctx, ref.Path, &j.fetched); err != nil {
			return fail(ErrSource, "the file can't be read", err)
		}
		if m.SHA256 != req.SHA256 {
			return fail(ErrCorrupt, "it has sha256 "+m.SHA256+" and not "+req.SHA256+"; it is damaged or another file", nil)
		}
	}
	m.Info = s.inspect(m.Path)
	return m, nil
}

// checkMagic refuses what calls itself GGUF and is not: a page, a Git LFS pointer, a cut file.
func checkMagic(r io.ReaderAt) error {
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil || string(magic[:]) != "GGUF" {
		return errors.New("it does not begin like a GGUF file; it may be an HTML page, a Git LFS pointer or a cut copy")
	}
	return nil
}

func (s *Store) inspect(p string) Info {
	if s.o.Inspect == nil {
		return Info{}
	}
	info, err := s.o.Inspect(p)
	if err != nil {
		s.log.Warn("metadata not read", "file", filepath.Base(p), "error", err)
		return Info{}
	}
	return info
}

// planHub asks the hub what to fetch; where it can't be reached, a peer that has the model will do.
func (s *Store) planHub(ctx context.Context, ref provisioner.Ref, req Request) (plan, error) {
	var commit string
	var files []hub.File
	err := s.retry(ctx, "hub", func(ctx context.Context) (err error) {
		if commit, err = s.hub.Commit(ctx, ref, req.Token); err != nil {
			return err
		}
		files, err = s.hub.Files(ctx, ref, commit, req.Token)
		return err
	})
	if err != nil {
		for _, p := range req.Peers {
			if len(p.Files) > 0 && ctx.Err() == nil {
				return s.planPeer(req, p)
			}
		}
		return plan{}, err
	}
	choice, err := hub.Choose(files, ref.File, req.DeviceMemory)
	if err != nil {
		return plan{}, &Error{Kind: ErrNotFound, Ref: req.Ref, Message: err.Error()}
	}
	auth := ""
	if req.Token != "" {
		auth = "Bearer " + req.Token
	}
	p := plan{main: choice.Main, commit: commit, choice: choice.Reason,
		origin: func(w want) source {
			return source{client: s.web, url: s.hub.URL(ref, commit, w.Path), auth: auth, ref: ref}
		}}
	for _, f := range choice.Files {
		p.files = append(p.files, want{Path: f.Path, Size: f.Size, SHA256: f.SHA256, GitOID: f.GitOID})
	}
	return p, nil
}

func (s *Store) planPeer(req Request, peer Peer) (plan, error) {
	p := plan{commit: peer.Commit, choice: "as another machine of the fleet has it; the hub could not be reached"}
	for _, f := range peer.Files {
		if !isSum(f.SHA256) || f.Size < 0 || !plainPath(f.Path) {
			return plan{}, &Error{Kind: ErrSource, Ref: req.Ref, Message: "the other machine's list of files is odd"}
		}
		p.files = append(p.files, want{Path: f.Path, Size: f.Size, SHA256: f.SHA256})
	}
	if strings.HasSuffix(p.files[0].Path, ".gguf") {
		p.main = p.files[0].Path
	}
	return p, nil
}

// planURL is the plan for an https: reference that the operator allowed.
func (s *Store) planURL(ref provisioner.Ref, req Request) (plan, error) {
	u, err := url.Parse(ref.URL)
	if err != nil {
		return plan{}, &Error{Kind: ErrForbidden, Ref: req.Ref, Message: "the URL can't be read"}
	}
	allowed := false
	for _, a := range s.o.AllowURLs {
		if !strings.Contains(a, "://") {
			a = "https://" + a
		}
		base, err := url.Parse(a)
		if err != nil || !strings.EqualFold(base.Host, u.Host) {
			continue
		}
		prefix := strings.TrimSuffix(base.Path, "/")
		allowed = allowed || u.Path == prefix || strings.HasPrefix(u.Path, prefix+"/")
	}
	if !allowed {
		return plan{}, &Error{Kind: ErrForbidden, Ref: req.Ref, Message: "an operator has to allow this address first: start the hive with --allow-url"}
	}
	name := path.Base(u.Path)
	if !plainPath(name) {
		return plan{}, &Error{Kind: ErrForbidden, Ref: req.Ref, Message: "the URL names no plain file"}
	}
	return plan{main: name, files: []want{{Path: name, Size: -1, SHA256: req.SHA256}},
		origin: func(want) source { return source{client: s.web, url: ref.URL, ref: ref} }}, nil
}

func plainPath(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 || strings.ContainsAny(part, "\\\x00") {
			return false
		}
	}
	return true
}

// carryOut makes room, fetches what is missing and installs the model.
func (s *Store) carryOut(ctx context.Context, j *Job, req Request, p plan) (Model, error) {
	if req.SHA256 != "" && len(p.files) == 1 {
		if have := p.files[0].SHA256; have != "" && have != req.SHA256 {
			return Model{}, &Error{Kind: ErrCorrupt, Ref: req.Ref, Message: "the source has sha256 " + have + " and not the required " + req.SHA256 + "; the file changed there: pin a revision"}
		}
		p.files[0].SHA256 = req.SHA256
	}
	var total int64
	for i, w := range p.files {
		if w.Size < 0 {
			size, etag, err := s.probe(ctx, p.origin(w))
			if err != nil {
				return Model{}, s.sourceError(req.Ref, w.Path, err)
			}
			p.files[i].Size, p.files[i].ETag = size, etag
		}
		total += p.files[i].Size
	}
	j.about(p.files)
	j.total.Store(total)
	if err := s.makeRoom(ctx, j, p.files); err != nil {
		return Model{}, err
	}
	m := Model{Ref: req.Ref, Commit: p.commit, Choice: p.choice, SizeBytes: total, Added: s.o.Now(), LastUsed: s.o.Now()}
	if p.choice != "" {
		j.state(Downloading, "", p.choice)
	}
	clients := s.peers(req.Peers)
	defer clients.close()
	for _, w := range p.files {
		if w.SHA256 != "" {
			w.ETag = "" // the checksum says more
		}
		var sources []source
		if w.SHA256 != "" {
			sources = clients.sources(w.SHA256)
		}
		if p.origin != nil {
			sources = append(sources, p.origin(w))
		}
		sum, err := s.file(ctx, j, req.Ref, w, sources)
		if err != nil {
			return Model{}, err
		}
		j.about([]want{{SHA256: sum}})
		m.Files = append(m.Files, File{Path: w.Path, Size: w.Size, SHA256: sum})
	}
	m.SHA256 = contentSum(m.Files)
	if req.SHA256 != "" && req.SHA256 != m.SHA256 {
		return Model{}, &Error{Kind: ErrCorrupt, Ref: req.Ref, Message: "the files have the sum " + m.SHA256 + " and not the required " + req.SHA256}
	}
	return s.install(m, p.main)
}

// retry wraps a request in the caller's hook.
func (s *Store) retry(ctx context.Context, op string, fn func(context.Context) error) error {
	if s.o.Retry == nil {
		return fn(ctx)
	}
	return s.o.Retry(ctx, op, fn)
}

// sourceError says what went wrong with a source, in the hub's words where it is one.
func (s *Store) sourceError(ref, file string, err error) error {
	var mine *Error
	if errors.As(err, &mine) {
		return err
	}
	if r, perr := provisioner.ParseRef(ref); perr == nil && r.Scheme == provisioner.SchemeHF {
		var fe *fetch.Error
		if errors.As(err, &fe) && fe.Status != 0 {
			return hub.Explain(r, err)
		}
	}
	return &Error{Kind: ErrSource, Ref: ref, Message: file, Err: err}
}
