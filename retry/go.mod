module github.com/queen-rbee/queen-rbee/retry

go 1.26.0
