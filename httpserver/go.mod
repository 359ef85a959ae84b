module github.com/queen-rbee/queen-rbee/httpserver

go 1.26.0

require (
	github.com/gorilla/mux v1.8.1
	go.uber.org/goleak v1.3.0
)

require github.com/google/go-cmp v0.7.0
