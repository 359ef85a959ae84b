module github.com/queen-rbee/queen-rbee/monitor

go 1.26.0
