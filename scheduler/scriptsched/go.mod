module github.com/queen-rbee/queen-rbee/scheduler/scriptsched

go 1.26.0

require (
	github.com/goccy/go-yaml v1.19.2
	github.com/google/go-cmp v0.7.0
	github.com/queen-rbee/queen-rbee/scheduler v0.1.0
	go.starlark.net v0.0.0-20260908191801-89a6a09411d5
)

require golang.org/x/sys v0.42.0 // indirect

replace github.com/queen-rbee/queen-rbee/scheduler => ../
