package hivelifecycle

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// identity is what makes a hive ours: both values are made once and kept in its directory.
type identity struct {
	ID    string
	Token string
}

// hiveDir is where the queen keeps a hive's identity; for a local hive it is the hive's own data directory too.
func (m *Manager) hiveDir(name string) string { return filepath.Join(m.o.DataDir, "hives", name) }

// loadIdentity reads the identity in dir, making what is missing.
func loadIdentity(dir string) (identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return identity{}, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return identity{}, err
	}
	id, err := secretFile(dir, "id", 8, "hive_")
	if err != nil {
		return identity{}, err
	}
	token, err := secretFile(dir, "token", 32, "")
	if err != nil {
		return identity{}, err
	}
	return identity{ID: id, Token: token}, nil
}

// secretFile reads dir/name, or creates it with n random bytes in hexadecimal behind prefix. Two processes that
// create it at once end up with the same value: the file appears by link(2), with its content or not at all.
func secretFile(dir, name string, n int, prefix string) (string, error) {
	path := filepath.Join(dir, name)
	if v, err := readSecret(path); !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(prefix + hex.EncodeToString(raw) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return readSecret(path)
}

func readSecret(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others (mode %04o); run chmod 600 on it", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	v := strings.TrimSpace(string(b))
	if len(v) < 8 || len(v) > 256 || strings.ContainsAny(v, " \t\r\n\x00") {
		return "", fmt.Errorf("%s is damaged; restore it, or stop the hive and remove the file", path)
	}
	return v, nil
}
