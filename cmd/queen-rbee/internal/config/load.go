package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
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
	if err := applyEnv(reflect.ValueOf(&c).Elem(), "RBEE", environ); err != nil {
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
	err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict(), yaml.UseJSONUnmarshaler()).Decode(c)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	e := &Error{File: path, Message: firstLine(err.Error())}
	var y yaml.Error
	if errors.As(err, &y) {
		e.Message = y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line = t.Position.Line
			if strings.Contains(e.Message, "unknown field") {
				e.Message = fmt.Sprintf("unknown key %q: see docs/configuration.md for the keys there are", t.Value)
			}
		}
	}
	return e
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// applyEnv sets every scalar key that has a variable: RBEE_QUEUE_MAX, RBEE_TIMEOUTS_FIRST_TOKEN, RBEE_LIMITS_DEFAULT_RPM.
func applyEnv(v reflect.Value, prefix string, environ []string) error {
	env := map[string]string{}
	for _, kv := range environ {
		if k, val, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "RBEE_") {
			env[k] = val
		}
	}
	return envStruct(v, prefix, env)
}

func envStruct(v reflect.Value, prefix string, env map[string]string) error {
	for i := range v.NumField() {
		name := prefix + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		f := v.Field(i)
		switch {
		case f.Type() == reflect.TypeFor[map[string]Limits]():
			def := f.Interface().(map[string]Limits)["default"]
			if err := envStruct(reflect.ValueOf(&def).Elem(), name+"_DEFAULT", env); err != nil {
				return err
			}
			if !reflect.DeepEqual(def, f.Interface().(map[string]Limits)["default"]) {
				if f.IsNil() {
					f.Set(reflect.ValueOf(map[string]Limits{}))
				}
				f.Interface().(map[string]Limits)["default"] = def
			}
		case f.Kind() == reflect.Struct:
			if err := envStruct(f, name, env); err != nil {
				return err
			}
		default:
			if text, ok := env[name]; ok {
				if err := setScalar(f, text); err != nil {
					return &Error{Message: fmt.Sprintf("%s=%q: %v", name, text, err)}
				}
			}
		}
	}
	return nil
}

func setScalar(f reflect.Value, text string) error {
	if u, ok := f.Addr().Interface().(interface{ UnmarshalText([]byte) error }); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("is not true or false")
		}
		f.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errors.New("is not a whole number")
		}
		f.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("is not a number")
		}
		f.SetFloat(n)
	case reflect.Slice:
		if f.Type().Elem().Kind() != reflect.String {
			return errors.New("cannot be set by an environment variable: use the configuration file")
		}
		f.Set(reflect.ValueOf(strings.Split(text, ",")))
	default:
		return errors.New("cannot be set by an environment variable: use the configuration file")
	}
	return nil
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
