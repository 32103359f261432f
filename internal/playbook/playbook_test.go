package playbook_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mqlift/internal/corpus"
	"mqlift/internal/diag"
	"mqlift/internal/playbook"
	"mqlift/internal/step"
	"mqlift/playbooks"
)

func builtIn(t testing.TB) *playbook.Playbook {
	t.Helper()
	p, err := playbook.Load("dledger", step.Requirements())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheBuiltInPlaybookHoldsEveryStepOnce(t *testing.T) {
	if got := playbook.BuiltIn(); !slices.Equal(got, []string{"dledger", "rollback"}) {
		t.Errorf("built in: %q", got)
	}
	p := builtIn(t)
	if p.Name != "dledger" {
		t.Errorf("it is named %q, and looked up by the name of its file", p.Name)
	}
	var steps []string
	for _, s := range p.Stages {
		if s.Clients == "" {
			t.Errorf("stage %s does not say what clients notice", s.Name)
		}
		steps = append(steps, s.Steps...)
	}
	slices.Sort(steps)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(step.Requirements())), steps); diff != "" {
		t.Error("known steps (-) and steps of the playbook (+)\n" + diff)
	}
}

func TestTheBuiltInPlaybookOpensWritesBehindItsPointOfNoReturn(t *testing.T) {
	var marked []string
	for _, s := range builtIn(t).Stages {
		if s.PointOfNoReturn {
			marked = append(marked, s.Name+" "+s.Steps[0])
		}
	}
	if !slices.Equal(marked, []string{"open open-writes"}) {
		t.Errorf("points of no return: %q", marked)
	}
}

