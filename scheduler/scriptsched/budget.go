package scriptsched

import (
	"errors"
	"fmt"
	"math/big"
	"time"

	"go.starlark.net/starlark"
)

// Limits bound one run of a script; zero means the default of each.
type Limits struct {
	Steps  uint64        // computation steps; 0 = 200,000
	Time   time.Duration // backstop, looked at every few thousand steps; 0 = 50 ms
	Memory int           // bytes that one run may allocate in growing operations; 0 = 8 MiB
}

func (l Limits) withDefaults() Limits {
	if l.Steps == 0 {
		l.Steps = 200_000
	}
	if l.Time == 0 {
		l.Time = 50 * time.Millisecond
	}
	if l.Memory == 0 {
		l.Memory = 8 << 20
	}
	return l
}

const (
	maxSource   = 64 << 10
	maxNesting  = 100
	maxLength   = 100_000 // elements of a range
	maxIntBits  = 4096
	maxExpanded = 20_000 // elements of a value written out in full
	slice       = 4096   // steps between two looks at the clock
)

var (
	// ErrSteps means that a script ran too long.
	ErrSteps = errors.New("the step budget is used up: simplify the script or loop over fewer things")
	// ErrTime means that a script took too long, though within its steps.
	ErrTime = errors.New("the time limit is used up")
	// ErrMemory means that a script built too much.
	ErrMemory = errors.New("the memory budget is used up: build smaller strings and lists")
)

// budget is what is left of one run.
type budget struct {
	limits Limits
	left   int
	until  time.Time
	end    uint64
	cause  error
	call   *call
}

const budgetKey = "rbee"

func budgetOf(t *starlark.Thread) *budget {
	b, _ := t.Local(budgetKey).(*budget)
	return b
}

// arm starts a run on a thread.
func (b *budget) arm(t *starlark.Thread) {
	b.left, b.cause = b.limits.Memory, nil
	b.until = time.Now().Add(b.limits.Time)
	b.end = t.ExecutionSteps() + b.limits.Steps
	t.SetMaxExecutionSteps(t.ExecutionSteps() + min(slice, b.limits.Steps))
	t.OnMaxSteps = b.look
	t.Uncancel()
}

// look is called every slice of steps.
func (b *budget) look(t *starlark.Thread) {
	switch {
	case t.ExecutionSteps() >= b.end:
		b.cause = ErrSteps
	case time.Now().After(b.until):
		b.cause = ErrTime
	default:
		t.SetMaxExecutionSteps(min(t.ExecutionSteps()+slice, b.end))
		return
	}
	t.Cancel(b.cause.Error())
}

// charge takes bytes off the budget.
func (b *budget) charge(n int) error {
	if n < 0 || n > b.left {
		b.left = 0
		b.cause = ErrMemory
		return ErrMemory
	}
	b.left -= n
	return nil
}

// weigh is about how many bytes v takes at its top level.
func weigh(v starlark.Value) int {
	switch v := v.(type) {
	case starlark.String:
		return len(v)
	case starlark.Bytes:
		return len(v)
	case *starlark.Dict:
		return 64 * v.Len()
	case starlark.Int:
		return v.BigInt().BitLen() / 8
	case starlark.Sequence:
		return 16 * v.Len()
	}
	return 16
}

// expanded is how many elements v has when everything in it is written out; -1 = more than maxExpanded.
// It guards what walks a value in full: hashing tuples, str and formatting.
func expanded(v starlark.Value) int {
	n := 0
	if !expand(v, &n, 0) {
		return -1
	}
	return n
}

func expand(v starlark.Value, n *int, depth int) bool {
	if *n++; *n > maxExpanded || depth > 200 {
		return false
	}
	switch v := v.(type) {
	case starlark.String:
		*n += len(v) / 64
	case starlark.Tuple:
		for _, e := range v {
			if !expand(e, n, depth+1) {
				return false
			}
		}
	case *starlark.List:
		for i := range v.Len() {
			if !expand(v.Index(i), n, depth+1) {
				return false
			}
		}
	case *starlark.Dict:
		for _, kv := range v.Items() {
			if !expand(kv[0], n, depth+1) || !expand(kv[1], n, depth+1) {
				return false
			}
		}
	}
	return *n <= maxExpanded
}

// spell charges for writing v out.
func (b *budget) spell(v starlark.Value) error {
	if s, ok := v.(starlark.String); ok {
		return b.charge(len(s))
	}
	n := expanded(v)
	if n < 0 {
		b.cause = ErrMemory
		return ErrMemory
	}
	return b.charge(64 * n)
}

func bitsOf(v starlark.Value) int {
	if i, ok := v.(starlark.Int); ok {
		if _, small := i.Int64(); small {
			return 64
		}
		return i.BigInt().BitLen()
	}
	return 0
}

// product charges for x * y.
func (b *budget) product(x, y starlark.Value) error {
	if xb, yb := bitsOf(x), bitsOf(y); xb > 0 && yb > 0 {
		if xb+yb > maxIntBits {
			return fmt.Errorf("an integer grows beyond %d bits", maxIntBits)
		}
		return nil
	}
	times := func(v starlark.Value, n starlark.Value) error {
		i, ok := n.(starlark.Int)
		if !ok {
			return nil
		}
		total := new(big.Int).Mul(big.NewInt(int64(weigh(v))), i.BigInt())
		if total.Sign() <= 0 {
			return nil
		}
		if !total.IsInt64() || total.Int64() > int64(b.left) {
			return b.charge(-1)
		}
		return b.charge(int(total.Int64()))
	}
	if err := times(x, y); err != nil {
		return err
	}
	if _, ok := x.(starlark.Int); ok {
		return times(y, x)
	}
	return nil
}
