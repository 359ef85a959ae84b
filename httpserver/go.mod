module github.com/queen-rbee/queen-rbee/httpserver

go 1.26.0
