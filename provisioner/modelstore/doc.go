// Package modelstore keeps the model files of one machine: content-addressed, each once, verified by size
// and checksum before anything can use it, within a budget. A download is shared by all who ask, fetched
// in parallel ranges, and continued where it stopped after a kill -9. Files come from the Hugging Face hub
// or a mirror of it, from URLs that the operator allowed, from other machines that have them, or are used
// where they lie. Everything the store owns is reached through an os.Root, so that no symlink leads out.
package modelstore
