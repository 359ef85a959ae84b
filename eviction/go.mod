module github.com/queen-rbee/queen-rbee/eviction

go 1.26.0