func TestAPlaybookIsLoadedByNameOrByFile(t *testing.T) {
	data, err := playbooks.FS.ReadFile("dledger.yaml")
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(own, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := playbook.Load(own, step.Requirements())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(builtIn(t), p); diff != "" {
		t.Error(diff)
	}

	_, err = playbook.Load("dleger", step.Requirements())
	if err == nil || !strings.Contains(err.Error(), "built in are: dledger") {
		t.Errorf("a name that is not built in: %v", err)
	}
	_, err = playbook.Load(own+"x.yaml", step.Requirements())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// The list of all steps is left out of what is said: it is the one that Requirements has.
func TestAFaultyPlaybookIsRefusedWithThePlaceOfEachFault(t *testing.T) {
	steps := strings.Join(slices.Sorted(maps.Keys(step.Requirements())), ", ")
	corpus.Run(t, "testdata/*.yaml", func(t *testing.T, input []byte) string {
		p, err := playbook.Parse("playbook.yaml", input, step.Requirements())
		var refused *diag.Error
		if p != nil || !errors.As(err, &refused) {
			t.Fatalf("playbook %v, error %T %v", p, err, err)
		}
		return strings.ReplaceAll(corpus.Findings(t, input, refused.Findings), steps, "ALL STEPS")
	})
}

// parse writes the playbook as YAML and reads it back.
func parse(t interface{ Fatal(...any) }, p *playbook.Playbook) error {
	data, err := yaml.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = playbook.Parse("own.yaml", data, step.Requirements())
	return err
}

// unproven are "step proof" for each need that no earlier step meets: the rule, written once more.
func unproven(p *playbook.Playbook) []string {
	known, proven, missing := step.Requirements(), map[string]bool{}, []string{}
	for _, stage := range p.Stages {
		for _, name := range stage.Steps {
			for _, need := range known[name].Needs {
				if !proven[need] {
					missing = append(missing, name+" "+need)
				}
			}
			for _, proof := range known[name].Proves {
				proven[proof] = true
			}
		}
	}
	return missing
}

// refusedFor are the same out of the findings; other findings are returned as they are.
func refusedFor(t interface{ Fatalf(string, ...any) }, err error) (missing []string, others diag.Findings) {
	if err == nil {
		return []string{}, nil
	}
	var refused *diag.Error
	if !errors.As(err, &refused) {
		t.Fatalf("%T %v", err, err)
	}
	missing = []string{}
	for _, f := range refused.Findings {
		var name, proof string
		if n, _ := fmt.Sscanf(f.What, "step %s needs %q proven", &name, &proof); n == 2 {
			missing = append(missing, name+" "+proof)
		} else {
			others.Add(f)
		}
	}
	return missing, others
}

// without takes a step out, and its stage when nothing is left in it.
func without(p *playbook.Playbook, name string) *playbook.Playbook {
	q := *p
	q.Stages = nil
	for _, s := range p.Stages {
		s.Steps = slices.DeleteFunc(slices.Clone(s.Steps), func(n string) bool { return n == name })
		if len(s.Steps) > 0 {
			q.Stages = append(q.Stages, s)
		}
	}
	return &q
}

func TestAStepLeftOutIsRefusedWithItsProofsOrNeededByNone(t *testing.T) {
	p := builtIn(t)
	var free []string
	for _, name := range slices.Sorted(maps.Keys(step.Requirements())) {
		q := without(p, name)
		got, others := refusedFor(t, parse(t, q))
		if len(others) > 0 {
			t.Errorf("without %s: %v", name, others.Err())
		}
		if diff := cmp.Diff(unproven(q), got); diff != "" {
			t.Errorf("without %s: needs (-), refused for (+)\n%s", name, diff)
		}
		for _, m := range got {
			if proof := strings.Fields(m)[1]; !slices.Contains(step.Requirements()[name].Proves, proof) {
				t.Errorf("without %s, %s is missed, which it does not prove", name, proof)
			}
		}
		if len(got) == 0 {
			free = append(free, name)
		}
	}
	// Everything on the way to open-writes is there because something needs it. What is not is named
	// here, so that a step that falls out of the chain is noticed.
	want := []string{"bridge-clients", "prove-failover", "shorten-pulls", "unlock-group"}
	if !slices.Equal(free, want) {
		t.Errorf("steps that a playbook may do without: %q, want %q", free, want)
	}
}

func TestAnyOrderOfStepsIsRefusedForExactlyWhatItBreaks(t *testing.T) {
	p := builtIn(t)
	all := slices.Sorted(maps.Keys(step.Requirements()))
	rapid.Check(t, func(t *rapid.T) {
		q := *p
		q.Stages = nil
		for _, s := range p.Stages {
			s.Steps = slices.Clone(s.Steps)
			q.Stages = append(q.Stages, s)
		}
		for range rapid.IntRange(0, 3).Draw(t, "swaps") {
			a, b := stepAt(&q, rapid.SampledFrom(all).Draw(t, "a")), stepAt(&q, rapid.SampledFrom(all).Draw(t, "b"))
			*a, *b = *b, *a
		}
		r := &q
		if rapid.Bool().Draw(t, "leave one out") {
			r = without(r, rapid.SampledFrom(all).Draw(t, "left out"))
		}
		got, others := refusedFor(t, parse(t, r))
		if diff := cmp.Diff(unproven(r), got); diff != "" {
			t.Errorf("needs (-), refused for (+)\n%s", diff)
		}
		if opensFirst(r) != (len(others) == 0) {
			t.Errorf("writes are opened at the beginning of the marked stage: %v; said: %v", opensFirst(r), others.Err())
		}
	})
}

func stepAt(p *playbook.Playbook, name string) *string {
	for i := range p.Stages {
		for j := range p.Stages[i].Steps {
			if p.Stages[i].Steps[j] == name {
				return &p.Stages[i].Steps[j]
			}
		}
	}
	return new(string)
}

// opensFirst tells whether open-writes, where there is one, and the mark go together.
func opensFirst(p *playbook.Playbook) bool {
	for _, s := range p.Stages {
		at := slices.Index(s.Steps, "open-writes")
		if at > 0 || (at == 0) != s.PointOfNoReturn {
			return false
		}
	}
	return true
}

func FuzzParseRefusesOrKeepsToTheRules(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../playbooks/dledger.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	known := step.Requirements()
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := playbook.Parse("fuzz.yaml", data, known)
		if err != nil {
			var refused *diag.Error
			if p != nil || !errors.As(err, &refused) || len(refused.Findings) == 0 {
				t.Fatalf("playbook %v, error %T %v", p, err, err)
			}
			for _, f := range refused.Findings {
				if !strings.HasPrefix(f.Where, "fuzz.yaml:") || f.What == "" || f.Do == "" {
					t.Errorf("not three parts: %+v", f)
				}
			}
			return
		}
		if missing := unproven(p); len(missing) > 0 || !opensFirst(p) {
			t.Errorf("read although it breaks %q", missing)
		}
	})
}
