module github.com/queen-rbee/queen-rbee/registry

go 1.26.0
