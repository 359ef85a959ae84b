package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// applyEnv lets the environment override the file. Every key has a variable: RBEE_ and its upper-case path, as in
// RBEE_QUEUE_MAX or RBEE_LIMITS_DEFAULT_RPM. A mapping or list takes YAML (RBEE_HIVES='[]'). Entries that are there by
// then are part of the path by their names, where what is no letter or digit is an underscore: RBEE_MODELS_MY_7B_SLOTS,
// RBEE_EXTERNALS_NAS_API_KEY.
func applyEnv(c *Config, environ []string) error {
	env := map[string]string{}
	for _, kv := range environ {
		if k, val, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "RBEE_") {
			env[k] = val
		}
	}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if err := envValue(v.Field(i), fieldName("RBEE", v.Type().Field(i)), env); err != nil {
			return err
		}
	}
	return nil
}

func fieldName(prefix string, f reflect.StructField) string {
	return prefix + "_" + strings.ToUpper(f.Tag.Get("yaml"))
}

// entryName is an entry's name as a part of a variable's.
func entryName(prefix, name string) string {
	return prefix + "_" + strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

// envValue sets a value from its own variable, and then what is inside it from theirs.
func envValue(v reflect.Value, name string, env map[string]string) error {
	if text, ok := env[name]; ok {
		if err := setText(v, text); err != nil {
			return &Error{Message: fmt.Sprintf("the environment's %s %v", name, err)}
		}
	}
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil() && v.Elem().Kind() == reflect.Slice:
		return envValue(v.Elem(), name, env)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if err := envValue(v.Field(i), fieldName(name, v.Type().Field(i)), env); err != nil {
				return err
			}
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			if err := envValue(v.Index(i), entryName(name, v.Index(i).FieldByName("Name").String()), env); err != nil {
				return err
			}
		}
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() != reflect.Interface:
		return envMap(v, name, env)
	}
	return nil
}

func envMap(v reflect.Value, name string, env map[string]string) error {
	keys := map[string]bool{}
	for _, k := range v.MapKeys() {
		keys[k.String()] = true
	}
	if v.Type() == reflect.TypeFor[map[string]Limits]() {
		keys["default"] = true // there is one whether the file says so or not
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		entry, key := reflect.New(v.Type().Elem()).Elem(), reflect.ValueOf(k)
		old := v.MapIndex(key)
		if old.IsValid() {
			entry.Set(old)
		}
		if err := envValue(entry, entryName(name, k), env); err != nil {
			return err
		}
		if !old.IsValid() && entry.IsZero() {
			continue
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(key, entry)
	}
	return nil
}

// setText sets a value from a variable's text. Its errors go on after the variable's name, and repeat no text that may be
// a secret.
func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("is not of the right form: %w", err)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return nil
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("is %q: want true or false", text)
		}
		v.SetBool(b)
		return nil
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("is %q: want a whole number", text)
		}
		v.SetInt(n)
		return nil
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("is %q: want a number", text)
		}
		v.SetFloat(n)
		return nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String && !strings.HasPrefix(strings.TrimSpace(text), "[") {
			v.Set(reflect.ValueOf(strings.Split(text, ",")))
			return nil
		}
	}
	return setYAML(v, text)
}

// setYAML replaces a mapping or list as a whole; a section of the file (a struct) keeps what the text does not name.
func setYAML(v reflect.Value, text string) error {
	if v.Kind() == reflect.Pointer {
		to := reflect.New(v.Type().Elem())
		if err := setYAML(to.Elem(), text); err != nil {
			return err
		}
		v.Set(to)
		return nil
	}
	fresh := reflect.New(v.Type())
	if v.Kind() == reflect.Struct {
		fresh.Elem().Set(v)
	}
	err := yaml.UnmarshalWithOptions([]byte(text), fresh.Interface(), yaml.Strict(), yaml.UseJSONUnmarshaler())
	if err != nil {
		e := explain(err, "")
		return errors.New("takes YAML: " + e.Message)
	}
	v.Set(fresh.Elem())
	return nil
}
