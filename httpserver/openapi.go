package httpserver

import (
	"encoding/json"
	"strconv"
	"strings"
)

// describe builds the API document from the table of routes.
func (s *Server) describe() ([]byte, error) {
	paths := map[string]map[string]any{}
	for _, rt := range s.routes {
		if paths[rt.path] == nil {
			paths[rt.path] = map[string]any{}
		}
		status := rt.status
		if status == 0 {
			status = 200
		}
		paths[rt.path][strings.ToLower(rt.method)] = map[string]any{
			"summary":      rt.summary,
			"x-rbee-scope": string(need(rt.method, rt.path)),
			"responses":    map[string]any{strconv.Itoa(status): map[string]any{"description": "success"}},
		}
	}
	return json.Marshal(map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "queen-rbee", "version": s.o.Version},
		"paths":   paths,
	})
}
