package auth_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/queen-rbee/queen-rbee/auth"
)

// Protect any http.Handler with API keys.
func Example() {
	ctx := context.Background()
	keys, err := auth.New(ctx, auth.NewMemoryStore(), auth.Options{})
	if err != nil {
		panic(err)
	}
	_, secret, err := keys.Create(ctx, "setup", auth.Request{Tenant: "home", Scope: auth.Infer})
	if err != nil {
		panic(err)
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := auth.FromContext(r.Context())
		_, _ = fmt.Fprint(w, "hello ", id.Tenant)
	})
	guard := &auth.Guard{Keys: keys}
	protected := guard.Protect(hello, func(*http.Request) auth.Scope { return auth.Infer }, nil)

	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	protected.ServeHTTP(w, r)
	fmt.Println(w.Code)

	r.Header.Set("Authorization", "Bearer "+secret)
	w = httptest.NewRecorder()
	protected.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
	// Output:
	// 401
	// 200 hello home
}
