package httpserver

import (
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// decode reads a /v2 body into a struct: strict JSON, and each field known by its exact name.
func (c *call) decode(dst any) error {
	allowed := fieldNames(reflect.TypeOf(dst).Elem())
	b, err := c.object(func(k, _ []byte) error {
		if !allowed[string(k)] {
			return unknownField(string(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer c.release() // the handler works on with dst alone
	return unmarshal(b, dst)
}

func unmarshal(b []byte, dst any) error {
	err := json.Unmarshal(b, dst)
	var te *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te) && te.Field != "":
		return invalid(te.Field, "%s can't be a %s", clip(te.Field, 64), clip(te.Value, 64))
	}
	if name := faulty(b, dst); name != "" {
		return invalid(name, "%s has the wrong form", clip(name, 64))
	}
	return invalid("", "the body is not acceptable: an object is wanted, each field in its form")
}

// faulty names the member that can't be read into dst, where the error of the whole does not: times, for instance.
func faulty(b []byte, dst any) (name string) {
	strict.Members(b, func(k, v []byte) bool {
		one := append(append(append([]byte{'{'}, quote(string(k))...), ':'), v...)
		if json.Unmarshal(append(one, '}'), reflect.New(reflect.TypeOf(dst).Elem()).Interface()) != nil {
			name = string(k)
		}
		return name == ""
	})
	return name
}

// known refuses members of a nested object that dst does not have, and reads it.
func known(field string, b []byte, dst any) error {
	allowed := fieldNames(reflect.TypeOf(dst).Elem())
	var bad error
	ok := strict.Members(b, func(k, _ []byte) bool {
		if !allowed[string(k)] {
			bad = unknownField(field + "." + string(k))
		}
		return bad == nil
	})
	if bad != nil {
		return bad
	}
	if !ok {
		return invalid(field, "%s must be an object", field)
	}
	return unmarshal(b, dst)
}

func fieldNames(t reflect.Type) map[string]bool {
	names := make(map[string]bool, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names[name] = true
		}
	}
	return names
}

// rawObject reads a body as one strict JSON object and keeps its bytes.
func (c *call) rawObject() (json.RawMessage, error) {
	return c.object(nil)
}

// required refuses the first empty field of name, value pairs.
func required(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return invalid(pairs[i], "%s is missing", pairs[i])
		}
	}
	return nil
}

// checkName checks the name of a hive, worker, tenant or operation.
func checkName(field, v string) error {
	if v == "" {
		return invalid(field, "%s is missing", field)
	}
	if len(v) > 128 || v[0] == '-' || v[0] == '.' {
		return badName(field)
	}
	for i := range len(v) {
		if c := v[i]; !plain(v[i:i+1]) && c != ':' && c != '@' && c != '/' {
			return badName(field)
		}
	}
	return nil
}

func badName(field string) error {
	return invalid(field, "%s has at most 128 of the characters A-Z a-z 0-9 . _ - : @ / and begins with neither '-' nor '.'", field)
}

// name returns a path variable decoded and checked as a name.
func (c *call) name(variable string) (string, error) {
	v, err := url.PathUnescape(c.vars[variable])
	if err != nil {
		return "", invalid(variable, "%s is not properly encoded", variable)
	}
	return v, checkName(variable, v)
}
