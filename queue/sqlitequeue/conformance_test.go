package sqlitequeue_test

import (
	"path/filepath"
	"testing"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/queuetest"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

func TestStoreConforms(t *testing.T) {
	queuetest.Run(t, func(t testing.TB) func() (queue.Store, error) {
		path := filepath.Join(t.TempDir(), "queue.db")
		return func() (queue.Store, error) {
			// a model history commits thousands of times; what a power cut does is another test's matter
			return sqlitequeue.Open(t.Context(), path, sqlitequeue.Options{Durability: sqlitequeue.Process})
		}
	})
}
