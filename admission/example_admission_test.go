package admission_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/queen-rbee/queen-rbee/admission"
)

// Limit any Go service per tenant, and settle with what a job really took.
func Example() {
	ctx := context.Background()
	c, err := admission.New(ctx, admission.NewMemoryStore(), nil, admission.Options{
		Default: admission.Limits{TokensPerDay: 1000, Concurrent: 2},
	})
	if err != nil {
		panic(err)
	}
	grant, err := c.Admit(ctx, admission.Request{Tenant: "home", PromptTokens: 100, MaxTokens: 900})
	if err != nil {
		panic(err)
	}
	_, err = c.Admit(ctx, admission.Request{Tenant: "home", MaxTokens: 50})
	var refused *admission.Refusal
	if errors.As(err, &refused) {
		fmt.Println(refused.Code(), refused.RetryAfter() > 0)
	}
	grant.Settle(admission.Usage{Prompt: 100, Output: 20}) // it took far less than it might have
	_, err = c.Admit(ctx, admission.Request{Tenant: "home", MaxTokens: 50})
	fmt.Println(err)
	// Output:
	// QUOTA_EXCEEDED true
	// <nil>
}
