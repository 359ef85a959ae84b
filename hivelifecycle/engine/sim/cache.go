package sim

import (
	"container/list"
	"sync"
)

const (
	blockChars = 64   // 16 tokens of 4 characters
	blockSize  = 16   // tokens
	maxBlocks  = 4096 // 65,536 tokens
)

// cache is the prefix cache: chained hashes of blocks of text, least recently used first out.
type cache struct {
	mu    sync.Mutex
	items map[uint64]*list.Element
	order *list.List
}

func newCache() *cache {
	return &cache{items: make(map[uint64]*list.Element), order: list.New()}
}

// lookup is the number of tokens at the beginning of s that are in the cache.
func (c *cache) lookup(s string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, n := uint64(hashStart), 0
	for len(s) >= blockChars {
		h = hash(h, s[:blockChars])
		e, ok := c.items[h]
		if !ok {
			break
		}
		c.order.MoveToFront(e)
		s, n = s[blockChars:], n+blockSize
	}
	return n
}

// add puts the whole blocks of s into the cache.
func (c *cache) add(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := uint64(hashStart)
	for len(s) >= blockChars {
		h = hash(h, s[:blockChars])
		if e, ok := c.items[h]; ok {
			c.order.MoveToFront(e)
		} else {
			c.items[h] = c.order.PushFront(h)
			if len(c.items) > maxBlocks {
				last := c.order.Back()
				c.order.Remove(last)
				delete(c.items, last.Value.(uint64))
			}
		}
		s = s[blockChars:]
	}
}
