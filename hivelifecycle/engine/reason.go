package engine

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
)

// verdict is why a worker ended, for a person and for the restart policy.
type verdict struct {
	code      string
	message   string
	permanent bool // trying again changes nothing
	port      bool // the port was taken
}

// sign is a line in a log that tells why.
type sign struct {
	re        *regexp.Regexp
	say       string // %s is the first group, or the line
	code      string
	permanent bool
	port      bool
}

// newSigns compiles them once for a Supervisor, in the order of how much they explain.
func newSigns() []sign {
	re := func(s string) *regexp.Regexp { return regexp.MustCompile(`(?i)` + s) }
	return []sign{
		{re: re(`(address already in use|couldn't bind|could not bind|bind: address)`), say: "its port was taken by another program (%s)", port: true},
		{re: re(`error while loading shared libraries: ([^ :]+)`), say: "a library is missing on this machine: %s; install it or use another build of the engine", permanent: true},
		{re: re(`Library not loaded: (\S+)`), say: "a library is missing on this machine: %s; install it or use another build of the engine", permanent: true},
		{re: re(`(version .GLIBC[^']*' not found)`), say: "the engine was built for a newer system (%s); use another build", permanent: true},
		{re: re(`(cuda error: out of memory|cudaMalloc failed: out of memory|CUDA out of memory|OutOfDeviceMemory|torch\.\S*OutOfMemoryError|hipErrorOutOfMemory|failed to allocate [^\n]*buffer|unable to allocate [^\n]*buffer|std::bad_alloc|Cannot allocate memory|out of memory)`),
			say: "there was not enough memory for it (%s); use fewer slots, a smaller context, a smaller model or another device", code: "INSUFFICIENT_VRAM"},
		{re: re(`(No available memory for the cache blocks|less than desired GPU memory utilization)`), say: "there was not enough memory for it (%s); use a smaller context or another device", code: "INSUFFICIENT_VRAM"},
		{re: re(`(CUDA driver version is insufficient|no CUDA-capable device|no ROCm-capable device|Failed to infer device type)`), say: "it can't use this machine's GPU (%s); check the driver", permanent: true},
		{re: re(`(unknown model architecture: \S+)`), say: "this engine's version does not know the model (%s); use a newer engine", permanent: true},
		{re: re(`(failed to open GGUF file[^\n]*)`), say: "the model can't be loaded (%s); check that the file exists and is readable", permanent: true},
		{re: re(`(invalid magic|bad magic|not a GGUF|data is not within the file bounds|failed to read tensor|corrupted or incomplete|gguf_init_from_file[^\n]*failed|error loading model[^\n]*)`),
			say: "the model file can't be loaded (%s); it is damaged or of the wrong kind: remove it and fetch it again", permanent: true},
		{re: re(`(No such file or directory|failed to load model[^\n]*)`), say: "the model can't be loaded (%s); check that the file exists and is readable", permanent: true},
		{re: re(`(invalid argument: \S+|unrecognized arguments: [^\n]*|unknown (?:option|argument|flag)[^\n]*|flag provided but not defined[^\n]*)`), say: "it does not understand its arguments (%s); check the engine's command and the model's args", permanent: true},
	}
}

// explain makes a sentence of an exit and the last lines of the log.
func explain(signs []sign, st exitStatus, wasReady bool, tail []string) verdict {
	text := tail[max(0, len(tail)-60):]
	if !wasReady || st.code != 0 || st.signal != 0 || !st.known {
		for _, s := range signs {
			for i := len(text) - 1; i >= 0; i-- {
				if strings.HasPrefix(text[i], "[rbee] ") {
					break // what is above belongs to a former process
				}
				m := s.re.FindStringSubmatch(text[i])
				if m == nil {
					continue
				}
				return verdict{code: s.code, permanent: s.permanent && !wasReady, port: s.port && !wasReady, message: "the engine ended: " + fmt.Sprintf(s.say, clip(m[1]))}
			}
		}
	}
	how := "it ended by itself with exit code 0"
	switch {
	case !st.known:
		how = "its process is gone"
	case st.signal == syscall.SIGKILL:
		how = "it was killed (SIGKILL); most often that is the system for want of memory, see the kernel's log"
	case st.signal == syscall.SIGSEGV, st.signal == syscall.SIGABRT, st.signal == syscall.SIGBUS, st.signal == syscall.SIGILL:
		how = fmt.Sprintf("it crashed (%v)", st.signal)
		if st.signal == syscall.SIGILL {
			how += "; this build needs a newer processor"
		}
	case st.signal != 0:
		how = fmt.Sprintf("it was ended by a signal (%v)", st.signal)
	case st.code != 0:
		how = fmt.Sprintf("it ended with exit code %d", st.code)
	}
	if last := lastLine(text); last != "" {
		how += "; its last line was: " + clip(last)
	}
	return verdict{message: "the engine ended: " + how}
}

func lastLine(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "[rbee] ") {
			return ""
		}
		if s := strings.TrimSpace(lines[i]); s != "" {
			return s
		}
	}
	return ""
}

func clip(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	if r := []rune(s); len(r) > 200 {
		return string(r[:200]) + "..."
	}
	return s
}
