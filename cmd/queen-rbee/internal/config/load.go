package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// maxFile bounds the size of a configuration file.
const maxFile = 4 << 20

// Error is a configuration that cannot be used: where it stands and what to do.
type Error struct {
	File    string
	Line    int // 0: not known
	Message string
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.File == "":
		return "configuration: " + e.Message
	case e.Line == 0:
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// Load reads the file (none when path is ""), then the environment, then lets override change what flags say, fills in
// what was left out and checks the whole.
func Load(path string, environ []string, override func(*Config)) (*Config, error) {
	c := Default()
	if path != "" {
		data, err := readFile(path)
		if err != nil {
			return nil, err
		}
		if err := parse(data, path, &c); err != nil {
			return nil, err
		}
	}
	if err := applyEnv(&c, environ); err != nil {
		return nil, err
	}
	if override != nil {
		override(&c)
	}
	c.complete()
	if err := c.check(); err != nil {
		return nil, &Error{File: path, Line: lineOf(path, err), Message: err.Error()}
	}
	return &c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{File: path, Message: fmt.Sprintf("cannot read the configuration: %v", errors.Unwrap(err))}
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Error{File: path, Message: err.Error()}
	}
	if len(data) > maxFile {
		return nil, &Error{File: path, Message: fmt.Sprintf("is larger than %d bytes", maxFile)}
	}
	return data, nil
}

func parse(data []byte, path string, c *Config) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict(), yaml.UseJSONUnmarshaler())
	err := dec.Decode(c)
	if err == nil {
		if err = dec.Decode(&struct{}{}); err != nil && !errors.Is(err, io.EOF) || err == nil {
			return &Error{File: path, Message: "holds more than one document: put everything into the first, above the ---"}
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return explain(err, path)
}

// explain turns what the YAML reader says into where it stands and what to do.
func explain(err error, path string) *Error {
	var e *Error
	if errors.As(err, &e) { // of a value that reads itself
		return &Error{File: path, Line: e.Line, Message: e.Message}
	}
	e = &Error{File: path, Message: firstLine(err.Error())}
	var y yaml.Error
	if !errors.As(err, &y) {
		return e
	}
	e.Message = y.GetMessage()
	t := y.GetToken()
	if t == nil || t.Position == nil {
		return e
	}
	e.Line = t.Position.Line
	switch {
	case strings.Contains(e.Message, "unknown field"):
		e.Message = fmt.Sprintf("unknown key %q: see docs/configuration.md for the keys there are", t.Value)
	case strings.Contains(e.Message, "of type "):
		_, want, _ := strings.Cut(e.Message, "of type ")
		e.Message = fmt.Sprintf("%q is not what belongs here: want %s", t.Value, kindName(want))
	}
	return e
}

// kindName says in words what a Go type takes.
func kindName(goType string) string {
	switch {
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "float"):
		return "a number"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "text"
	case strings.HasPrefix(goType, "[]"), strings.HasPrefix(goType, "*[]"):
		return "a list"
	}
	return "a mapping with keys of its own"
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// complete fills in what the contract says is there when it was left out, and expands ~.
func (c *Config) complete() {
	if c.Hives == nil {
		c.Hives = &[]Hive{{Name: "local", Mode: "local"}}
	}
	if c.Models == nil && len(c.Externals) == 0 {
		c.Models = map[string]Model{"demo": {Ref: "sim:demo"}}
	} else if c.Models == nil {
		c.Models = map[string]Model{}
	}
	c.DataDir, c.EngineCatalog = expand(c.DataDir), expand(c.EngineCatalog)
	c.TLS.Cert, c.TLS.Key = expand(c.TLS.Cert), expand(c.TLS.Key)
	hives := *c.Hives
	for i := range hives {
		hives[i].Identity = expand(hives[i].Identity)
		if hives[i].Mode == "" {
			hives[i].Mode = "local"
			if hives[i].SSH != "" || hives[i].Address != "" {
				hives[i].Mode = "network"
			}
		}
		if hives[i].KnownHosts == "" {
			hives[i].KnownHosts = "strict"
		}
	}
	for i := range c.Externals {
		if c.Externals[i].Protocol == "" {
			c.Externals[i].Protocol = "openai"
		}
		if c.Externals[i].Slots == 0 {
			c.Externals[i].Slots = 4
		}
	}
}

func expand(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}
