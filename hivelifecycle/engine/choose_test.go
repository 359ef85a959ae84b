package engine

import (
	"slices"
	"testing"
)

func TestChoose(t *testing.T) {
	pkg := func(version, goos, backend string) Package {
		return Package{Engine: LlamaCpp, Version: version, OS: goos, Arch: "amd64", Backend: backend}
	}
	c := Catalog{Packages: []Package{pkg("b2", "linux", "cpu"), pkg("b2", "linux", "vulkan"), pkg("b1", "linux", "cuda"), pkg("b2", "darwin", "metal"), pkg("b1", "linux", "cpu")}}
	nvidia, amd, apple := []Device{{Backend: "cpu"}, {Backend: "cuda"}}, []Device{{Backend: "cpu"}, {Backend: "rocm"}}, []Device{{Backend: "cpu"}, {Backend: "metal"}}
	for _, tc := range []struct {
		name, version, backend, goos string
		devices                      []Device
		want                         string
	}{
		{"bare", "", "", "linux", nil, "b2 cpu"},
		{"nvidia", "", "", "linux", nvidia, "b1 cuda"},
		{"nvidia, a version that has no cuda", "b2", "", "linux", nvidia, "b2 vulkan"},
		{"amd", "", "", "linux", amd, "b2 vulkan"},
		{"amd, cpu wanted", "", "cpu", "linux", amd, "b2 cpu"},
		{"older", "b1", "", "linux", nil, "b1 cpu"},
		{"apple", "", "", "darwin", apple, "b2 metal"},
		{"none", "b9", "", "linux", nil, ""},
		{"none of that backend", "", "rocm", "linux", amd, ""},
	} {
		p, err := c.Choose(LlamaCpp, tc.version, tc.backend, tc.goos, "amd64", tc.devices)
		if got := p.Version + " " + p.Backend; (err != nil) != (tc.want == "") || err == nil && got != tc.want {
			t.Errorf("%s: %s %v, want %s", tc.name, got, err, tc.want)
		}
	}
	if got := Backends([]Device{{Backend: "vulkan"}}); !slices.Equal(got, []string{"vulkan", "cpu"}) {
		t.Error(got)
	}
	if Program(LlamaCpp) != "llama-server" || Program("mine") != "mine" {
		t.Error("programs")
	}
}
