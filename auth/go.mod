module github.com/queen-rbee/queen-rbee/auth

go 1.26.0
