package engine

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const maxEntries = 100_000

// unpacker writes an archive's entries below a directory. Everything goes through an os.Root: no name and no link leads
// out of it.
type unpacker struct {
	root    *os.Root
	left    int64
	entries int
}

// unpack puts an archive's content into dir, by the ending of the package's URL.
func unpack(archive string, p Package, dir string, limit int64) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	u := &unpacker{root: root, left: limit}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	switch name := strings.ToLower(path.Base(p.URL)); {
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return u.tar(f)
	case strings.HasSuffix(name, ".zip"):
		return u.zip(f)
	default:
		return u.file(p.Program, 0o755, f)
	}
}

func (u *unpacker) tar(r io.Reader) error {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := u.count(); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = u.file(h.Name, fs.FileMode(h.Mode), tr)
		case tar.TypeDir:
			err = u.mkdir(h.Name)
		case tar.TypeSymlink:
			err = u.symlink(h.Name, h.Linkname)
		case tar.TypeXGlobalHeader:
		default:
			err = fmt.Errorf("%.80q is neither a file, a directory nor a symbolic link", h.Name)
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) zip(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zr, err := zip.NewReader(f, info.Size())
	if err != nil {
		return err
	}
	for _, e := range zr.File {
		if err := u.count(); err != nil {
			return err
		}
		if err := u.zipEntry(e); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipEntry(e *zip.File) error {
	if e.Mode().IsDir() {
		return u.mkdir(e.Name)
	}
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	switch {
	case e.Mode()&fs.ModeSymlink != 0:
		target, err := io.ReadAll(io.LimitReader(r, 4096))
		if err != nil {
			return err
		}
		return u.symlink(e.Name, string(target))
	case e.Mode().IsRegular():
		return u.file(e.Name, e.Mode(), r)
	}
	return fmt.Errorf("%.80q is neither a file, a directory nor a symbolic link", e.Name)
}

func (u *unpacker) count() error {
	if u.entries++; u.entries > maxEntries {
		return fmt.Errorf("it holds more than %d files", maxEntries)
	}
	return nil
}

// clean refuses names that do not stay inside.
func clean(name string) (string, error) {
	n := strings.TrimSuffix(name, "/")
	n = strings.TrimPrefix(n, "./")
	if !filepath.IsLocal(n) || strings.ContainsAny(n, "\\\x00") {
		return "", fmt.Errorf("the name %.80q leads out of the archive", name)
	}
	return n, nil
}

func (u *unpacker) mkdir(name string) error {
	if strings.Trim(name, "./") == "" {
		return nil
	}
	n, err := clean(name)
	if err != nil {
		return err
	}
	return u.root.MkdirAll(n, 0o755)
}

func (u *unpacker) file(name string, mode fs.FileMode, r io.Reader) error {
	n, err := clean(name)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(n); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := u.root.OpenFile(n, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode.Perm()&0o755|0o600)
	if err != nil {
		return err
	}
	written, err := io.Copy(f, io.LimitReader(r, u.left+1))
	if u.left -= written; u.left < 0 && err == nil {
		err = errors.New("it unpacks to more than is allowed")
	}
	return errors.Join(err, f.Close())
}

// symlink makes a relative link that stays inside.
func (u *unpacker) symlink(name, target string) error {
	n, err := clean(name)
	if err != nil {
		return err
	}
	if filepath.IsAbs(target) || !filepath.IsLocal(filepath.Join(filepath.Dir(n), target)) {
		return fmt.Errorf("the link %.80q leads out of the archive", name)
	}
	if dir := filepath.Dir(n); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return u.root.Symlink(target, n)
}

// findProgram looks for the executable in an unpacked tree.
func findProgram(tree, name string) (string, error) {
	found := ""
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name && executable(p) == nil && (found == "" || len(p) < len(found)) {
			found = p
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if found == "" {
		return "", fmt.Errorf("there is no executable %q in it", name)
	}
	return found, nil
}
