module github.com/queen-rbee/queen-rbee/queue

go 1.26.0
