// Package units writes what systemd needs to run the queen: a hardened unit, the user that it runs as, and a first
// configuration.
package units

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Name is the unit's.
const Name = "queen-rbee.service"

// Options of a unit.
type Options struct {
	User   bool   // a unit of the user's own instance of systemd, not of the machine's
	Queen  string // absolute path of queen-rbee
	Config string // absolute path of the configuration, "" for the default place
	Home   string // of the user, for a user unit
}

// File is one file to write.
type File struct {
	Path string
	Mode uint32
	Text string
	Keep bool // what is there already stays
}

// Plan is what has to be written, in order, and what has to be run afterwards.
type Plan struct {
	Files    []File
	Commands [][]string // after the files
	Start    []string   // what starts the queen now and at every boot
}

// New plans an installation.
func New(o Options) (Plan, error) {
	if !filepath.IsAbs(o.Queen) {
		return Plan{}, fmt.Errorf("the path of queen-rbee has to be absolute, not %q", o.Queen)
	}
	if o.Config == "" {
		o.Config = "/etc/rbee/queen.yaml"
		if o.User {
			o.Config = filepath.Join(o.Home, ".config/rbee/queen.yaml")
		}
	}
	if !filepath.IsAbs(o.Config) {
		return Plan{}, fmt.Errorf("the path of the configuration has to be absolute, not %q", o.Config)
	}
	if strings.ContainsAny(o.Queen, "\"'\\\n\t") {
		return Plan{}, fmt.Errorf("systemd runs no program whose path has quotes, backslashes or control characters: %q", o.Queen)
	}
	exec := `"` + strings.ReplaceAll(o.Queen, "%", "%%") + `"` + " --config " + quote(o.Config)
	if o.User {
		return Plan{
			Files: []File{{Path: o.Config, Mode: 0o600, Text: queenConfig, Keep: true},
				{Path: filepath.Join(o.Home, ".config/systemd/user", Name), Mode: 0o644, Text: head + fmt.Sprintf(service, exec) + hardened + userTail}},
			Commands: [][]string{{"systemctl", "--user", "daemon-reload"}},
			Start:    []string{"systemctl", "--user", "enable", "--now", Name},
		}, nil
	}
	exec += " --data-dir /var/lib/rbee"
	return Plan{
		Files: []File{{Path: "/etc/sysusers.d/rbee.conf", Mode: 0o644, Text: sysusers},
			{Path: o.Config, Mode: 0o640, Text: queenConfig, Keep: true},
			{Path: "/etc/systemd/system/" + Name, Mode: 0o644, Text: head + fmt.Sprintf(service, exec) + dedicated + hardened + sandbox + systemTail}},
		Commands: [][]string{{"systemd-sysusers", "/etc/sysusers.d/rbee.conf"}, {"chgrp", "rbee", o.Config}, {"systemctl", "daemon-reload"}},
		Start:    []string{"systemctl", "enable", "--now", Name},
	}, nil
}

// quote makes one argument of an ExecStart line.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}
