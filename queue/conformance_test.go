package queue_test

import (
	"testing"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/queuetest"
)

// reopened is a memory store that survives being closed.
type reopened struct{ queue.Store }

func (reopened) Close() error { return nil }

func memory(testing.TB) func() (queue.Store, error) {
	m := queue.NewMemory()
	return func() (queue.Store, error) { return reopened{m}, nil }
}

func TestMemoryConforms(t *testing.T) { queuetest.Run(t, memory) }
