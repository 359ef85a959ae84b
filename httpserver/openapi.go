package httpserver

import (
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

type object = map[string]any

// describe builds the API document from the table of routes, so that the two can't differ.
func (s *Server) describe() ([]byte, error) {
	d := describer{schemas: namedSchemas(), variable: regexp.MustCompile(`\{(\w+)\}`)}
	paths := map[string]object{}
	for _, rt := range s.routes {
		path := rt.shown()
		if paths[path] == nil {
			paths[path] = object{}
		}
		paths[path][strings.ToLower(rt.method)] = d.operation(rt)
	}
	return json.Marshal(object{
		"openapi": "3.1.0",
		"info": object{"title": "queen-rbee", "version": s.o.Version, "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "One queen before many workers: the OpenAI surface under /v1, Ollama's under /api, the native one under /v2."},
		"paths":    paths,
		"security": []any{object{"key": []any{}}},
		"components": object{
			"schemas":         d.schemas,
			"securitySchemes": object{"key": object{"type": "http", "scheme": "bearer"}},
		},
	})
}

type describer struct {
	schemas  object
	variable *regexp.Regexp
}

func (d *describer) operation(rt *route) object {
	scope := need(rt.method, rt.path)
	op := object{"summary": rt.summary, "operationId": operationID(rt), "x-rbee-scope": string(scope), "responses": d.responses(rt)}
	if scope == ScopeNone {
		op["security"] = []any{}
	}
	var params []any
	for _, m := range d.variable.FindAllStringSubmatch(rt.shown(), -1) {
		params = append(params, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for name := range strings.SplitSeq(rt.query, ",") {
		if name != "" {
			params = append(params, object{"name": name, "in": "query", "schema": object{"type": "string"}})
		}
	}
	if rt.stream && rt.method == http.MethodGet {
		params = append(params, object{"name": "Last-Event-ID", "in": "header", "schema": object{"type": "string"}})
	}
	if params != nil {
		op["parameters"] = params
	}
	if rt.body != nil {
		kind := "application/json"
		if rt.body == "form" {
			kind = "multipart/form-data"
		}
		op["requestBody"] = object{"required": rt.body != "Shutdown", "content": object{kind: object{"schema": d.schema(rt.body)}}}
	}
	return op
}

func operationID(rt *route) string {
	return strings.ToLower(rt.method) + strings.Map(func(r rune) rune {
		if r == '{' || r == '}' {
			return -1
		}
		if r == '/' || r == '-' || r == '.' {
			return '_'
		}
		return r
	}, rt.shown())
}

func (d *describer) responses(rt *route) object {
	status := rt.status
	if status == 0 {
		status = http.StatusOK
	}
	content := object{}
	switch rt.answer {
	case nil:
	case "text":
		content["text/plain"] = object{"schema": object{"type": "string"}}
	case "html":
		content["text/html"] = object{"schema": object{"type": "string"}}
	default:
		content["application/json"] = object{"schema": d.schema(rt.answer)}
	}
	stream := object{"schema": object{"type": "string"}}
	failure := "NativeError"
	switch faceOf(rt.path) {
	case faceOpenAI:
		failure = "OpenAIError"
	case faceOllama:
		failure = "OllamaError"
	case faceNative:
	}
	out := object{"default": object{"description": "an error; X-Rbee-Error has its code",
		"content": object{"application/json": object{"schema": ref(failure)}}}}
	if rt.stream {
		kind := "text/event-stream"
		if faceOf(rt.path) == faceOllama {
			kind = "application/x-ndjson"
		}
		if status == http.StatusOK {
			content[kind] = stream
		} else {
			out["200"] = object{"description": "the event stream", "content": object{kind: stream}}
		}
	}
	ok := object{"description": "success"}
	if len(content) > 0 {
		ok["content"] = content
	}
	out[strconv.Itoa(status)] = ok
	return out
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func (d *describer) schema(v any) object {
	if name, ok := v.(string); ok {
		if name == "object" || name == "form" {
			return object{"type": "object"}
		}
		return ref(name)
	}
	return d.typed(reflect.TypeOf(v))
}

// typed describes a Go type; structs become named schemas.
func (d *describer) typed(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[Time]():
		return object{"type": []any{"string", "null"}, "format": "date-time"}
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.typed(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": d.typed(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.typed(t.Elem())}
	case reflect.Interface:
		return object{}
	case reflect.Struct:
		return d.structure(t)
	}
	return object{"type": "integer"}
}

func (d *describer) structure(t reflect.Type) object {
	props := object{}
	shape := object{"type": "object", "properties": props}
	answer := shape
	if name := t.Name(); name != "" {
		name = strings.ToUpper(name[:1]) + name[1:]
		answer = ref(name)
		if _, ok := d.schemas[name]; ok {
			return answer
		}
		d.schemas[name] = shape // before its fields: a type may hold itself
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key != "" && key != "-" {
			props[key] = d.typed(f.Type)
		}
	}
	return answer
}
