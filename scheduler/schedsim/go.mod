module github.com/queen-rbee/queen-rbee/scheduler/schedsim

go 1.26.0

require github.com/queen-rbee/queen-rbee/scheduler v0.1.0

require github.com/google/go-cmp v0.7.0

replace github.com/queen-rbee/queen-rbee/scheduler => ../
