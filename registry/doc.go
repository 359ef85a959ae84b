// Package registry keeps what a fleet of inference machines is made of: hives (machines) and workers
// (engine processes). Hives persist through a narrow Store; workers live in memory and are rebuilt from
// the hives' reports. Readers get immutable snapshots through one atomic load, consoles a bounded feed
// of changes. A report carries an epoch and a sequence number, so that what arrives late or from an
// earlier life of a hive is refused instead of believed, and every age is measured on this machine's clock.
package registry
