// Package e2e tests the programs from outside: it builds the binaries, starts them, speaks the contract's HTTP to them
// with real clients, and kills, cuts and floods them.
package e2e
