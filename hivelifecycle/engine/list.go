package engine

import (
	"path/filepath"
	"strings"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// Engines lists the built-in engines with where their programs are on this machine.
func (s *Supervisor) Engines() []hiveapi.Engine {
	out := make([]hiveapi.Engine, 0, 4)
	for _, spec := range Builtin() {
		e := hiveapi.Engine{Name: spec.Name, Source: "builtin", Active: true}
		if program := adapterOf(spec.Name).program; program != "" {
			path, err := lookPath(program, s.o.EngineDir)
			e.Path, e.Source, e.Active = path, "path", err == nil
			if err != nil {
				e.Source, e.Message = "absent", err.Error()
			} else if s.o.EngineDir != "" && strings.HasPrefix(path, s.o.EngineDir+string(filepath.Separator)) {
				e.Source = "installed"
			}
		} else if len(s.o.SimCommand) == 0 {
			e.Active, e.Source, e.Message = false, "absent", "this program has no simulator"
		}
		out = append(out, e)
	}
	return out
}
