module github.com/queen-rbee/queen-rbee/cmd/rbee-hive

go 1.26.0

require (
	github.com/queen-rbee/queen-rbee/hivelifecycle v0.1.0
	github.com/queen-rbee/queen-rbee/hivelifecycle/engine v0.1.0
	github.com/queen-rbee/queen-rbee/provisioner v0.1.0
)

require go.uber.org/goleak v1.3.0

replace (
	github.com/queen-rbee/queen-rbee/hivelifecycle => ../../hivelifecycle
	github.com/queen-rbee/queen-rbee/hivelifecycle/engine => ../../hivelifecycle/engine
	github.com/queen-rbee/queen-rbee/provisioner => ../../provisioner
)
