//go:build !linux

package queue

import "time"

// suspended is how long the machine slept; other systems are not asked.
func suspended() time.Duration { return 0 }
