module github.com/queen-rbee/queen-rbee/sserelay

go 1.26.0
