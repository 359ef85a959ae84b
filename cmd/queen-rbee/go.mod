module github.com/queen-rbee/queen-rbee/cmd/queen-rbee

go 1.26.0
