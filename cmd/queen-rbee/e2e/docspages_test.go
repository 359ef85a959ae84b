package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// notRun is a block that no test can run as it stands. Its fence says `sh norun`, and the prose above it says why.
type notRun struct {
	page  string
	first string // the block's first line begins so
	says  string // words of the paragraph above
}

// norun lists all of them.
func norun() []notRun {
	return []notRun{
		{"README.md", "make test ", "runs this page too"},
		{"CONTRIBUTING.md", "make test ", "run this page too"},
		{"docs/bench/provisioner.md", "cd provisioner", "takes minutes"},
		{"docs/bench/registry.md", "cd registry", "half a minute"},
		{"docs/releasing.md", "make consumer-test", "takes minutes"},
	}
}

// page is one page with its fences.
type page struct {
	name    string
	text    string
	run     []fence
	skipped []fence
	other   []fence
}

// fence is one block between two fences.
type fence struct {
	line   int    // of the fence
	info   string // what stands behind it
	text   string
	before string // the paragraph above
	shows  string // the text block right below: what it prints
}

// readPages reads every page that may tell of commands.
func readPages(t *testing.T) []page {
	t.Helper()
	names := []string{"README.md", "SECURITY.md", "CONTRIBUTING.md"}
	err := filepath.WalkDir(filepath.Join(root(), "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			var rel string
			rel, err = filepath.Rel(root(), path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var pages []page
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root(), name))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, readPage(name, string(text)))
	}
	return pages
}

// readPage finds the fences of a page.
func readPage(name, text string) page {
	p := page{name: name, text: text}
	var all []fence
	var open *fence
	near, paragraph, gap := -1, "", false // the sh block that only empty lines part from here
	for i, line := range strings.Split(text, "\n") {
		bare := strings.TrimSpace(line)
		mark := strings.HasPrefix(bare, "```") || strings.HasPrefix(bare, "~~~")
		switch {
		case mark && open == nil:
			open = &fence{line: i + 1, info: strings.TrimSpace(strings.TrimLeft(bare, "`~")), before: paragraph}
		case mark:
			switch {
			case open.info == "text" && near >= 0:
				all[near].shows, near = open.text, -1
			case open.info == "sh":
				near = len(all)
			}
			all, open, paragraph, gap = append(all, *open), nil, "", false
		case open != nil:
			open.text += line + "\n"
		case bare == "":
			gap = true
		default:
			if gap {
				paragraph, gap = "", false
			}
			paragraph, near = paragraph+bare+" ", -1
		}
	}
	if open != nil {
		all = append(all, *open)
	}
	for _, f := range all {
		switch f.info {
		case "sh":
			p.run = append(p.run, f)
		case "sh norun":
			p.skipped = append(p.skipped, f)
		default:
			p.other = append(p.other, f)
		}
	}
	return p
}

var (
	commandLine = regexp.MustCompile(`^(?:[$%] +\S|(?:[A-Z_]+=\S* +)?(?:rbee|queen-rbee|rbee-hive|curl|wget|make|go|git|ssh|scp|sudo|systemctl|journalctl|` +
		`export|cd|cp|mv|rm|mkdir|cat|kill|docker|podman|npm|pip|apt|apt-get|brew|sqlite3|promtool|prometheus|bash|sh|\./\S+|bin/\S+|\.ci/\S+)(?: +[\w"'$./~<@{(-]|$))`)
	topKey     = regexp.MustCompile(`(?m)^[a-z_]+:`)
	inlineMake = regexp.MustCompile("`make ([a-z-]+)[` ]")
	inlineCI   = regexp.MustCompile("`(\\.ci/[a-z-]+)")
	testName   = regexp.MustCompile(`go test [^` + "`\n" + `]*-run ([A-Z][A-Za-z]+)`)
)

