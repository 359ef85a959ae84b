module github.com/queen-rbee/queen-rbee/queue/bench

go 1.26.0

require (
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/queen-rbee/queen-rbee/queue v0.1.0
	github.com/queen-rbee/queen-rbee/queue/sqlitequeue v0.1.0
	github.com/riverqueue/river v0.49.0
	github.com/riverqueue/river/riverdriver/riversqlite v0.49.0
	maragu.dev/goqite v0.4.0
)

require (
	github.com/riverqueue/river/riverdriver v0.49.0 // indirect
	github.com/riverqueue/river/rivershared v0.49.0 // indirect
	github.com/riverqueue/river/rivertype v0.49.0 // indirect
	github.com/tidwall/gjson v1.19.0 // indirect
	github.com/tidwall/match v1.2.0 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
	golang.org/x/sync v0.23.0 // indirect
)

replace (
	github.com/queen-rbee/queen-rbee/queue => ../
	github.com/queen-rbee/queen-rbee/queue/sqlitequeue => ../sqlitequeue
)
