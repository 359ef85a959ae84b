package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Receive keeps an archive that somebody sends, for a package whose address is bundle:NAME. It is checked when it is
// installed, like any other. Drop removes it.
func (in *Installer) Receive(name string, r io.Reader) error {
	if !packageWord.MatchString(name) {
		return invalid("%.60q can't be the name of an archive", name)
	}
	if err := os.MkdirAll(filepath.Dir(in.sent(name)), 0o700); err != nil {
		return fmt.Errorf("engine: receive an archive: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(in.sent(name)), ".part-*")
	if err != nil {
		return fmt.Errorf("engine: receive an archive: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(r, in.o.MaxBytes+1))
	if err == nil && n > in.o.MaxBytes {
		err = fmt.Errorf("it is over %d bytes", in.o.MaxBytes)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), in.sent(name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("engine: receive an archive: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// Drop removes an archive that was received; one that is not there is none to remove.
func (in *Installer) Drop(name string) error {
	if !packageWord.MatchString(name) {
		return invalid("%.60q can't be the name of an archive", name)
	}
	if err := os.Remove(in.sent(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (in *Installer) sent(name string) string { return filepath.Join(in.dir, "tmp", "sent", name) }
