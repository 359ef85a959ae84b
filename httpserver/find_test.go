package httpserver

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

// TestFindIsErrorsAs holds that what the server looks for in an error it finds where errors.As does.
func TestFindIsErrorsAs(t *testing.T) {
	own := &Error{ErrCode: CodeSystemAtCapacity, Message: "busy", Retry: time.Second}
	for _, err := range []error{nil, own, fmt.Errorf("a: %w", own), fmt.Errorf("a: %w, %w", io.EOF, own), errors.Join(io.EOF, fmt.Errorf("b: %w", own)),
		errors.Join(io.EOF, io.ErrClosedPipe), io.EOF, fmt.Errorf("c: %w", io.EOF), fmt.Errorf("text")} {
		var want *Error
		var wantCoder Coder
		is, isCoder := errors.As(err, &want), errors.As(err, &wantCoder)
		if got, ok := find[*Error](err); got != want || ok != is {
			t.Errorf("%v: %v %v, want %v %v", err, got, ok, want, is)
		}
		if got, ok := find[Coder](err); got != wantCoder || ok != isCoder {
			t.Errorf("%v: %v %v, want %v %v", err, got, ok, wantCoder, isCoder)
		}
	}
}
