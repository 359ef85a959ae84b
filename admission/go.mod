module github.com/queen-rbee/queen-rbee/admission

go 1.26.0
