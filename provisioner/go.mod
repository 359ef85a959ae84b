module github.com/queen-rbee/queen-rbee/provisioner

go 1.26.0
