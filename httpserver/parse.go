package httpserver

import (
	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// ParseRequest checks a JSON body for an endpoint under /v1 exactly as the server does and returns the request with the
// view that its answer wants. The caller fills in who asks, the priority and the ids. It is for programs that make
// requests themselves, such as batches.
func ParseRequest(path string, body []byte, maxDepth int) (*Request, View, error) {
	if maxDepth <= 0 {
		maxDepth = 128
	}
	req := &Request{Surface: SurfaceRaw, Path: path, N: 1, ContentType: "application/json", Body: body, Priority: PriorityInteractive}
	view := View{Format: FormatRaw}
	switch path {
	case "/v1/chat/completions":
		req.Surface, view.Format = SurfaceChat, FormatChat
	case "/v1/completions":
		req.Surface, view.Format = SurfaceCompletions, FormatCompletion
	case "/v1/embeddings":
		req.Surface = SurfaceEmbeddings
	default:
		if !enginePath(path) {
			return nil, view, invalid("url", "the path is not one that an engine can have")
		}
	}
	err := parseBody(req, body, maxDepth)
	view.IncludeUsage, view.Model = req.IncludeUsage, req.Model
	return req, view, err
}

func parseBody(req *Request, body []byte, maxDepth int) error {
	var p params
	take := func(k, v []byte) error { return p.take(req.Surface, req, k, v) }
	if req.Surface == SurfaceRaw {
		take = func(k, v []byte) error { return rawField(req, k, v) }
	}
	if err := asInvalid(strict.Object(body, maxDepth, take)); err != nil {
		return err
	}
	if req.Surface != SurfaceRaw {
		return p.check(req.Surface, req)
	}
	if req.Model == "" {
		return invalid("model", "the body must name a model: GET /v1/models lists what there is")
	}
	return nil
}

func asInvalid(err error) error {
	if bad, ok := find[*strict.Error](err); ok {
		return &Error{ErrCode: CodeInvalidRequest, Message: "the body is not acceptable JSON: " + bad.Error()}
	}
	return err
}
