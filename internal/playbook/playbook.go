// Package playbook reads the order of work and refuses an order that breaks what its steps require.
package playbook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"mqlift/internal/diag"
	"mqlift/playbooks"
)

// Playbook is an order of work: stages, each an ordered list of step names.
type Playbook struct {
	Name   string  `yaml:"name" json:"name"`
	Title  string  `yaml:"title" json:"title"`
	Stages []Stage `yaml:"stages" json:"stages"`
}

// Stage is a part of the work during which clients see the same thing.
type Stage struct {
	Name string `yaml:"name" json:"name"`
	// Clients says what producers and consumers notice during the stage.
	Clients string `yaml:"clients" json:"clients"`
	// PointOfNoReturn marks the stage whose first step ends the free way back.
	PointOfNoReturn bool     `yaml:"pointOfNoReturn" json:"pointOfNoReturn,omitempty"`
	Steps           []string `yaml:"steps" json:"steps"`
}

// Requirement is what a playbook must keep to for one step.
type Requirement struct {
	Needs  []string // proofs that earlier steps must have made
	Proves []string
	// Opens marks the step after which going back costs messages: it must be the first step of the
	// stage marked pointOfNoReturn.
	Opens bool
}

// Load reads the playbook built in under that name, or, when name holds a slash or ends in .yaml,
// the file. The known steps are given with what they require. Every problem is reported at once as
// *diag.Error with file:line:column.
func Load(name string, known map[string]Requirement) (*Playbook, error) {
	var data []byte
	var err error
	if strings.ContainsRune(name, '/') || strings.HasSuffix(name, ".yaml") {
		data, err = os.ReadFile(name)
	} else {
		data, err = playbooks.FS.ReadFile(name + ".yaml")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no playbook %q is built in; built in are: %s; a file is given by a path or a name ending in .yaml", name, strings.Join(BuiltIn(), ", "))
		}
		name += ".yaml"
	}
	if err != nil {
		return nil, fmt.Errorf("reading playbook: %w", err)
	}
	return Parse(name, data, known)
}

