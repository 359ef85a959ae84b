package httpserver

// namedSchemas are the shapes that have no Go type here, because they pass through or are checked field by field.
func namedSchemas() object {
	str, num, whole, flag := object{"type": "string"}, object{"type": "number"}, object{"type": "integer"}, object{"type": "boolean"}
	anyOf := func(s ...any) object { return object{"anyOf": s} }
	arrayOf := func(s any) object { return object{"type": "array", "items": s} }
	shape := func(required []string, props object) object {
		return object{"type": "object", "required": required, "properties": props}
	}
	sampling := func(more object) object {
		props := object{"model": str, "stream": flag, "max_tokens": object{"type": "integer", "minimum": 1},
			"temperature": object{"type": "number", "minimum": 0, "maximum": 2}, "top_p": object{"type": "number", "minimum": 0, "maximum": 1},
			"n": object{"type": "integer", "minimum": 1, "maximum": 128}, "seed": whole, "stop": anyOf(str, arrayOf(str)),
			"presence_penalty": num, "frequency_penalty": num,
			"stream_options": object{"type": "object", "properties": object{"include_usage": flag}}}
		for k, v := range more {
			props[k] = v
		}
		return props
	}
	usage := object{"type": "object", "properties": object{"prompt_tokens": whole, "completion_tokens": whole, "total_tokens": whole}}
	answer := object{"id": str, "object": str, "created": whole, "model": str, "choices": arrayOf(object{"type": "object"}), "usage": usage}
	task := shape([]string{"model"}, object{"model": str, "prompt": str, "messages": arrayOf(object{"type": "object"}),
		"max_tokens": object{"type": "integer", "minimum": 1}, "temperature": num, "top_p": num, "top_k": whole, "repetition_penalty": num,
		"stop": anyOf(str, arrayOf(str)), "seed": whole, "priority": object{"type": "string", "enum": []any{PriorityInteractive, PriorityBatch}},
		"session_id": str, "deadline": str, "node": str})
	task["additionalProperties"] = false
	return object{
		"ChatRequest":       shape([]string{"model", "messages"}, sampling(object{"messages": arrayOf(object{"type": "object"}), "tools": arrayOf(object{"type": "object"}), "response_format": object{"type": "object"}})),
		"CompletionRequest": shape([]string{"model", "prompt"}, sampling(object{"prompt": anyOf(str, arrayOf(anyOf(str, whole)))})),
		"EmbeddingRequest":  shape([]string{"model", "input"}, object{"model": str, "input": anyOf(str, arrayOf(anyOf(str, whole, arrayOf(whole)))), "dimensions": whole}),
		"ChatCompletion":    shape([]string{"id", "object", "created", "model", "choices"}, answer),
		"Completion":        shape([]string{"id", "object", "created", "model", "choices"}, answer),
		"EmbeddingList":     shape([]string{"object", "data", "model"}, object{"object": str, "data": arrayOf(object{"type": "object"}), "model": str, "usage": usage}),
		"Task":              task,
		"DryRun":            shape([]string{"jobs"}, object{"jobs": arrayOf(object{"type": "object"}), "policy": anyOf(str, object{"type": "object"})}),
		"Shutdown":          object{"type": "object", "properties": object{"cascade": flag}},
		"OpenAIError": shape([]string{"error"}, object{"error": shape([]string{"message", "type", "param", "code"},
			object{"message": str, "type": str, "param": object{"type": []any{"string", "null"}}, "code": str}), "loading": object{"type": "object"}}),
		"NativeError": shape([]string{"error"}, object{"error": shape([]string{"code", "message", "details", "correlation_id"},
			object{"code": str, "message": str, "details": object{"type": "object"}, "correlation_id": str}), "loading": object{"type": "object"}}),
		"OllamaError": shape([]string{"error"}, object{"error": str}),
	}
}
