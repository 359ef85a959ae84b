package hub

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Choice is what to download of a repository.
type Choice struct {
	Files  []File
	Main   string // the file that an engine is given; "" means the directory
	Reason string // why these, in a sentence
}

// quality ranks quantisations: higher is closer to the original. Full precision ranks below Q8_0: it
// takes two to four times the memory for no difference that a reader sees.
func quality(name string) (label string, rank int) {
	ranks := []string{"IQ1_S", "IQ1_M", "TQ1_0", "IQ2_XXS", "IQ2_XS", "TQ2_0", "Q2_K_S", "IQ2_S", "IQ2_M", "Q2_K", "Q2_K_L", "Q2_K_XL", "IQ3_XXS", "IQ3_XS",
		"Q3_K_S", "IQ3_S", "IQ3_M", "Q3_K_M", "Q3_K_L", "Q3_K_XL", "MXFP4", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q4_K_L", "Q4_K_XL",
		"Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q5_K_L", "Q5_K_XL", "F32", "F16", "BF16", "Q6_K", "Q6_K_L", "Q6_K_XL", "Q8_K_XL", "Q8_0"}
	upper := strings.ToUpper(name)
	best, at := "", -1
	for i, q := range ranks {
		if len(q) >= len(best) && hasToken(upper, q) {
			best, at = q, i
		}
	}
	if at < 0 {
		return "unknown quantisation", 15
	}
	return best, at
}

// hasToken finds q in s between characters that are no letters or digits.
func hasToken(s, q string) bool {
	for from := 0; ; {
		i := strings.Index(s[from:], q)
		if i < 0 {
			return false
		}
		i += from
		end := i + len(q)
		if (i == 0 || !alnum(s[i-1])) && (end == len(s) || !alnum(s[end]) && s[end] != '_') {
			return true
		}
		from = i + 1
	}
}

func alnum(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' }

// shard parses NAME-00001-of-00003.EXT.
func shard(p string) (base string, n, of int) {
	m := regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})(\.[a-z]+)$`).FindStringSubmatch(p)
	if m == nil {
		return p, 1, 1
	}
	n, _ = strconv.Atoi(m[2])
	of, _ = strconv.Atoi(m[3])
	return m[1] + m[4], n, of
}

// group is a GGUF model: one file, or its shards in order.
type group struct {
	name  string
	files []File
	size  int64
	of    int
}

func ggufGroups(files []File) []group {
	byName := map[string]*group{}
	for _, f := range files {
		lower := strings.ToLower(path.Base(f.Path))
		if !strings.HasSuffix(lower, ".gguf") || strings.HasPrefix(lower, "mmproj") || strings.Contains(lower, "imatrix") {
			continue
		}
		base, _, of := shard(f.Path)
		g := byName[base]
		if g == nil {
			g = &group{name: base, of: of}
			byName[base] = g
		}
		g.files = append(g.files, f)
		g.size += f.Size
	}
	var out []group
	for _, g := range byName {
		slices.SortFunc(g.files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
		if len(g.files) == g.of {
			out = append(out, *g)
		}
	}
	slices.SortFunc(out, func(a, b group) int { return cmp.Compare(a.name, b.name) })
	return out
}

// Choose selects what to download: the named file (with all its shards), else the best GGUF
// quantisation that fits into memory bytes (0: not known), else a safetensors repository as a whole.
func Choose(files []File, file string, memory int64) (Choice, error) {
	if file != "" {
		return named(files, file)
	}
	if groups := ggufGroups(files); len(groups) > 0 {
		return bestGGUF(groups, memory)
	}
	return safetensors(files)
}

func named(files []File, file string) (Choice, error) {
	base, _, of := shard(file)
	var c Choice
	for _, f := range files {
		if b, _, o := shard(f.Path); f.Path == file || of > 1 && b == base && o == of {
			c.Files = append(c.Files, f)
		}
	}
	if len(c.Files) == 0 {
		return c, fmt.Errorf("the repository has no file %q; it has %s", file, sample(files))
	}
	if len(c.Files) != of {
		return c, fmt.Errorf("the repository has %d of the %d shards of %q", len(c.Files), of, file)
	}
	slices.SortFunc(c.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	c.Main, c.Reason = c.Files[0].Path, "the file that was named"
	return c, nil
}

func sample(files []File) string {
	var names []string
	for _, f := range files {
		if len(names) == 8 {
			names = append(names, "...")
			break
		}
		names = append(names, f.Path)
	}
	return strings.Join(names, ", ")
}

// bestGGUF takes the highest quality whose weights and a fifth more, for context and buffers, fit.
func bestGGUF(groups []group, memory int64) (Choice, error) {
	fits := func(g group) bool { return memory <= 0 || g.size+g.size/5 <= memory }
	var best *group
	bestRank := -1
	for i := range groups {
		_, rank := quality(groups[i].name)
		if memory <= 0 { // without a figure: the common compromise, not the largest
			if _, q4 := quality("Q4_K_M"); rank > q4 {
				rank = q4 - (rank - q4)
			}
		}
		if fits(groups[i]) && (rank > bestRank || rank == bestRank && groups[i].size > best.size) {
			best, bestRank = &groups[i], rank
		}
	}
	if best == nil {
		small := slices.MinFunc(groups, func(a, b group) int { return cmp.Compare(a.size, b.size) })
		return Choice{}, fmt.Errorf("no quantisation fits: the smallest, %s, takes about %s and the device has %s; use a larger device, or name a file with ::file=", small.name, human(small.size+small.size/5), human(memory))
	}
	label, _ := quality(best.name)
	reason := fmt.Sprintf("%s (%s) of %d quantisations: the best whose weights and a fifth more fit into %s", label, human(best.size), len(groups), human(memory))
	switch {
	case len(groups) == 1:
		reason = fmt.Sprintf("%s (%s): the only one there is", label, human(best.size))
	case memory <= 0:
		reason = fmt.Sprintf("%s (%s) of %d quantisations: the closest to Q4_K_M, for the device's memory is not known", label, human(best.size), len(groups))
	}
	return Choice{Files: best.files, Main: best.files[0].Path, Reason: reason}, nil
}

func safetensors(files []File) (Choice, error) {
	var c Choice
	weights := 0
	for _, f := range files {
		if strings.Contains(f.Path, "/") { // other formats live in directories
			continue
		}
		switch ext := path.Ext(f.Path); {
		case ext == ".safetensors" && !strings.HasPrefix(f.Path, "consolidated"):
			weights++
			c.Files = append(c.Files, f)
		case ext == ".json" || ext == ".jinja" || ext == ".txt" || ext == ".model" || ext == ".tiktoken":
			c.Files = append(c.Files, f)
		}
	}
	if weights == 0 {
		return Choice{}, fmt.Errorf("the repository has neither GGUF nor safetensors files; name one with ::file=; it has %s", sample(files))
	}
	slices.SortFunc(c.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	c.Reason = fmt.Sprintf("%d safetensors files with their configuration and tokenizer", weights)
	return c, nil
}

func human(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
