module github.com/queen-rbee/queen-rbee/httpserver/batches

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/queen-rbee/queen-rbee/httpserver v0.1.0
	go.uber.org/goleak v1.3.0
)

require github.com/gorilla/mux v1.8.1 // indirect

replace github.com/queen-rbee/queen-rbee/httpserver => ../
