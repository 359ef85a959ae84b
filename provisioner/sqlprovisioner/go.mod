module github.com/queen-rbee/queen-rbee/provisioner/sqlprovisioner

go 1.26.0

require github.com/queen-rbee/queen-rbee/provisioner v0.1.0

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/mattn/go-sqlite3 v1.14.53
)

replace github.com/queen-rbee/queen-rbee/provisioner => ../
