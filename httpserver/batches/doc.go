// Package batches is OpenAI's Batch API over an httpserver.Submitter: files of up to 50,000 requests as JSON lines go
// in, files of answers and of errors come out. The lines run as ordinary jobs of priority batch, a few at a time, so
// that they queue behind everything interactive; each finished line is stored, and each line has an idempotency key, so
// that a batch goes on after a restart and no line runs twice. Files, batches and lines are kept by a Store.
package batches
