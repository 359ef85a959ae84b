package registry

import (
	"sort"
)

// Snapshot is the fleet at one moment. It is immutable: readers share it, so nothing that is reached
// through it may be changed (Hive.Clone makes a private copy). Hives are sorted by name, workers by id.
type Snapshot struct {
	Version uint64
	Hives   []*Hive
	Workers []*Worker
}

// Hive finds a hive by name.
func (s *Snapshot) Hive(name string) (*Hive, bool) {
	i, ok := findHive(s.Hives, name)
	if !ok {
		return nil, false
	}
	return s.Hives[i], true
}

// Worker finds a worker by id.
func (s *Snapshot) Worker(id string) (*Worker, bool) {
	i, ok := findWorker(s.Workers, id)
	if !ok {
		return nil, false
	}
	return s.Workers[i], true
}

// Reachable says whether new work may be sent to the worker as far as its hive is concerned: the hive
// is online, or the worker is an external server, which has none.
func (s *Snapshot) Reachable(w *Worker) bool {
	if w.External {
		return true
	}
	h, ok := s.Hive(w.Node)
	return ok && h.Status == StatusOnline
}

func findHive(hives []*Hive, name string) (int, bool) {
	i := sort.Search(len(hives), func(i int) bool { return hives[i].Name >= name })
	return i, i < len(hives) && hives[i].Name == name
}

func findWorker(workers []*Worker, id string) (int, bool) {
	i := sort.Search(len(workers), func(i int) bool { return workers[i].ID >= id })
	return i, i < len(workers) && workers[i].ID == id
}
