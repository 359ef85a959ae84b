// Command queen-rbee is the brain: it takes requests over HTTP, decides where they run, and keeps the hives.
package main

import (
	"os"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/app"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(app.Main(version, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
