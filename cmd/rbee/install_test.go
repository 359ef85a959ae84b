package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// release serves a release of the programs named.
func release(t *testing.T, sum string, programs ...string) string {
	t.Helper()
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	box := tar.NewWriter(zip)
	for _, name := range programs {
		text := "#!/bin/sh\necho " + name + " of the release\n"
		if err := box.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := box.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	archive := "queen-rbee-" + runtime.GOOS + "-" + runtime.GOARCH + ".tar.gz"
	if sum == "" {
		sum = fmt.Sprintf("%x", sha256.Sum256(packed.Bytes()))
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/" + archive:
			_, _ = w.Write(packed.Bytes())
		case "/v1/SHA256SUMS":
			_, _ = fmt.Fprintf(w, "%s  other.tar.gz\n%s  %s\n", strings.Repeat("0", 64), sum, archive)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1"
}

// installScript runs the script and returns its words and whether it succeeded.
func installScript(t *testing.T, base, prefix string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		if _, err := exec.LookPath("wget"); err != nil {
			missing(t, "curl")
		}
	}
	cmd := exec.Command("sh", "install.sh")
	cmd.Env = append(os.Environ(), "RBEE_BASE_URL="+base, "RBEE_PREFIX="+prefix)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func missing(t *testing.T, tool string) {
	t.Helper()
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatalf("%s is missing: run make deps", tool)
	}
	t.Skipf("%s is missing (privilege to install it: root): run make deps", tool)
}

func TestInstallScript(t *testing.T) {
	prefix := t.TempDir()
	out, err := installScript(t, release(t, "", "rbee", "queen-rbee", "rbee-hive", "surprise"), prefix)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"rbee", "queen-rbee", "rbee-hive"} {
		said, err := exec.Command(filepath.Join(prefix, "bin", name)).Output()
		if err != nil || string(said) != name+" of the release\n" {
			t.Errorf("%s: %v %q", name, err, said)
		}
	}
	entries, err := os.ReadDir(filepath.Join(prefix, "bin"))
	if err != nil || len(entries) != 3 {
		t.Errorf("%v %v", entries, err)
	}
	if !strings.Contains(out, "is not on your PATH") {
		t.Error(out)
	}
	// over an older one
	if out, err := installScript(t, release(t, "", "rbee", "queen-rbee", "rbee-hive"), prefix); err != nil {
		t.Errorf("again: %v\n%s", err, out)
	}
}

// TestInstallScriptRefuses: what does not hold is not installed.
func TestInstallScriptRefuses(t *testing.T) {
	for name, c := range map[string]struct{ base, words string }{
		"wrong checksum": {release(t, strings.Repeat("a", 64), "rbee", "queen-rbee", "rbee-hive"), "nothing was installed"},
		"one missing":    {release(t, "", "rbee", "queen-rbee"), "three programs"},
		"no release":     {strings.TrimSuffix(release(t, ""), "/v1") + "/v2", "can't download"},
	} {
		prefix := t.TempDir()
		out, err := installScript(t, c.base, prefix)
		if err == nil || !strings.Contains(out, c.words) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if _, err := os.Stat(filepath.Join(prefix, "bin", "rbee")); err == nil {
			t.Errorf("%s: something was installed", name)
		}
	}
}

// TestInstallScriptIsPOSIX: the plain shell and shellcheck read it without remarks.
func TestInstallScriptIsPOSIX(t *testing.T) {
	if out, err := exec.Command("sh", "-n", "install.sh").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := exec.LookPath("shellcheck"); err != nil {
		missing(t, "shellcheck")
	}
	cmd := exec.Command("shellcheck", "install.sh")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
