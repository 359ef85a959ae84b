package queue_test

import (
	"testing"
	"time"

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

func TestLongModel(t *testing.T) { queuetest.Model(t, memory, queuetest.Seeds()) }

func TestMemoryJournalConforms(t *testing.T) {
	queuetest.RunJournal(t, func(testing.TB) func(func() time.Time) (queue.Journal, error) {
		var j *queue.MemoryJournal
		return func(clock func() time.Time) (queue.Journal, error) {
			if j == nil {
				j = queue.NewMemoryJournal(clock)
			} else {
				j.Reopen()
			}
			return j, nil
		}
	})
}
