package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReceive(t *testing.T) {
	dir := t.TempDir()
	in := NewInstaller(dir, InstallerOptions{MaxBytes: 10})
	for _, bad := range []string{"", "..", "../x", "a/b", ".hidden", "-x"} {
		if in.Receive(bad, strings.NewReader("x")) == nil || in.Drop(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := in.Receive("a.zip", strings.NewReader("0123456789+")); err == nil || !strings.Contains(err.Error(), "over 10 bytes") {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "tmp", "sent", ".*")); err != nil || len(left) != 0 {
		t.Error("a part was left:", left, err)
	}
	if err := in.Receive("a.zip", strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	if err := in.Receive("a.zip", strings.NewReader("new")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(in.sent("a.zip")); err != nil || string(b) != "new" {
		t.Error(string(b), err)
	}
	if err := errors.Join(in.Drop("a.zip"), in.Drop("a.zip")); err != nil {
		t.Error(err)
	}
	for source, ok := range map[string]bool{"bundle:a.zip": true, "bundle:../a": false, "bundle:/a": false, "bundle:a?b": false, "bundle://h/a": false, "bundle:": false} {
		if err := checkSource(source); (err == nil) != ok {
			t.Errorf("%s: %v", source, err)
		}
	}
}
