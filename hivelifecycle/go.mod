module github.com/queen-rbee/queen-rbee/hivelifecycle

go 1.26.0
