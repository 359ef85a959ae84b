package modelstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"path/filepath"
)

// recheck verifies a model that an earlier life installed but may not have brought to the disk.
func (s *Store) recheck(ctx context.Context, j *Job, req Request) (Model, bool) {
	s.mu.Lock()
	m, ok := s.models[req.Ref]
	if !ok || req.SHA256 != "" && req.SHA256 != m.SHA256 {
		s.mu.Unlock()
		return Model{}, false
	}
	rec := *m
	s.mu.Unlock()
	j.total.Store(rec.SizeBytes)
	j.state(Verifying, "", "checking what was there before")
	for _, f := range rec.Files {
		sum, err := sumFile(ctx, filepath.Join(s.dir, blobName(f.SHA256)), &j.fetched)
		if ctx.Err() != nil {
			return Model{}, false
		}
		if err != nil || sum != f.SHA256 {
			s.log.Warn("content damaged, fetching it again", "ref", req.Ref, "file", f.Path, "error", err)
			s.forget(req.Ref, f.SHA256)
			j.fetched.Store(0)
			return Model{}, false
		}
	}
	s.settle(rec)
	return rec, true
}

// forget drops a damaged model so that it is fetched again.
func (s *Store) forget(ref, sum string) {
	s.index.Lock()
	defer s.index.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.root.Remove(indexName(ref))
	delete(s.models, ref)
	delete(s.unsynced, ref)
	delete(s.onDisk, ref)
	_ = s.root.RemoveAll(dirModels + "/" + key(ref))
	_ = s.root.Remove(blobName(sum))
}

// settle brings an installed model to the disk in the background and notes that it is there.
func (s *Store) settle(m Model) {
	s.mu.Lock()
	delete(s.unsynced, m.Ref)
	s.mu.Unlock()
	s.work.Go(func() {
		for _, f := range m.Files {
			if err := s.syncBlob(f.SHA256); err != nil {
				s.log.Warn("content not synced; it will be verified after a restart", "ref", m.Ref, "error", err)
				return
			}
		}
		s.mu.Lock()
		if now, ok := s.models[m.Ref]; ok && now.SHA256 == m.SHA256 {
			s.onDisk[m.Ref] = true
		}
		s.mu.Unlock()
		if err := s.keep(m.Ref); err != nil {
			s.log.Warn("index not saved", "ref", m.Ref, "error", err)
		}
	})
}

func (s *Store) syncBlob(sum string) error {
	f, err := s.root.Open(blobName(sum))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// contentSum is the checksum of one file, or of the list of several.
func contentSum(files []File) string {
	if len(files) == 1 {
		return files[0].SHA256
	}
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s  %s\n", f.SHA256, f.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// install gives the content its names and writes the index.
func (s *Store) install(m Model, main string) (Model, error) {
	fail := func(err error) (Model, error) {
		return Model{}, s.diskError(m.Ref, "the model can't be installed", err)
	}
	dir := dirModels + "/" + key(m.Ref)
	if err := s.root.RemoveAll(dir); err != nil {
		return fail(err)
	}
	for _, f := range m.Files {
		name := dir + "/" + f.Path
		if err := s.root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return fail(err)
		}
		if err := s.root.Link(blobName(f.SHA256), name); err != nil {
			return fail(err)
		}
	}
	m.Path = filepath.Join(s.dir, filepath.FromSlash(dir), filepath.FromSlash(main))
	m.Info = s.inspect(m.Path)
	s.mu.Lock()
	if old := s.models[m.Ref]; old != nil {
		m.Pinned, m.Uses = old.Pinned, old.Uses
	}
	kept := m
	s.models[m.Ref] = &kept
	delete(s.onDisk, m.Ref)
	s.mu.Unlock()
	if err := s.keep(m.Ref); err != nil {
		s.mu.Lock()
		delete(s.models, m.Ref)
		s.mu.Unlock()
		return fail(err)
	}
	s.settle(m)
	return m, nil
}
