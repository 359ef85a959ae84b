module github.com/queen-rbee/queen-rbee/hivelifecycle/engine

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/queen-rbee/queen-rbee/hivelifecycle v0.1.0
	go.uber.org/goleak v1.3.0
)

replace github.com/queen-rbee/queen-rbee/hivelifecycle => ../
