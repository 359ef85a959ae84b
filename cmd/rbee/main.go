// Command rbee is the keeper: a thin command-line client that speaks HTTP to the queen and nothing else.
package main

import (
	"os"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(cli.Main(version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
