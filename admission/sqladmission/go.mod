module github.com/queen-rbee/queen-rbee/admission/sqladmission

go 1.26.0

require (
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/queen-rbee/queen-rbee/admission v0.1.0
)

replace github.com/queen-rbee/queen-rbee/admission => ../
