module github.com/queen-rbee/queen-rbee/scheduler

go 1.26.0
