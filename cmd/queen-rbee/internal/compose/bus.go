package compose

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// bus keeps the last events of the fleet (topic "") and of each operation, and hands them to whoever follows.
type bus struct {
	mu      sync.Mutex
	topics  map[string]*topic
	aliases map[string]string // hive -> operation under way
	now     func() time.Time
}

type topic struct {
	last    uint64
	events  []httpserver.Event // the newest, bounded
	done    time.Time          // an operation that has ended
	wake    chan struct{}      // closed at the next event
	readers int
}

const (
	busEvents    = 1024
	busTopics    = 1024
	busKeep      = 10 * time.Minute
	busFollowers = 64 // buffered events of one follower
)

var _ httpserver.Feed = (*bus)(nil)

func newBus() *bus {
	return &bus{topics: map[string]*topic{}, aliases: map[string]string{}, now: time.Now}
}

// publish adds an event to a topic; last ends an operation.
func (b *bus) publish(name, kind string, data any, last bool) {
	line, err := json.Marshal(data)
	if err != nil {
		return // our own structs: cannot happen
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topic(name)
	t.last++
	t.events = append(t.events, httpserver.Event{ID: t.last, Type: kind, Data: line})
	if len(t.events) > busEvents {
		t.events = append(t.events[:0:0], t.events[len(t.events)-busEvents/2:]...)
	}
	if last {
		t.done = b.now()
	}
	close(t.wake)
	t.wake = make(chan struct{})
}

// topic returns a topic, made where it is new; the caller holds mu.
func (b *bus) topic(name string) *topic {
	if t := b.topics[name]; t != nil {
		return t
	}
	if len(b.topics) >= busTopics/2 {
		for n, t := range b.topics {
			if !t.done.IsZero() && b.now().Sub(t.done) > busKeep || len(b.topics) >= busTopics && n != "" {
				delete(b.topics, n)
			}
		}
	}
	t := &topic{wake: make(chan struct{})}
	b.topics[name] = t
	return t
}

// open makes a topic for an operation, so that it can be followed before its first event.
func (b *bus) open(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topic(name)
}

// Events implements httpserver.Feed.
func (b *bus) Events(ctx context.Context, name string, after uint64) (<-chan httpserver.Event, error) {
	b.mu.Lock()
	_, ok := b.topics[name]
	if name == "" {
		b.topic("")
		ok = true
	}
	b.mu.Unlock()
	if !ok {
		return nil, &codedError{code: "JOB_NOT_FOUND", msg: "no operation has this id, or it ended more than ten minutes ago"}
	}
	out := make(chan httpserver.Event, busFollowers)
	go b.follow(ctx, name, after, out)
	return out, nil
}

func (b *bus) follow(ctx context.Context, name string, after uint64, out chan<- httpserver.Event) {
	defer close(out)
	b.read(name, 1)
	defer b.read(name, -1)
	for {
		b.mu.Lock()
		t := b.topics[name]
		if t == nil {
			b.mu.Unlock()
			return
		}
		var batch []httpserver.Event
		for _, e := range t.events {
			if e.ID > after {
				batch = append(batch, e)
			}
		}
		done, wake := !t.done.IsZero(), t.wake
		b.mu.Unlock()
		for _, e := range batch {
			select {
			case out <- e:
				after = e.ID
			case <-ctx.Done():
				return
			}
		}
		if done && len(batch) == 0 {
			return
		}
		if done {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

// alias makes the steps of a hive go to an operation's topic as well; "" ends that.
func (b *bus) alias(node, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if name == "" {
		delete(b.aliases, node)
		return
	}
	b.aliases[node] = name
}

// aliased is the operation under way on a hive, or "".
func (b *bus) aliased(node string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.aliases[node]
}

// followed reports whether somebody reads a topic.
func (b *bus) followed(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	return t != nil && t.readers > 0
}

func (b *bus) read(name string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.topics[name]; t != nil {
		t.readers += n
	}
}
