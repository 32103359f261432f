package corpus

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kinds are the collections of faulty input, with how many cases each must have at least. Run a kind's
// test with -v to see its cases by name.
var kinds = []struct {
	what, pattern string
	atLeast       int
}{
	{"topologies", "../topology/testdata/*.yaml", 70},
	{"broker.conf files", "../brokerconf/testdata/faulty/*.conf", 30},
	{"playbooks", "../playbook/testdata/*.yaml", 25},
	{"journals", "../run/testdata/journals/*.jsonl", 25},
	{"saved plans", "../plan/testdata/saved/*.json", 20},
	{"stores", "../store/testdata/stores/*.txt", 40},
	{"protocol replies", "../rocketmq/testdata/replies/*.txt", 60},
}

func TestTheCorpusIsThereAndSaysSomethingAboutEachCase(t *testing.T) {
	total := 0
	for _, k := range kinds {
		files := Files(t, k.pattern)
		inputs := map[string]string{}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, said, ok := Cut(data)
			if !ok || len(said) < len("# x") {
				t.Errorf("%s: nothing is said about it", file)
			}
			if other, twice := inputs[string(input)]; twice {
				t.Errorf("%s is the same case as %s", file, other)
			}
			inputs[string(input)] = file
			if len(data) > 64<<10 {
				t.Errorf("%s has %d bytes: describe it instead", file, len(data))
			}
		}
		t.Logf("%4d %s", len(files), k.what)
		if len(files) < k.atLeast {
			t.Errorf("%d %s, there were %d", len(files), k.what, k.atLeast)
		}
		total += len(files)
	}
	t.Logf("%4d cases in all", total)
	if total < 80 {
		t.Errorf("%d cases", total)
	}
}

func TestBytesAreWhatALineDescribes(t *testing.T) {
	for line, want := range map[string]string{
		`"a\x00" hex:ff01 u16:1 u32:-1`: "a\x00\xff\x01\x00\x01\xff\xff\xff\xff",
		`3*"ab" 2*u16:0x102`:            "ababab\x01\x02\x01\x02",
		`u64:258 "2*3"`:                 "\x00\x00\x00\x00\x00\x00\x01\x022*3",
		``:                              "",
	} {
		if got := Bytes(t, line); string(got) != want {
			t.Errorf("%s: %q", line, got)
		}
	}
	if got := Expand(t, []byte("a\n@ \"b\"\n@3*\"c\"\nd\n")); string(got) != "a\nbcccd\n" {
		t.Errorf("%q", got)
	}
}

func TestAFindingIsShownWithWhatStandsAtItsPlace(t *testing.T) {
	text := []byte("a: 1\r\nbé: [x, y]\n")
	for where, want := range map[string]string{"2:1": "bé:", "2:9": "y", "1:5": ""} {
		line, column, ok := Position("f:" + where)
		at, there := textAt(text, line, column)
		if !ok || !there || at != want {
			t.Errorf("%s: %q %t %t", where, at, ok, there)
		}
	}
	for _, where := range []string{"3:2", "9:1", "0:1", "1:0"} {
		line, column, _ := Position("f:" + where)
		if at, there := textAt(text, line, column); there {
			t.Errorf("%s: %q", where, at)
		}
	}
	if _, _, ok := Position(filepath.Join("a", "b")); ok {
		t.Error("a path has no position")
	}
	if got := comment("a\nb\n"); got != "# a\n# b\n" || !strings.HasPrefix(mark, "# ") || bytes.Contains([]byte(got), []byte(mark)) {
		t.Errorf("%q", got)
	}
}
