package hivelifecycle

import (
	"context"
	"fmt"
	"strings"
)

// notYet is readyScript's status while the hive is still starting.
const notYet = 75

// ourProcess is a shell test: the pid runs, is no zombie, and has the hive's id on its command line.
func ourProcess(pid, id string) string {
	return `{ kill -0 ` + pid + ` 2>/dev/null && { tr '\000' ' ' < /proc/` + pid + `/cmdline 2>/dev/null || ps -ww -o args= -p ` + pid +
		` 2>/dev/null; } | grep -qF -- ` + quote(id) + `; }`
}

// runs asks whether the process is the hive with that id.
func (t *host) runs(ctx context.Context, pid int, id string) (bool, error) {
	_, exit, err := t.script(ctx, ourProcess(fmt.Sprint(pid), id), nil)
	return exit == 0, err
}

// tokenScript stores the identity from stdin; it never shows on a command line.
func tokenScript(dir, id string) string {
	return `set -e; umask 077; cd ` + quote(dir) + `
cat > .token.new; [ -s .token.new ]; chmod 600 .token.new; mv -f .token.new token
printf '%s\n' ` + quote(id) + ` > id; chmod 600 id
rm -f hive.json
if [ -f hive.log ] && [ "$(wc -c < hive.log)" -gt 8388608 ]; then mv -f hive.log hive.log.1; fi
`
}

func hiveArgs(f facts, c NetworkConfig, id identity, bin string) []string {
	addr := c.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	return append([]string{bin, "--data-dir", f.Dir, "--id", id.ID, "--name", c.Name, "--addr", addr}, c.Args...)
}

// nohupScript detaches the hive from the login without any help from the system.
func nohupScript(f facts, c NetworkConfig, id identity, bin string) string {
	args := hiveArgs(f, c, id, bin)
	for i, a := range args {
		args[i] = quote(a)
	}
	cmd := strings.Join(args, " ")
	return `s=; if command -v setsid >/dev/null 2>&1; then s=setsid; fi
nohup $s ` + cmd + ` > hive.out 2>> hive.log < /dev/null &
echo $! > hive.pid
`
}

// systemdScript makes a unit of the user's own systemd instance and starts it; it survives logout and reboot.
func systemdScript(f facts, c NetworkConfig, id identity, bin string) string {
	args := hiveArgs(f, c, id, bin)
	for i, a := range args {
		args[i] = unitQuote(a)
	}
	unit := `[Unit]
Description=rbee-hive ` + c.Name + `
StartLimitIntervalSec=0
[Service]
ExecStart=` + strings.Join(args, " ") + `
Restart=on-failure
RestartSec=2
KillMode=process
StandardOutput=append:` + unitPath(f.Dir+"/hive.out") + `
StandardError=append:` + unitPath(f.Dir+"/hive.log") + `
[Install]
WantedBy=default.target
`
	return `[ -n "$XDG_RUNTIME_DIR" ] || XDG_RUNTIME_DIR="/run/user/$(id -u)"; export XDG_RUNTIME_DIR
u="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user"; mkdir -p "$u"
printf '%s' ` + quote(unit) + ` > "$u/` + unitName(id) + `"
systemctl --user daemon-reload
systemctl --user enable ` + unitName(id) + ` >/dev/null 2>&1 || true
systemctl --user restart ` + unitName(id) + `
`
}

func unitName(id identity) string {
	return "rbee-hive-" + strings.TrimPrefix(id.ID, "hive_") + ".service"
}

// unitQuote makes one argument of an ExecStart line.
func unitQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

func unitPath(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// readyScript prints hive.json when the process that wrote it runs; notYet while one is on its way; 1 when it died.
func readyScript(dir, id string) string {
	return `cd ` + quote(dir) + ` || exit 1
i=0
while [ $i -lt 20 ]; do
  if [ -s hive.json ]; then
    pid=$(tr -d ' \n\t' < hive.json | sed -n 's/.*"pid":\([0-9][0-9]*\).*/\1/p')
    if [ -n "$pid" ] && ` + ourProcess(`"$pid"`, id) + `; then cat hive.json; exit 0; fi
  fi
  if [ -f hive.pid ] && ! kill -0 "$(cat hive.pid)" 2>/dev/null; then tail -n 3 hive.log; exit 1; fi
  i=$((i+1)); sleep 0.05 2>/dev/null || sleep 1
done
exit ` + fmt.Sprint(notYet)
}

// stopUnitScript ends the unit, when there is one, so that systemd does not start the hive again.
func stopUnitScript(id identity, remove bool) string {
	s := `[ -n "$XDG_RUNTIME_DIR" ] || XDG_RUNTIME_DIR="/run/user/$(id -u)"; export XDG_RUNTIME_DIR
f="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/` + unitName(id) + `"
if [ -f "$f" ]; then systemctl --user stop ` + unitName(id) + ` >/dev/null 2>&1; systemctl --user disable ` + unitName(id) + ` >/dev/null 2>&1; `
	if remove {
		s += `rm -f "$f"; systemctl --user daemon-reload >/dev/null 2>&1; `
	}
	return s + `fi
`
}

// reapScript ends, with the newest program that is there, the workers that a dead hive of this directory left.
func reapScript(f facts) string {
	return `ls ` + quote(f.Dir) + `/workers/*.json >/dev/null 2>&1 || exit 0
b=$(ls -t ` + quote(f.Bin) + `/` + BinaryName + `-* 2>/dev/null | head -n 1)
[ -x "$b" ] || { echo "there is no program to end them with"; exit 1; }
"$b" --data-dir ` + quote(f.Dir) + ` reap`
}

// signalScript sends a signal to the hive's process group when it is still the hive.
// `kill -TERM -- -N` is an error in dash; with -s it is what POSIX says.
func signalScript(pid int, id, sig string) string {
	p := fmt.Sprint(pid)
	return `if ` + ourProcess(p, id) + `; then
  if [ "$(ps -o pgid= -p ` + p + ` 2>/dev/null | tr -d ' ')" = ` + p + ` ]; then kill -s ` + sig + ` -- -` + p + `; else kill -s ` + sig + ` ` + p + `; fi
fi
exit 0`
}
