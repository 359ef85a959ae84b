package sim

import (
	"strings"
	"unicode/utf8"
)

// A token is a word with a space behind it, so that the text alone tells where tokens end.
const words = `a able about above across after again all almost along also always among and another any are around as ask ` +
	`at away back ball be bear beautiful because bed bee been before began behind below best better between big bird blue boat book both ` +
	`box boy bread bright brother brown but by cake call came can car cat chair child clean clear close cloud cold come could count ` +
	`day dear deep did dog door down draw dream drink drop dry each early earth eat egg end even ever every eye face fall family far farm ` +
	`fast father feel few field find fine fire first fish flower fly follow food for forest found four free friend from full game garden ` +
	`gave gentle girl give glad go gold good grass great green grew ground had hair half hand happy hard has hat have he hear heart help ` +
	`her here high hill him his hive hold home honey hope horse hot house how hundred idea if in into is it its jump just keep kind king ` +
	`kitchen knew know lake land large last late laugh leaf learn left less let letter life light like line lion listen little live long ` +
	`look lost lot love low made make many map may me meet might milk mind moon more morning most mother mountain mouse mouth move much ` +
	`music must my name near need never new next nice night no north not now of off often old on once one only open or other our out over own page paper park path`

// vocabulary holds exactly 256 words, so that a token is one byte of a hash.
func vocabulary() []string { return strings.Fields(words)[:256] }

// hash is FNV-1a, continued from h, so that the hash of every prefix of a text costs one pass.
func hash(h uint64, s string) uint64 {
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

const hashStart = 14695981039346656037

// mix is the finaliser of splitmix64.
func mix(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// text gives the tokens that follow prompts.
type text struct{ vocab []string }

// token is the word at position i of the answer to the prompt with the given hash, with its space.
func (t text) token(seed uint64, i int) string {
	return t.vocab[mix(seed+uint64(i+1)*0x9e3779b97f4a7c15)&0xff] + " "
}

// split finds where an answer of ours begins in a prompt that ends with the first tokens of it. It returns the hash
// of the prompt proper and the number of tokens that the answer has already. A prompt that does not end in a space
// has none.
func (t text) split(prompt string) (seed uint64, done int) {
	whole := hash(hashStart, prompt)
	if !strings.HasSuffix(prompt, " ") {
		return whole, 0
	}
	// An answer of k tokens begins at most k times the longest word before the end and holds nothing but words, so the
	// search goes back only as far as there are words of ours.
	from := t.wordsFrom(prompt)
	h := hash(hashStart, prompt[:from])
	for pos := from; pos < len(prompt); pos++ {
		if n, ok := t.matches(h, prompt[pos:]); ok {
			return h, n
		}
		h = hash(h, prompt[pos:pos+1])
	}
	return whole, 0
}

// wordsFrom is the offset from which s holds only lower-case words with single spaces; the first of them may be cut.
func (t text) wordsFrom(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		c := s[i]
		if c == ' ' && i+1 < len(s) && s[i+1] == ' ' || c != ' ' && (c < 'a' || c > 'z') {
			return i + 1
		}
	}
	return 0
}

// matches says whether s consists of the tokens 0, 1, ... n-1 of the answer to the prompt with that hash.
func (t text) matches(seed uint64, s string) (n int, ok bool) {
	for s != "" {
		rest, found := strings.CutPrefix(s, t.token(seed, n))
		if !found {
			return 0, false
		}
		s, n = rest, n+1
	}
	return n, n > 0
}

// count is the number of tokens in a prefix that somebody says an answer had.
func count(prefix string) int { return strings.Count(prefix, " ") }

// promptTokens is a quarter of the characters, rounded up.
func promptTokens(s string) int { return (utf8.RuneCountInString(s) + 3) / 4 }
