module github.com/queen-rbee/queen-rbee/metrics

go 1.26.0
