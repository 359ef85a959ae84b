//go:build unix && !linux

package hivelifecycle

import (
	"os/exec"
	"strconv"
	"strings"
)

// procStart asks ps when a process began. ok is false for one that has ended, a zombie included.
func procStart(pid int) (start string, ok bool) {
	out, err := exec.Command("ps", "-o", "state=,lstart=", "-p", strconv.Itoa(pid)).Output()
	s := strings.TrimSpace(string(out))
	if err != nil || s == "" || strings.HasPrefix(s, "Z") {
		return "", false
	}
	f := strings.Fields(s)
	return strings.Join(f[1:], " "), true
}

func procArgs(pid int) ([]string, bool) {
	out, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil, false
	}
	return strings.Fields(string(out)), true
}
