package hivelifecycle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// BinaryName is the file name of the hive's program.
const BinaryName = "rbee-hive"

// findBinary looks for rbee-hive: explicitly given, beside this program, on PATH, then from the configuration.
func (m *Manager) findBinary(explicit string) (string, error) {
	if explicit != "" {
		if err := executable(explicit); err != nil {
			return "", fmt.Errorf("%w: %w", ErrBinary, err)
		}
		return filepath.Abs(explicit)
	}
	var tried []string
	name := BinaryName
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := m.o.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		p := filepath.Join(filepath.Dir(self), name)
		if executable(p) == nil {
			return p, nil
		}
		tried = append(tried, p)
	}
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	tried = append(tried, "PATH")
	if m.o.Binary != "" {
		err := executable(m.o.Binary)
		if err == nil {
			return filepath.Abs(m.o.Binary)
		}
		tried = append(tried, err.Error())
	}
	return "", fmt.Errorf("%w: looked at %q", ErrBinary, tried)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New(path + " is a directory")
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o111 == 0 {
		return errors.New(path + " is not executable")
	}
	return nil
}
