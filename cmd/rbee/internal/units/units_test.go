package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// need skips for want of a tool; in CI that is a failure.
func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err == nil {
		return
	}
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatalf("%s is missing: run make deps", tool)
	}
	t.Skipf("%s is missing (privilege to install it: root): run make deps", tool)
}

// TestVerify lets systemd itself read the units.
func TestVerify(t *testing.T) {
	need(t, "systemd-analyze")
	dir := t.TempDir()
	queen := filepath.Join(dir, `a queen 100%$x`)
	if err := os.WriteFile(queen, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, user := range []bool{false, true} {
		p, err := New(Options{User: user, Queen: queen, Home: dir})
		if err != nil {
			t.Fatal(err)
		}
		unit := p.Files[len(p.Files)-1]
		path := filepath.Join(dir, Name)
		if err := os.WriteFile(path, []byte(unit.Text), 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{"verify", "--man=no", path}
		if user {
			args = append([]string{"--user"}, args...)
		}
		cmd := exec.Command("systemd-analyze", args...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "HOME="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), Name) {
			t.Errorf("user %v: %v\n%s\n%s", user, err, out, unit.Text)
		}
	}
}

// TestVerifyNotices makes sure that the test above could fail.
func TestVerifyNotices(t *testing.T) {
	need(t, "systemd-analyze")
	path := filepath.Join(t.TempDir(), Name)
	if err := os.WriteFile(path, []byte("[Service]\nExecStart=/bin/true\nProtectSystem=often\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if !strings.Contains(string(out), "Failed to parse protect system") {
		t.Errorf("systemd-analyze does not mind: %s", out)
	}
}

// TestExposure: systemd's own score of the sandbox, 0 is none and 10 is everything.
func TestExposure(t *testing.T) {
	need(t, "systemd-analyze")
	p, err := New(Options{Queen: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), Name)
	if err := os.WriteFile(path, []byte(p.Files[2].Text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", path).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", regexp.MustCompile(`(?m)^.*Overall exposure.*$`).Find(out))
}

func TestPlan(t *testing.T) {
	p, err := New(Options{Queen: "/usr/local/bin/queen-rbee"})
	if err != nil {
		t.Fatal(err)
	}
	unit := p.Files[2].Text
	for _, line := range []string{"Type=notify", "WatchdogSec=30", "User=rbee", "ProtectSystem=strict", "NoNewPrivileges=yes", "StateDirectory=rbee",
		`ExecStart="/usr/local/bin/queen-rbee" --config "/etc/rbee/queen.yaml" --data-dir /var/lib/rbee`} {
		if !strings.Contains(unit, line+"\n") {
			t.Errorf("no line %s in\n%s", line, unit)
		}
	}
	u, err := New(Options{Queen: "/opt/q", User: true, Home: "/home/me"})
	if err != nil {
		t.Fatal(err)
	}
	if text := u.Files[1].Text; u.Files[1].Path != "/home/me/.config/systemd/user/queen-rbee.service" || strings.Contains(text, "User=") || strings.Contains(text, "ProtectSystem") {
		t.Errorf("%+v", u.Files[1])
	}
	for _, bad := range []Options{{Queen: "queen-rbee"}, {Queen: "/q", Config: "x.yaml"}, {Queen: `/a"b`}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
