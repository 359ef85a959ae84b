module github.com/queen-rbee/queen-rbee/eviction

go 1.26.0

require github.com/google/go-cmp v0.7.0
