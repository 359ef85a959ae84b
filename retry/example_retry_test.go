package retry_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/retry"
)

func Example() {
	r := retry.New(retry.Options{Initial: time.Millisecond})
	n := 0
	err := r.Do(context.Background(), "fetch", func(context.Context) error {
		if n++; n < 3 {
			return errors.New("connection refused")
		}
		return nil
	})
	fmt.Println(n, err)
	// Output: 3 <nil>
}