// BuiltIn lists the names of the playbooks in the binary.
func BuiltIn() []string {
	entries, err := playbooks.FS.ReadDir(".")
	if err != nil {
		return nil // an embedded directory is always readable
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// mostBytes bounds a playbook: the built-in one has 3 KiB, and deep nesting costs the YAML library
// time that grows with its square.
const mostBytes = 16 << 10

// Parse reads a playbook; file is used for positions only.
func Parse(file string, data []byte, known map[string]Requirement) (_ *Playbook, err error) {
	defer func() {
		if recover() != nil { // goccy/go-yaml 1.19.2 panics on some texts; found by the fuzz test
			err = yamlError(file, errors.New("the YAML parser gave up on it"))
		}
	}()
	if len(data) > mostBytes {
		return nil, yamlError(file, fmt.Errorf("it has more than %d bytes, which is no playbook", mostBytes))
	}
	var p Playbook
	if err := yaml.UnmarshalWithOptions(data, &p, yaml.Strict()); err != nil {
		return nil, yamlError(file, err)
	}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, yamlError(file, err)
	}
	c := checker{file: file, tree: tree, known: known}
	if len(tree.Docs) > 1 {
		c.found.Add(diag.Finding{Check: "playbook.syntax", Severity: diag.Fail, Where: c.position(tree.Docs[1].Start), What: "a second document begins here, and only the first one would be read", Do: "keep one playbook in a file"})
	}
	c.check(&p)
	if err := c.found.Err(); err != nil {
		return nil, err
	}
	return &p, nil
}

func yamlError(file string, err error) error {
	where, what := file+":1:1", err.Error()
	var ye yaml.Error
	if errors.As(err, &ye) {
		what = ye.GetMessage()
		var wrong *yaml.TypeError
		if errors.As(err, &wrong) {
			what = fmt.Sprintf("this is %s where %s belongs", yamlKind(wrong.SrcType), yamlKind(wrong.DstType))
		}
		if t := ye.GetToken(); t != nil && t.Position != nil {
			where = fmt.Sprintf("%s:%d:%d", file, t.Position.Line, t.Position.Column)
		}
	}
	return &diag.Error{Findings: diag.Findings{{
		Check: "playbook.syntax", Severity: diag.Fail, Where: where, What: what,
		Do: "compare with the output of `mqlift playbook show dledger`",
	}}}
}

// yamlKind is what a playbook's reader calls a Go type.
func yamlKind(t reflect.Type) string {
	if t == nil {
		return "nothing"
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a mapping"
	}
	return "a number"
}

type checker struct {
	file  string
	tree  *ast.File
	known map[string]Requirement
	found diag.Findings
}

// at is the position of a node by its YAML path, or the file's beginning.
func (c *checker) at(path string) string {
	p, err := yaml.PathString(path)
	if err != nil {
		return c.position(nil)
	}
	node, err := p.FilterFile(c.tree)
	if err != nil {
		return c.position(nil)
	}
	// A block mapping's own token is the colon behind its first key.
	switch n := node.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return c.position(n.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return c.position(n.Key.GetToken())
	}
	return c.position(node.GetToken())
}

func (c *checker) position(t *token.Token) string {
	if t == nil || t.Position == nil {
		return c.file + ":1:1"
	}
	return fmt.Sprintf("%s:%d:%d", c.file, t.Position.Line, t.Position.Column)
}

func (c *checker) fail(path, what, do string) {
	c.found.Add(diag.Finding{Check: "playbook.order", Severity: diag.Fail, Where: c.at(path), What: what, Do: do})
}

func (c *checker) check(p *Playbook) {
	if p.Name == "" {
		c.fail("$", "the playbook has no name", "add `name:`")
	}
	if len(p.Stages) == 0 {
		c.fail("$", "the playbook has no stages", "add `stages:`")
	}
	provedBy := map[string][]string{}
	for name, r := range c.known {
		for _, proof := range r.Proves {
			provedBy[proof] = append(provedBy[proof], name)
		}
	}
	proven, seen := map[string]bool{}, map[string]bool{}
	noReturn := false
	for i, stage := range p.Stages {
		path := fmt.Sprintf("$.stages[%d]", i)
		if stage.Name == "" {
			c.fail(path, "a stage has no name", "add `name:`")
		}
		if len(stage.Steps) == 0 {
			c.fail(path, fmt.Sprintf("stage %q has no steps", stage.Name), "add `steps:` or take the stage out")
		}
		if stage.PointOfNoReturn && noReturn {
			c.fail(path+".pointOfNoReturn", "a second stage is marked as the point of no return", "mark the one that opens writes")
		}
		noReturn = noReturn || stage.PointOfNoReturn
		for j, name := range stage.Steps {
			path := fmt.Sprintf("%s.steps[%d]", path, j)
			r, ok := c.known[name]
			if !ok {
				c.fail(path, fmt.Sprintf("there is no step %q", name), "steps are: "+strings.Join(names(c.known), ", "))
				continue
			}
			if seen[name] {
				c.fail(path, fmt.Sprintf("step %s stands twice", name), "leave the first one")
			}
			seen[name] = true
			for _, need := range r.Needs {
				if !proven[need] {
					by := provedBy[need]
					sort.Strings(by)
					c.fail(path, fmt.Sprintf("step %s needs %q proven before it, and no earlier step does", name, need), "put "+strings.Join(by, " or ")+" before it")
				}
			}
			for _, proof := range r.Proves {
				proven[proof] = true
			}
			if r.Opens && (!stage.PointOfNoReturn || j != 0) {
				c.fail(path, fmt.Sprintf("step %s ends the free way back but does not begin a stage marked pointOfNoReturn", name), "make it the first step of a stage with `pointOfNoReturn: true`")
			}
			if !r.Opens && stage.PointOfNoReturn && j == 0 {
				c.fail(path, fmt.Sprintf("stage %q is marked as the point of no return but begins with %s, which can be undone", stage.Name, name), "mark the stage that opens writes")
			}
		}
	}
}

func names(known map[string]Requirement) []string {
	var l []string
	for n := range known {
		l = append(l, n)
	}
	sort.Strings(l)
	return l
}
