package engine

import "slices"

// Program is the name of the executable of an engine: llama-server for llama.cpp.
func Program(engine string) string {
	if p := adapterOf(engine).program; p != "" {
		return p
	}
	return engine
}

// Backends lists the backends that builds for a machine may have, the best first: those of its devices, Vulkan where
// there is a GPU that speaks it, then the CPU.
func Backends(devices []Device) []string {
	var out []string
	for _, b := range []string{"cuda", "rocm", "metal"} {
		if slices.ContainsFunc(devices, func(d Device) bool { return d.Backend == b }) {
			out = append(out, b)
		}
	}
	if slices.ContainsFunc(devices, func(d Device) bool { return d.Backend == "cuda" || d.Backend == "rocm" || d.Backend == "vulkan" }) {
		out = append(out, "vulkan")
	}
	return append(out, "cpu")
}

// Choose picks the build of an engine that fits a machine best: the first of the catalogue that is for its system and
// for the best of its backends. An empty version or backend leaves the choice to the catalogue's order.
func (c Catalog) Choose(engine, version, backend, goos, arch string, devices []Device) (Package, error) {
	backends := Backends(devices)
	if backend != "" {
		backends = []string{backend}
	}
	fit := c.Fitting(engine, version, goos, arch, backends)
	if len(fit) == 0 {
		return Package{}, invalid("the catalogue has no %.60s %.60s for %s/%s with one of the backends %q; add one to it (configuration key engine_catalog), or name url and sha256",
			engine, version, goos, arch, backends)
	}
	return fit[0], nil
}
