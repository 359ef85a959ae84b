package retryhttp_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/queen-rbee/queen-rbee/retry"
	"github.com/queen-rbee/queen-rbee/retry/retryhttp"
)

// Wrap an http.Client with a retry budget: all requests together add at most a fifth of attempts.
func Example() {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "hello")
	}))
	defer server.Close()

	client := retryhttp.Wrap(http.DefaultClient, retryhttp.Options{
		Initial: time.Millisecond,
		Budget:  retry.NewBudget(retry.BudgetOptions{Ratio: 0.2, Min: 3}),
	})
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(n, string(body))
	// Output: 3 hello
}
