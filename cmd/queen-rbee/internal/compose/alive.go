package compose

import (
	"context"
	"errors"
)

// Alive goes through what every request needs: the queue and its store, the registry, the scheduler's view and the router.
// It does not return while one of them is stuck. A store that answers with an error is no reason to end a queen whose
// streams run; the doctor tells of it.
func (q *Queen) Alive(ctx context.Context) error {
	if _, err := q.q.Counts(ctx); errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	q.reg.Snapshot()
	q.src.Snapshot()
	q.rt.Stats()
	return ctx.Err()
}
