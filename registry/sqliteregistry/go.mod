module github.com/queen-rbee/queen-rbee/registry/sqliteregistry

go 1.26.0

require (
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/queen-rbee/queen-rbee/registry v0.1.0
)

require github.com/google/go-cmp v0.7.0 // indirect

replace github.com/queen-rbee/queen-rbee/registry => ../
