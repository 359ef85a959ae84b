module github.com/queen-rbee/queen-rbee/queue/sqlitequeue

go 1.26.0

require (
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/queen-rbee/queen-rbee/queue v0.1.0
)

replace github.com/queen-rbee/queen-rbee/queue => ../
