package hivelifecycle

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// facts is what preflight learns about a machine.
type facts struct {
	OS, Arch string // as Go names them
	Dir      string // the hive's directory, absolute
	Bin      string // the directory of programs, absolute
	FreeKB   int64  // below Dir
	Systemd  bool   // a systemd user instance answers
	Linger   bool   // it outlives the login
	PID      int    // of the last hive that was started by nohup, 0 when there is none
	State    string // hive.json, as it is
}

// minFreeKB is the room that a hive itself needs; models are the provisioner's business.
const minFreeKB = 64 << 10

var (
	errPlatform = errors.New("no hive exists for that kind of machine")
	errReadOnly = errors.New("the directory can't be written")
	errDisk     = errors.New("the disk is nearly full")
)

// preflightScript prints key=value lines, then hive.json behind "state:".
func preflightScript(dir string) string {
	return `d=` + quote(dir) + `
case "$d" in /*) ;; *) d="$HOME/$d" ;; esac
printf 'uname=%s\n' "$(uname -sm)"
umask 077
if mkdir -p "$d" "$d/../../bin" 2>/dev/null && : > "$d/.probe" 2>/dev/null; then
  rm -f "$d/.probe"; chmod 700 "$d"; echo writable=1
fi
[ -d "$d" ] && printf 'dir=%s\n' "$(cd "$d" && pwd)"
[ -d "$d/../../bin" ] && printf 'bin=%s\n' "$(cd "$d/../../bin" && pwd)"
printf 'free=%s\n' "$(df -Pk "$d" 2>/dev/null | awk 'NR==2{print $4}')"
[ -n "$XDG_RUNTIME_DIR" ] || XDG_RUNTIME_DIR="/run/user/$(id -u)"; export XDG_RUNTIME_DIR
if command -v systemctl >/dev/null 2>&1 && systemctl --user show-environment >/dev/null 2>&1; then
  echo systemd=1
  u="$(id -un)"
  [ -e "/var/lib/systemd/linger/$u" ] || loginctl enable-linger "$u" >/dev/null 2>&1
  [ -e "/var/lib/systemd/linger/$u" ] && echo linger=1
fi
printf 'pid=%s\n' "$(cat "$d/hive.pid" 2>/dev/null)"
echo state:
cat "$d/hive.json" 2>/dev/null
exit 0`
}

// preflight looks at the machine before anything is changed on it, except that the hive's directory is made.
func (h *hive) preflight(ctx context.Context, t *host, dir string) error {
	h.m.event(h.name, StepPreflight, Begun, fmt.Sprintf("Looking at %s.", t.target))
	out, exit, err := t.script(ctx, preflightScript(dir), nil)
	if err != nil {
		return h.failed(StepPreflight, err, "check that the account has a POSIX shell")
	}
	if exit != 0 {
		return h.failed(StepPreflight, fmt.Errorf("status %d: %s", exit, brief([]byte(out))), "check that the account has a POSIX shell")
	}
	f, writable, err := parseFacts(out)
	if err != nil {
		return h.failed(StepPreflight, err, "hives run on linux and darwin, amd64 and arm64")
	}
	if !writable {
		return h.failed(StepPreflight, fmt.Errorf("%w: %s", errReadOnly, dir), "name another directory for the hive, or make it writable for this account")
	}
	if f.FreeKB >= 0 && f.FreeKB < minFreeKB {
		return h.failed(StepPreflight, fmt.Errorf("%w: %d MiB are left below %s", errDisk, f.FreeKB>>10, f.Dir), "free at least 64 MiB there, or name another directory for the hive")
	}
	t.facts = f
	how := "without systemd, the hive will be detached by setsid and nohup"
	if f.Systemd {
		how = "with a systemd user instance"
		if !f.Linger {
			how += " that ends with the login (loginctl enable-linger would keep it), so the hive will be detached by setsid and nohup"
		}
	}
	h.m.event(h.name, StepPreflight, Done, fmt.Sprintf("%s is %s/%s with %d MiB free, %s.", t.target, f.OS, f.Arch, f.FreeKB>>10, how))
	return nil
}

func parseFacts(out string) (f facts, writable bool, err error) {
	f.FreeKB = -1
	head, state, _ := strings.Cut(out, "state:")
	f.State = strings.TrimSpace(state)
	var uname string
	for line := range strings.Lines(head) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch k {
		case "uname":
			uname = v
		case "writable":
			writable = v == "1"
		case "dir":
			f.Dir = v
		case "bin":
			f.Bin = v
		case "free":
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				f.FreeKB = n
			}
		case "pid":
			if n, err := strconv.Atoi(v); err == nil && n > 1 {
				f.PID = n
			}
		case "systemd":
			f.Systemd = v == "1"
		case "linger":
			f.Linger = v == "1"
		}
	}
	if f.OS, f.Arch, err = platform(uname); err != nil {
		return f, writable, err
	}
	if writable && (!path.IsAbs(f.Dir) || !path.IsAbs(f.Bin)) {
		return f, writable, errors.New("the machine did not name the hive's directory")
	}
	return f, writable, nil
}

// platform translates `uname -sm` into Go's names.
func platform(uname string) (goos, goarch string, err error) {
	f := strings.Fields(uname)
	if len(f) != 2 {
		return "", "", fmt.Errorf("%w: uname says %.60q", errPlatform, uname)
	}
	switch f[0] {
	case "Linux":
		goos = "linux"
	case "Darwin":
		goos = "darwin"
	}
	switch f[1] {
	case "x86_64", "amd64":
		goarch = "amd64"
	case "aarch64", "arm64":
		goarch = "arm64"
	}
	if goos == "" || goarch == "" {
		return "", "", fmt.Errorf("%w: uname says %.60q", errPlatform, uname)
	}
	return goos, goarch, nil
}

// failed reports a failed step as an event and gives it back as an error.
func (h *hive) failed(step Step, err error, remedy string) error {
	if errors.Is(err, context.Canceled) {
		return fail(h.name, step, err, "try again")
	}
	e := fail(h.name, step, err, remedy)
	h.m.event(h.name, step, Failed, sentence(e))
	return e
}

// sentence makes a line for a person of an error.
func sentence(err error) string {
	s := err.Error()
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
