module github.com/queen-rbee/queen-rbee/remote

go 1.26.0
