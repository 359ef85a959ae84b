package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// record is what is kept of a worker in Dir/ID.json, so that the next supervisor can take it over or end it.
type record struct {
	Request   SpawnRequest `json:"request"` // with the key; the file is 0600
	ModelPath string       `json:"model_path"`
	PID       int          `json:"pid"` // 0 between the decision to start and the start
	StartTime string       `json:"start_time"`
	Port      int          `json:"port"`
	Mark      string       `json:"mark"` // the spawn token that its environment holds
	APIKey    string       `json:"api_key,omitempty"`
	Restarts  int          `json:"restarts,omitempty"`
	WasReady  bool         `json:"was_ready,omitempty"`
	StartedAt time.Time    `json:"started_at"`
}

var workerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func (s *Supervisor) recordPath(id string) string { return filepath.Join(s.dir, id+".json") }

func (s *Supervisor) logPath(id string) string { return filepath.Join(s.dir, id+".log") }

// save writes a record so that a reader sees the old one or the new one.
func (s *Supervisor) save(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := s.recordPath(r.Request.WorkerID) + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("engine: the worker's record can't be written: %w", err)
	}
	return os.Rename(tmp, s.recordPath(r.Request.WorkerID))
}

func (s *Supervisor) forget(id string) {
	_ = os.Remove(s.recordPath(id))
	_ = os.Remove(s.logPath(id))
}

// records reads what a former supervisor left. A file that can't be read is reported and left alone.
func (s *Supervisor) records() ([]record, error) {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var out []record
	var bad error
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil || r.Request.WorkerID+".json" != filepath.Base(name) || !workerID.MatchString(r.Request.WorkerID) {
			bad = errors.Join(bad, fmt.Errorf("engine: %s is not a worker's record", name))
			continue
		}
		out = append(out, r)
	}
	return out, bad
}

// removeStray deletes logs and half-written records that no worker has.
func (s *Supervisor) removeStray() {
	names, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		return
	}
	for _, name := range names {
		base := filepath.Base(name)
		id, isLog := strings.CutSuffix(base, ".log")
		_, known := s.get(id)
		if isLog && !known || strings.HasSuffix(base, ".json.tmp") {
			_ = os.Remove(name)
		}
	}
}
