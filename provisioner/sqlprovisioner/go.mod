module github.com/queen-rbee/queen-rbee/provisioner/sqlprovisioner

go 1.26.0

require github.com/queen-rbee/queen-rbee/provisioner v0.1.0

replace github.com/queen-rbee/queen-rbee/provisioner => ../
