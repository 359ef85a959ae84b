module github.com/queen-rbee/queen-rbee/router

go 1.26.0
