// Command rbee-hive runs on each machine: it executes a queen's commands, reports facts and decides nothing.
package main

import (
	"os"

	"github.com/queen-rbee/queen-rbee/cmd/rbee-hive/internal/hive"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
)

// version is set by the linker.
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == hive.SimWorker {
		os.Exit(sim.Main(os.Args[2:], os.Stderr))
	}
	os.Exit(hive.Main(os.Args[1:], version, os.Stdin, os.Stdout, os.Stderr))
}
