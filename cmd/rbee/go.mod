module github.com/queen-rbee/queen-rbee/cmd/rbee

go 1.26.0
