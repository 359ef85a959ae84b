package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// link makes a tree's program the active one, in one step: bin/PROGRAM points to the old or to the new, never nowhere.
func (in *Installer) link(p Package, final string) error {
	program, err := findProgram(final, p.Program)
	if err != nil {
		return installFailed(p, "its program is gone", err)
	}
	bin := filepath.Join(in.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return installFailed(p, "it can't be activated", err)
	}
	target, err := filepath.Rel(bin, program)
	if err != nil {
		return installFailed(p, "it can't be activated", err)
	}
	tmp := filepath.Join(bin, "."+p.Program+".new")
	_ = os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return installFailed(p, "it can't be activated", err)
	}
	if err := os.Rename(tmp, filepath.Join(bin, p.Program)); err != nil {
		return installFailed(p, "it can't be activated", err)
	}
	return nil
}

// Use switches to an installed version; backend may be empty when there is one only.
func (in *Installer) Use(engine, version, backend string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	e, err := in.find(engine, version, backend)
	if err != nil {
		return err
	}
	return in.link(Package{Engine: engine, Version: e.Version, Backend: e.Backend, Program: filepath.Base(e.Path)}, e.tree)
}

// Remove deletes an installed version. The active one is refused.
func (in *Installer) Remove(engine, version, backend string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	e, err := in.find(engine, version, backend)
	if err != nil {
		return err
	}
	if e.Active {
		return &Error{Name: "CONFLICT", Message: fmt.Sprintf("%s %s is the active version; switch to another one first", engine, version)}
	}
	// Out of the way in one step, so that nobody finds half a tree.
	if err := os.MkdirAll(filepath.Join(in.dir, "tmp"), 0o700); err != nil {
		return err
	}
	gone := filepath.Join(in.dir, "tmp", "removed-"+randomHex(8))
	if err := os.Rename(e.tree, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// installed is one version with its place.
type installed struct {
	hiveapi.Engine
	tree string
}

// List gives the installed versions, by engine and version.
func (in *Installer) List() []hiveapi.Engine {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []hiveapi.Engine
	for _, e := range in.all() {
		out = append(out, e.Engine)
	}
	return out
}

func (in *Installer) find(engine, version, backend string) (installed, error) {
	var hits []installed
	for _, e := range in.all() {
		if e.Name == engine && e.Version == version && (backend == "" || e.Backend == backend) {
			hits = append(hits, e)
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return installed{}, invalid("%.60s %.60s is not installed here; list what is with `rbee engine ls`", engine, version)
	}
	return installed{}, invalid("%s %s is installed for several backends; say which one", engine, version)
}

func (in *Installer) all() []installed {
	active := in.active()
	var out []installed
	dirs, err := filepath.Glob(filepath.Join(in.dir, "*", "*"))
	if err != nil {
		return nil
	}
	for _, tree := range dirs {
		name := filepath.Base(filepath.Dir(tree))
		i := strings.LastIndexByte(filepath.Base(tree), '-')
		if name == "bin" || name == "tmp" || i < 0 {
			continue
		}
		e := installed{tree: tree, Engine: hiveapi.Engine{Name: name, Version: filepath.Base(tree)[:i], Backend: filepath.Base(tree)[i+1:], Source: "installed"}}
		program := adapterOf(name).program
		if program == "" {
			program = name
		}
		if p, err := findProgram(tree, program); err == nil {
			e.Path = p
		} else {
			e.Message = err.Error()
		}
		e.Active = slices.ContainsFunc(active, func(p string) bool { return strings.HasPrefix(p, tree+string(filepath.Separator)) })
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b installed) int { return strings.Compare(a.tree, b.tree) })
	return out
}

// active are the programs that the links in bin point to.
func (in *Installer) active() []string {
	links, err := filepath.Glob(filepath.Join(in.dir, "bin", "*"))
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil {
			continue
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(in.dir, "bin", to)
		}
		out = append(out, to)
	}
	return out
}
