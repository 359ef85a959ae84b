package compose

import (
	"context"
	"time"
)

// close ends and releases everything, in the order in which things depend on each other.
func (q *Queen) close() {
	if q.manager != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_ = q.manager.Close(ctx)
		cancel()
	}
	q.kill()
	q.wg.Wait()
	q.keeps.close()
	if q.poll != nil {
		_ = q.poll.Close()
	}
	if q.links != nil {
		q.links.wg.Wait()
	}
	if q.prov != nil {
		_ = q.prov.Close()
	}
	if q.pool != nil {
		_ = q.pool.Close()
	}
	if q.q != nil {
		_ = q.q.Close()
	}
	if q.reg != nil {
		_ = q.reg.Close()
	}
	if q.audit != nil {
		_ = q.audit.Close()
	}
	if q.prom != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_ = q.prom.Shutdown(ctx)
		cancel()
	}
	if q.stores != nil {
		q.stores.close()
	}
}
