package sqlitequeue_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/queuetest"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// stores makes files for the suite.
func stores(t testing.TB) func() (queue.Store, error) {
	path := filepath.Join(t.TempDir(), "queue.db")
	return func() (queue.Store, error) {
		// a model history commits thousands of times; what a power cut does is another test's matter
		return sqlitequeue.Open(t.Context(), path, sqlitequeue.Options{Durability: sqlitequeue.Process})
	}
}

func TestStoreConforms(t *testing.T) { queuetest.Run(t, stores) }

func TestLongModel(t *testing.T) { queuetest.Model(t, stores, queuetest.Seeds()) }

func TestJournalConforms(t *testing.T) {
	for name, o := range map[string]sqlitequeue.Options{
		"defaults": {},
		"hasty":    {Settle: 1, Linger: time.Millisecond, TailSize: 500},
	} {
		t.Run(name, func(t *testing.T) {
			queuetest.RunJournal(t, func(t testing.TB) func(func() time.Time) (queue.Journal, error) {
				path := filepath.Join(t.TempDir(), "queue.frames")
				return func(clock func() time.Time) (queue.Journal, error) {
					o.Clock = clock
					return sqlitequeue.OpenJournal(t.Context(), path, o)
				}
			})
		})
	}
}
