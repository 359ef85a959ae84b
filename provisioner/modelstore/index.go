package modelstore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

// record is a Model on disk.
type record struct {
	Model
	Main   string `json:"main"`   // inside the model's directory; "" is the directory
	Synced bool   `json:"synced"` // the content is known to be on the disk, not only in its cache
}

// key names a model's files: a reference is data and never becomes a path.
func key(ref string) string {
	sum := sha256.Sum256([]byte(ref))
	return hex.EncodeToString(sum[:16])
}

func indexName(ref string) string { return dirIndex + "/" + key(ref) + ".json" }
func blobName(sum string) string  { return dirBlobs + "/sha256-" + sum }

func isSum(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// saveIndex writes a model's record atomically; a kill at any moment leaves the old one or the new one.
func (s *Store) saveIndex(m Model, synced bool) error {
	main, err := filepath.Rel(filepath.Join(s.dir, dirModels, key(m.Ref)), m.Path)
	if err != nil {
		return err
	}
	if main == "." {
		main = ""
	}
	m.Path = ""
	raw, err := json.MarshalIndent(record{Model: m, Main: filepath.ToSlash(main), Synced: synced}, "", " ")
	if err != nil {
		return err
	}
	return s.writeAtomic(indexName(m.Ref), raw, synced)
}

func (s *Store) writeAtomic(name string, data []byte, sync bool) error {
	tmp := name + ".tmp"
	f, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if sync {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, s.root.Remove(tmp))
	}
	return s.root.Rename(tmp, name)
}

// load reads the index and removes what is stale.
func (s *Store) load() error {
	entries, err := fs.ReadDir(s.root.FS(), dirIndex)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := dirIndex + "/" + e.Name()
		if !strings.HasSuffix(e.Name(), ".json") {
			_ = s.root.Remove(name)
			continue
		}
		rec, err := s.readRecord(name)
		if err != nil {
			s.log.Warn("index entry dropped", "file", name, "error", err)
			_ = s.root.Remove(name)
			continue
		}
		m := rec.Model
		m.Path = filepath.Join(s.dir, dirModels, key(m.Ref), filepath.FromSlash(rec.Main))
		s.models[m.Ref] = &m
		if rec.Synced {
			s.onDisk[m.Ref] = true
		} else {
			s.unsynced[m.Ref] = true
		}
	}
	s.sweepModels()
	s.sweepContent()
	return nil
}

// readRecord reads and checks one index entry against the files.
func (s *Store) readRecord(name string) (record, error) {
	var rec record
	raw, err := s.root.ReadFile(name)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, err
	}
	if _, err := provisioner.ParseRef(rec.Ref); err != nil || indexName(rec.Ref) != name {
		return rec, errors.New("it is not about the reference that it is filed under")
	}
	if len(rec.Files) == 0 || rec.Main != "" && !fs.ValidPath(rec.Main) {
		return rec, errors.New("it names no files")
	}
	for _, f := range rec.Files {
		if !isSum(f.SHA256) || !fs.ValidPath(f.Path) {
			return rec, fmt.Errorf("it names an odd file %.80q", f.Path)
		}
		for _, p := range []string{blobName(f.SHA256), dirModels + "/" + key(rec.Ref) + "/" + f.Path} {
			info, err := s.root.Lstat(p)
			if err != nil {
				return rec, err
			}
			if !info.Mode().IsRegular() || info.Size() != f.Size {
				return rec, fmt.Errorf("%s is not the regular file of %d bytes that it should be", p, f.Size)
			}
		}
	}
	return rec, nil
}

// sweepModels removes directories that no index entry is about.
func (s *Store) sweepModels() {
	keep := map[string]bool{}
	for ref := range s.models {
		keep[key(ref)] = true
	}
	entries, err := fs.ReadDir(s.root.FS(), dirModels)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			_ = s.root.RemoveAll(dirModels + "/" + e.Name())
		}
	}
}

// sweepContent removes partial files that nobody came back for, and verified content that no model uses,
// both after PartialTTL: until then a download may continue with them.
func (s *Store) sweepContent() {
	used := map[string]bool{}
	for _, m := range s.models {
		for _, f := range m.Files {
			used["sha256-"+f.SHA256] = true
		}
	}
	limit := s.o.Now().Add(-s.o.PartialTTL)
	for _, dir := range []string{dirPartial, dirBlobs} {
		entries, err := fs.ReadDir(s.root.FS(), dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			info, err := s.root.Lstat(name)
			if err != nil || dir == dirBlobs && used[e.Name()] {
				continue
			}
			if !info.Mode().IsRegular() || info.ModTime().Before(limit) {
				s.log.Info("stale content removed", "file", name)
				_ = s.root.RemoveAll(name)
			}
		}
	}
}
