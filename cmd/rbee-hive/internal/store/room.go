package store

import (
	"context"
	"time"

	"github.com/queen-rbee/queen-rbee/eviction"
	"github.com/queen-rbee/queen-rbee/provisioner/modelstore"
)

// fetchRate is what a download is taken to bring in a second, when models are weighed by what getting them again takes.
const fetchRate = 50 << 20

// makeRoom chooses the models to drop: the smallest set that is enough, the least worth keeping first. What is pinned or
// in use was not offered. Where all of it would not be enough nothing goes.
func makeRoom(_ context.Context, items []modelstore.Item, need int64) ([]string, error) {
	list := make([]eviction.Item, len(items))
	for i, it := range items {
		used := it.LastUsed
		if used.IsZero() {
			used = it.Added
		}
		list[i] = eviction.Item{ID: it.Ref, Group: "disk", Size: it.Size, LastUsed: used, Uses: float64(it.Uses), ReloadSeconds: float64(it.Size) / fetchRate}
	}
	choice, err := eviction.Plan(time.Now(), list, need, eviction.GDSF)
	if err != nil {
		return nil, nil // the store says what is missing
	}
	return choice.IDs(), nil
}
