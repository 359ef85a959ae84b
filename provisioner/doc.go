// Package provisioner makes a model available on a machine, exactly once however many ask. It holds the
// names that clients use (from configuration and added at run time), resolves them to canonical
// references, runs downloads as shared background jobs with progress that any number of readers can
// follow, and says in plain numbers what a model will need, from its metadata corrected by what machines
// report. Downloading itself is done on the machine, by the modelstore package or by anything behind Hives.
package provisioner
