module github.com/queen-rbee/queen-rbee/cmd/rbee-hive

go 1.26.0
