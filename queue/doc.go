// Package queue keeps jobs that nothing may lose, and the event journal of each of them. A Queue holds the waiting
// line in memory and every change of a job in a Store: changes of many callers are committed together by one writer
// and acknowledged only after the commit. Jobs are leased with a fence, so that a late completion is refused;
// interactive work goes before batch work without starving it, tenants share a class by weight, and the line can be
// read in order and claimed out of order. A Journal keeps the frames of event streams so that a reader can resume.
// The package has in-memory stores; queue/sqlitequeue keeps both in SQLite files.
package queue
