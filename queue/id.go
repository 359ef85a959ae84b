package queue

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"time"
)

// An id is "job_", 13 characters that hold the 63-bit key, and 8 random ones. The key is the time of its making in
// milliseconds since 2024, then 22 random bits (or the key before plus one), so that ids and keys sort by time and
// the key is the table's only index.
const (
	idPrefix   = "job_"
	idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	keyChars   = 13
	saltChars  = 8
	idLen      = len(idPrefix) + keyChars + saltChars
	keyShift   = 22
	keyEpochMs = 1704067200000 // 2024-01-01
)

// ParseID returns the integer key inside a job id, and false when the id was not made by this package.
func ParseID(id string) (key int64, ok bool) {
	if len(id) != idLen || !strings.HasPrefix(id, idPrefix) {
		return 0, false
	}
	var k uint64
	for i := len(idPrefix); i < idLen; i++ {
		v := strings.IndexByte(idAlphabet, id[i])
		if v < 0 {
			return 0, false
		}
		if i < len(idPrefix)+keyChars {
			if k >= 1<<59 && i == len(idPrefix)+keyChars-1 {
				return 0, false
			}
			k = k<<5 | uint64(v)
		}
	}
	if k == 0 || k > 1<<63-1 {
		return 0, false
	}
	return int64(k), true
}

// makeID writes the id of a key and 40 random bits.
func makeID(key int64, salt uint64) string {
	var b [idLen]byte
	copy(b[:], idPrefix)
	k := uint64(key)
	for i := len(idPrefix) + keyChars - 1; i >= len(idPrefix); i-- {
		b[i] = idAlphabet[k&31]
		k >>= 5
	}
	for i := idLen - 1; i >= len(idPrefix)+keyChars; i-- {
		b[i] = idAlphabet[salt&31]
		salt >>= 5
	}
	return string(b[:])
}

// keyFloor is the smallest key that a job made at t can have.
func keyFloor(t time.Time) int64 {
	ms := t.UnixMilli() - keyEpochMs
	if ms < 0 {
		return 0
	}
	return ms << keyShift
}

// KeyBefore returns a key above every job that was submitted before t, for stores that look for old jobs.
func KeyBefore(t time.Time) int64 { return keyFloor(t.Add(time.Millisecond)) }

// minter makes ids; it is safe for concurrent use.
type minter struct {
	mu   sync.Mutex
	last int64
	rand *bufio.Reader
	buf  [12]byte
}

func newMinter(r io.Reader) *minter {
	if r == nil {
		r = rand.Reader
	}
	return &minter{rand: bufio.NewReaderSize(r, 1024)}
}

// raise makes every further key greater than key.
func (m *minter) raise(key int64) {
	m.mu.Lock()
	m.last = max(m.last, key)
	m.mu.Unlock()
}

func (m *minter) next(now time.Time) (string, int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.buf
	if _, err := io.ReadFull(m.rand, b[:]); err != nil {
		// an injected source ran dry: the key alone still makes the id unique
		*b = [12]byte{}
	}
	key := keyFloor(now) | int64(binary.LittleEndian.Uint32(b[8:])&(1<<keyShift-1))
	if key <= m.last {
		key = m.last + 1
	}
	m.last = key
	return makeID(key, binary.LittleEndian.Uint64(b[:8])), key
}
