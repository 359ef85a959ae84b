// Package monitor says who is well. Machines (nodes) are judged by their heartbeats and, when those
// stop, by probes: online, then suspect, then offline, with hysteresis on the way back. When most of the
// fleet vanishes at once it suspects its own network: it tells the truth about the states, raises an
// alert and holds the failover back. Workers are judged by the results of their requests: five failures
// in a row eject one for a while that grows with each time, never more than half of a pool, never the last.
package monitor
