package hivelifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

const maxStateBytes = 64 << 10

// hiveState is what a running hive writes into its data directory as hive.json.
type hiveState struct {
	PID     int             `json:"pid"`
	Start   json.RawMessage `json:"start_time"` // the hive's own business; we compare with the kernel's
	Address string          `json:"address"`
	ID      string          `json:"id"`
	Version string          `json:"version"`
}

// errNoState says that no hive has written its state.
var errNoState = errors.New("no hive.json")

func readState(dir string) (hiveState, error) {
	b, err := os.ReadFile(filepath.Join(dir, "hive.json"))
	if errors.Is(err, os.ErrNotExist) {
		return hiveState{}, errNoState
	}
	if err != nil {
		return hiveState{}, err
	}
	return parseState(b)
}

func parseState(b []byte) (hiveState, error) {
	var s hiveState
	if len(strings.TrimSpace(string(b))) == 0 {
		return s, errNoState
	}
	if len(b) > maxStateBytes {
		return s, errors.New("hive.json is too large")
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("hive.json: %w", err)
	}
	addr, err := hostPort(s.Address)
	if err != nil {
		return s, fmt.Errorf("hive.json: %w", err)
	}
	s.Address = addr
	if s.PID <= 1 || s.PID > 1<<30 {
		return s, fmt.Errorf("hive.json: pid %d is impossible", s.PID)
	}
	return s, nil
}

// hostPort accepts host:port or http://host:port and returns host:port.
func hostPort(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "http://"), "/")
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" || strings.ContainsAny(s, " \t\r\n\x00/@?#\\") {
		return "", fmt.Errorf("%.80q is not host:port", s)
	}
	for _, c := range port {
		if c < '0' || c > '9' {
			return "", fmt.Errorf("%.80q has no numeric port", s)
		}
	}
	return net.JoinHostPort(host, port), nil
}

// readyLine finds the `ready http://HOST:PORT` line in what a hive has printed so far.
func readyLine(out []byte) (addr string, ok bool) {
	for line := range strings.Lines(string(out)) {
		rest, found := strings.CutPrefix(line, "ready ")
		if !found || !strings.HasSuffix(line, "\n") {
			continue
		}
		if a, err := hostPort(rest); err == nil {
			return a, true
		}
	}
	return "", false
}
