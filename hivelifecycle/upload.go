package hivelifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sync"
)

// program is an rbee-hive for some kind of machine, with its checksum.
type program struct {
	path, sum string
	size      int64
}

// programs remembers checksums by path, size and time, so that a hundred hives hash one file once.
type programs struct {
	mu   sync.Mutex
	seen map[string]program
}

func (ps *programs) load(p string) (program, error) {
	info, err := os.Stat(p)
	if err != nil {
		return program{}, err
	}
	key := fmt.Sprintf("%s|%d|%d", p, info.Size(), info.ModTime().UnixNano())
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if got, ok := ps.seen[key]; ok {
		return got, nil
	}
	f, err := os.Open(p)
	if err != nil {
		return program{}, err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return program{}, err
	}
	got := program{path: p, sum: hex.EncodeToString(sum.Sum(nil)), size: n}
	if ps.seen == nil {
		ps.seen = map[string]program{}
	}
	ps.seen[key] = got
	return got, nil
}

// programFor finds the rbee-hive for a machine: the bundle's, or the queen's own for a machine of its kind.
func (m *Manager) programFor(goos, goarch string) (program, error) {
	name := fmt.Sprintf("%s-%s-%s", BinaryName, goos, goarch)
	if m.o.BundleDir != "" {
		p, err := m.programs.load(filepath.Join(m.o.BundleDir, name))
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return p, err
		}
	}
	if goos == runtime.GOOS && goarch == runtime.GOARCH {
		own, err := m.findBinary("")
		if err != nil {
			return program{}, err
		}
		return m.programs.load(own)
	}
	return program{}, fmt.Errorf("%w for %s/%s: there is no %s in the bundle directory %q", ErrBinary, goos, goarch, name, m.o.BundleDir)
}

// install puts the right program on the machine unless it is there already, under a name that holds its checksum, so
// that an upgrade never overwrites a program that runs.
func (h *hive) install(ctx context.Context, t *host) (string, error) {
	p, err := h.m.programFor(t.facts.OS, t.facts.Arch)
	if err != nil {
		return "", h.failed(StepBinary, err, "run make bundle and set the queen's bundle directory")
	}
	dst := path.Join(t.facts.Bin, BinaryName+"-"+p.sum[:16])
	out, exit, err := t.script(ctx, `f=`+quote(dst)+`
[ -x "$f" ] || exit 3
{ sha256sum "$f" 2>/dev/null || shasum -a 256 "$f" 2>/dev/null || openssl dgst -r -sha256 "$f"; } | awk '{print $1}'`, nil)
	if err != nil {
		return "", h.failed(StepBinary, err, "check the connection")
	}
	if exit == 0 && out == p.sum {
		h.m.event(h.name, StepBinary, Done, fmt.Sprintf("The right rbee-hive is on %s already.", t.target))
		return dst, nil
	}
	h.m.event(h.name, StepUpload, Begun, fmt.Sprintf("Uploading rbee-hive (%d MiB) to %s.", (p.size+1<<20-1)>>20, t.target))
	r, err := t.get(ctx)
	if err != nil {
		return "", h.failed(StepUpload, err, "check the connection")
	}
	f, err := os.Open(p.path)
	if err != nil {
		return "", h.failed(StepUpload, err, "make the program readable")
	}
	defer func() { _ = f.Close() }()
	if err := r.Upload(ctx, f, p.size, p.sum, dst, 0o700); err != nil {
		return "", h.failed(StepUpload, err, "check the disk and the permissions of "+t.facts.Bin)
	}
	h.m.event(h.name, StepUpload, Done, fmt.Sprintf("rbee-hive is on %s, its checksum is right.", t.target))
	return dst, h.runs(ctx, t, dst)
}

// runs makes sure that the machine can execute the program: a wrong libc or a noexec mount shows here, not later.
func (h *hive) runs(ctx context.Context, t *host, bin string) error {
	out, exit, err := t.script(ctx, quote(bin)+" --version", nil)
	if err != nil {
		return h.failed(StepBinary, err, "check the connection")
	}
	if exit != 0 {
		return h.failed(StepBinary, fmt.Errorf("%s does not run there (status %d): %s", bin, exit, brief([]byte(out))),
			"check that the file system is not mounted noexec, and the machine's architecture")
	}
	return nil
}