// checkPages holds the pages to the rule: what looks like a command is in a `sh` block and run, or in the list of those that can't
// be, with its reason on the page; and how many there are on each page is what testdata/docs.txt says.
func checkPages(t *testing.T, pages []page) {
	list := norun()
	var counts strings.Builder
	for _, p := range pages {
		if strings.Count(p.name, "/") < 2 || len(p.run)+len(p.skipped) > 0 { // decisions, figures and programs mostly have none
			fmt.Fprintf(&counts, "%s: %d run, %d not, %d outputs\n", p.name, len(p.run), len(p.skipped), p.outputs())
		}
		for _, f := range p.other {
			p.notACommand(t, f)
			if f.info == "yaml" {
				p.queenTakes(t, f)
			}
		}
		p.noIndentedCommand(t)
		for _, f := range p.skipped {
			i := slices.IndexFunc(list, func(n notRun) bool { return n.page == p.name && strings.HasPrefix(f.text, n.first) })
			if i < 0 {
				t.Errorf("%s:%d is not run, and the test's list does not know it", p.name, f.line)
				continue
			}
			if !strings.Contains(f.before, list[i].says) {
				t.Errorf("%s:%d: the paragraph above does not say %q: %q", p.name, f.line, list[i].says, f.before)
			}
			list = slices.Delete(list, i, i+1)
			p.targetsExist(t, f)
		}
		p.namesExist(t)
	}
	for _, n := range list {
		t.Errorf("%s has no block that begins with %q and isn't run: take it off the list", n.page, n.first)
	}
	golden := filepath.Join("testdata", "docs.txt")
	want, err := os.ReadFile(golden)
	if os.Getenv("RBEE_UPDATE") == "1" {
		err = os.WriteFile(golden, []byte(counts.String()), 0o644)
		want = []byte(counts.String())
	}
	if err != nil || string(want) != counts.String() {
		t.Errorf("the pages hold other blocks than %s says (%v); if that is right, RBEE_UPDATE=1 writes it anew. They are\n%s", golden, err, counts.String())
	}
}

func (p page) outputs() int {
	n := 0
	for _, f := range p.run {
		if f.shows != "" {
			n++
		}
	}
	return n
}

// notACommand wants a fence that isn't run to hold no command.
func (p page) notACommand(t *testing.T, f fence) {
	t.Helper()
	switch f.info {
	case "go", "yaml", "json", "text", "":
	default:
		t.Errorf("%s:%d: a fence of kind %q is neither run nor known as data: use sh for commands, text for output", p.name, f.line, f.info)
		return
	}
	if f.info == "go" { // make consumer-test builds and runs these
		return
	}
	for line := range strings.Lines(f.text) {
		if commandLine.MatchString(strings.TrimSpace(line)) {
			t.Errorf("%s:%d: a command outside a sh block: %s", p.name, f.line, line)
		}
	}
}

// queenTakes wants a configuration that a page shows to be one, and the page of all keys to show all of them.
func (p page) queenTakes(t *testing.T, f fence) {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "queen.yaml")
	if err := os.WriteFile(file, []byte(f.text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "queen-rbee"), "--config", file, "config", "check")
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(file))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s:%d: the queen does not take this: %s", p.name, f.line, out)
		return
	}
	for _, m := range topKey.FindAllString(string(out), -1) {
		if p.name == "docs/configuration.md" && !strings.Contains("\n"+f.text, "\n"+m) {
			t.Errorf("%s:%d does not show %s", p.name, f.line, m)
		}
	}
}

// noIndentedCommand wants no command in an indented block, which no fence marks.
func (p page) noIndentedCommand(t *testing.T) {
	t.Helper()
	fenced, empty := false, true
	for i, line := range strings.Split(p.text, "\n") {
		bare := strings.TrimSpace(line)
		if strings.HasPrefix(bare, "```") || strings.HasPrefix(bare, "~~~") {
			fenced = !fenced
		}
		if !fenced && empty && strings.HasPrefix(line, "    ") && commandLine.MatchString(bare) {
			t.Errorf("%s:%d: a command in an indented block: %s", p.name, i+1, bare)
		}
		empty = bare == ""
	}
}

// targetsExist wants make to know what a block that is not run asks of it.
func (p page) targetsExist(t *testing.T, f fence) {
	t.Helper()
	for line := range strings.Lines(f.text) {
		if w := strings.Fields(line); len(w) > 1 && w[0] == "make" {
			makeKnows(t, p.name, w[1])
		}
	}
}

func makeKnows(t *testing.T, name, target string) {
	t.Helper()
	cmd := exec.Command("make", "-n", target)
	cmd.Dir = root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s tells of make %s: %v: %s", name, target, err, out)
	}
}

// namesExist wants the make targets, scripts and tests that the prose names to be there.
func (p page) namesExist(t *testing.T) {
	t.Helper()
	for _, m := range inlineMake.FindAllStringSubmatch(p.text, -1) {
		makeKnows(t, p.name, m[1])
	}
	for _, m := range inlineCI.FindAllStringSubmatch(p.text, -1) {
		if _, err := os.Stat(filepath.Join(root(), m[1])); err != nil {
			t.Errorf("%s names %s: %v", p.name, m[1], err)
		}
	}
	for _, m := range testName.FindAllStringSubmatch(p.text, -1) {
		cmd := exec.Command("git", "grep", "-qE", "^func [A-Za-z0-9]*"+m[1], "--", "*_test.go")
		cmd.Dir = root()
		if err := cmd.Run(); err != nil {
			t.Errorf("%s names a test %s that is nowhere: %v", p.name, m[1], err)
		}
	}
}
