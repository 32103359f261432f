package topology

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"mqlift/internal/diag"
)

// place is a position in the file, both counted from 1, columns in characters.
type place struct{ line, column int }

// reader walks the syntax tree and collects findings. The library's own decoder stops at the first
// fault and knows no positions of values that are well formed but wrong, so only its parser is used.
type reader struct {
	file  string
	found []placed
	said  map[placed]bool
}

type placed struct {
	at place
	diag.Finding
}

// value is one node of the file under the name of its key.
type value struct {
	name string
	node ast.Node
	at   place
	key  place // of the key, where there is one
}

// mapping is a node's keys with their values, in the order of the file.
type mapping struct {
	at     place
	keys   []string
	values map[string]value
	// guessed are known keys that unknown ones were taken for, and unclear says that there was a key
	// that could not be read at all: a key that is missing then is no news.
	guessed map[string]bool
	unclear bool
}

// missing tells whether a key is absent and nothing was said about it yet.
func (m mapping) missing(key string) bool {
	_, ok := m.values[key]
	return !ok && !m.guessed[key] && !m.unclear
}

// place is where a key's value is, or, when the key is missing, where the mapping starts.
func (m mapping) place(key string) place {
	if v, ok := m.values[key]; ok {
		return v.at
	}
	return m.at
}

func (r *reader) where(at place) string {
	return fmt.Sprintf("%s:%d:%d", r.file, at.line, at.column)
}

func (r *reader) add(severity diag.Severity, check string, at place, host, what, do string) {
	f := placed{at, diag.Finding{
		Check: "topology." + check, Severity: severity, Host: host, Where: r.where(at), What: what, Do: do,
	}}
	// What stands in defaults is wrong for every member in the same way.
	if r.said[f] {
		return
	}
	if r.said == nil {
		r.said = map[placed]bool{}
	}
	r.said[f] = true
	r.found = append(r.found, f)
}

func (r *reader) fail(check string, at place, what, do string) {
	r.add(diag.Fail, check, at, "", what, do)
}

// findings returns what was found in the order of the file.
func (r *reader) findings() diag.Findings {
	slices.SortFunc(r.found, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.column, b.at.column),
			cmp.Compare(a.Check, b.Check), cmp.Compare(a.What, b.What))
	})
	var l diag.Findings
	for _, p := range r.found {
		l.Add(p.Finding)
	}
	return l
}

// document parses the file down to its one root node. A syntax error ends the reading: what comes
// after it would be guessed.
func (r *reader) document(data []byte) (value, bool) {
	start := place{1, 1}
	if len(data) > mostBytes {
		r.fail("syntax", start, fmt.Sprintf("the file has more than %d bytes, which is no topology", mostBytes), "name a topology")
		return value{}, false
	}
	if at, ok := invalidUTF8(data); ok {
		r.fail("syntax", at, "this is not UTF-8 text", "save the file as UTF-8")
		return value{}, false
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	file, err := parse(text)
	if err != nil {
		what, at := err.Error(), start
		// The library's Error() quotes the lines around the fault, which may hold what is nobody's
		// business; its bare message does not.
		if y, ok := errors.AsType[yaml.Error](err); ok {
			what = strings.ReplaceAll(y.GetMessage(), "\t", `\t`)
			if tk := y.GetToken(); tk != nil && tk.Position != nil {
				at = clamp(place{tk.Position.Line, tk.Position.Column})
			}
		}
		r.fail("syntax", at, "this is not valid YAML: "+what, "mend the line; all other checks come after that")
		return value{}, false
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	if len(bodies) == 0 {
		r.fail("syntax", start, "the topology is empty", "start from `mqlift init`")
		return value{}, false
	}
	if len(bodies) > 1 {
		r.fail("syntax", placeOf(bodies[1], start),
			"a second YAML document starts here", "keep one topology in one file and remove the --- between")
	}
	return value{"the topology", bodies[0], placeOf(bodies[0], start), start}, true
}

// parse turns a panic of the YAML library into an error: it reads what anybody may have written.
func parse(text string) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the parser gave up on it")
		}
	}()
	tokens := lexer.Tokenize(text)
	if tk := tooDeep(tokens); tk != nil {
		return nil, &yaml.SyntaxError{Message: "it is nested too deeply", Token: tk}
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// tooDeep finds nesting that no topology has: the parser's time grows with its square, and its
// recursion could end the process.
func tooDeep(tokens token.Tokens) *token.Token {
	const most = 16
	brackets, markers := 0, 0
	for _, tk := range tokens {
		switch tk.Type {
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.TagType:
			if markers++; markers > most {
				return tk
			}
			continue
		}
		if markers = 0; brackets > most {
			return tk
		}
	}
	return nil
}

func invalidUTF8(data []byte) (place, bool) {
	if utf8.Valid(data) {
		return place{}, false
	}
	at := place{1, 1}
	for len(data) > 0 {
		c, size := utf8.DecodeRune(data)
		if c == utf8.RuneError && size == 1 {
			break
		}
		at.column++
		if c == '\n' {
			at = place{at.line + 1, 1}
		}
		data = data[size:]
	}
	return at, true
}

func clamp(at place) place { return place{max(at.line, 1), max(at.column, 1)} }

// placeOf is where a reader looks for the node: a block mapping starts at its first key and not, as
// its token does, at the first colon.
func placeOf(node ast.Node, otherwise place) place {
	switch n := node.(type) {
	case nil:
		return otherwise
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return placeOf(n.Values[0], otherwise)
		}
	case *ast.MappingValueNode:
		if n.Key != nil {
			return placeOf(n.Key, otherwise)
		}
	case *ast.NullNode:
		// A missing value's token stands anywhere behind the key.
		return otherwise
	}
	tk := node.GetToken()
	if tk == nil || tk.Position == nil {
		return otherwise
	}
	return clamp(place{tk.Position.Line, tk.Position.Column})
}

// kind names what a node is for the operator, without its content: it may be a secret.
func kind(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode:
		return "a YAML anchor"
	case *ast.TagNode:
		return "a YAML tag"
	}
	return "text"
}

func (r *reader) wrongType(v value, wanted, example string) {
	switch v.node.(type) {
	case nil, *ast.NullNode:
		r.fail("type", v.at, v.name+" has no value", "write "+wanted+", or remove the key")
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode, *ast.TagNode:
		r.fail("type", v.at, v.name+" is "+kind(v.node)+", which a topology does not have",
			"write the value itself; what several members share belongs in defaults")
	default:
		r.fail("type", v.at, fmt.Sprintf("%s is %s and must be %s", v.name, kind(v.node), wanted), "write it like "+example)
	}
}

// mapping reads a node's keys. Unknown and repeated ones are findings, and so is anything else than a
// mapping; known nil admits any key.
func (r *reader) mapping(v value, example string, known []string) (mapping, bool) {
	m := mapping{at: v.at, values: map[string]value{}, guessed: map[string]bool{}}
	var pairs []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		r.wrongType(v, "a mapping", example)
		return m, false
	}
	first := map[string]place{}
	for _, pair := range pairs {
		at := placeOf(pair, v.at)
		key, ok := keyText(pair.Key)
		if !ok {
			m.unclear = true
			r.fail("field", at, "a key of "+v.name+" is not plain text", "write key: value; anchors, merges and tags are not used here")
			continue
		}
		if before, ok := first[key]; ok {
			r.fail("duplicate", at,
				fmt.Sprintf("%s is written twice; the first is in line %d", show(key), before.line), "keep one of them")
			continue
		}
		first[key] = at
		if known != nil && !slices.Contains(known, key) {
			if near := r.unknown(v.name, key, at, known); near != "" {
				m.guessed[near] = true
			}
			continue
		}
		m.keys = append(m.keys, key)
		m.values[key] = value{key, pair.Value, placeOf(pair.Value, at), at}
	}
	return m, true
}

func keyText(key ast.MapKeyNode) (string, bool) {
	switch n := key.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// unknown returns the known key that the unknown one was taken for, if any.
func (r *reader) unknown(parent, key string, at place, known []string) string {
	if parent == "acl" && strings.EqualFold(key, "secretKey") {
		r.fail("acl", at, "the secret key is in the topology, which others read and keep",
			"move it into a file with mode 0600 and name that as secretKeyFile, or set an environment variable and name that as secretKeyEnv; change the key if this file was shared")
		return "secretKeyFile"
	}
	do := "the keys here are " + strings.Join(known, ", ")
	near := nearest(key, known)
	if near != "" {
		do = "did you mean " + near + "?"
	} else if home := homes(key); len(home) > 0 {
		do = "it belongs in " + strings.Join(home, " or ")
	}
	r.fail("field", at, fmt.Sprintf("%s has no field %s", parent, show(key)), do)
	return near
}

// list reads a node's items.
func (r *reader) list(v value, example string) ([]value, bool) {
	n, ok := v.node.(*ast.SequenceNode)
	if !ok {
		r.wrongType(v, "a list", example)
		return nil, false
	}
	items := make([]value, len(n.Values))
	for i, node := range n.Values {
		items[i] = value{fmt.Sprintf("%s[%d]", v.name, i), node, placeOf(node, v.at), v.at}
	}
	return items, true
}

// text reads a scalar as it is written: 4.5 is text as well as "4.5".
func (r *reader) text(v value, example string) (string, bool) {
	var s string
	switch n := v.node.(type) {
	case *ast.StringNode:
		s = n.Value
	case *ast.LiteralNode:
		s = strings.TrimRight(n.Value.Value, "\n")
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		s = n.GetToken().Value
	default:
		joined, ok := colonJoined(n)
		if !ok {
			r.wrongType(v, "text", example)
			return "", false
		}
		s = joined
	}
	for _, c := range s {
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			r.fail("type", v.at, fmt.Sprintf("%s has the control character %q in it", v.name, c), "remove it")
			return "", false
		}
	}
	return s, true
}

// colonJoined puts together what the parser wrongly takes apart: in a list inside of { }, it reads
// [bastion:22] as [{bastion: 22}] (goccy/go-yaml 1.19.2), which YAML has only with a space after the
// colon.
func colonJoined(node ast.Node) (string, bool) {
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) == 1 && !m.IsFlowStyle {
		node = m.Values[0]
	}
	pair, ok := node.(*ast.MappingValueNode)
	if !ok {
		return "", false
	}
	key, ok := pair.Key.(*ast.StringNode)
	if !ok || pair.Start == nil || pair.Value == nil {
		return "", false
	}
	switch pair.Value.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode:
	default:
		return "", false
	}
	k, colon, value := key.GetToken(), pair.Start, pair.Value.GetToken()
	plainAll := k.Type == token.StringType && value.Type != token.DoubleQuoteType && value.Type != token.SingleQuoteType
	adjacent := colon.Position.Line == value.Position.Line && colon.Position.Column+1 == value.Position.Column
	if !plainAll || !adjacent {
		return "", false
	}
	return k.Value + ":" + value.Value, true
}

func (r *reader) texts(v value, example string) ([]string, []place, bool) {
	items, ok := r.list(v, example)
	if !ok {
		return nil, nil, false
	}
	var texts []string
	var places []place
	for _, item := range items {
		if s, ok := r.text(item, example); ok {
			texts, places = append(texts, s), append(places, item.at)
		}
	}
	return texts, places, true
}

var decimal = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

func (r *reader) number(v value, example string) (int, bool) {
	switch n := v.node.(type) {
	case *ast.StringNode:
		if t := n.GetToken().Type; t == token.DoubleQuoteType || t == token.SingleQuoteType {
			r.fail("type", v.at, v.name+" is text in quotes and must be a number", "write it like "+example)
			return 0, false
		}
	case *ast.IntegerNode, *ast.FloatNode:
	default:
		r.wrongType(v, "a number", example)
		return 0, false
	}
	digits := v.node.GetToken().Value
	i, err := strconv.ParseInt(digits, 10, 32)
	// 010 is eight to some readers of YAML and ten to others.
	if !decimal.MatchString(digits) || err != nil {
		r.fail("type", v.at, fmt.Sprintf("%s is %s, which is not a plain whole number", v.name, show(digits)), "write it like "+example)
		return 0, false
	}
	return int(i), true
}

func (r *reader) port(v value) (int, bool) {
	n, ok := r.number(v, v.name+": 40911")
	if ok && (n < 1 || n > 65535) {
		r.fail("port", v.at, fmt.Sprintf("%s %d is no TCP port", v.name, n), "choose one from 1 to 65535")
		return 0, false
	}
	return n, ok
}

func (r *reader) boolean(v value) (bool, bool) {
	n, ok := v.node.(*ast.BoolNode)
	if !ok {
		r.wrongType(v, "true or false", v.name+": true")
		return false, false
	}
	return n.Value, true
}

func (r *reader) duration(v value, example string) (time.Duration, bool) {
	s, ok := r.text(v, example)
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		r.fail("type", v.at,
			fmt.Sprintf("%s %s is no length of time", v.name, show(s)), "write a number above zero with its unit, like "+example)
		return 0, false
	}
	return d, true
}

// show quotes what the operator wrote, shortened, and with everything visible.
func show(s string) string {
	const most = 60
	if c := []rune(s); len(c) > most {
		s = string(c[:most]) + "…"
	}
	return strconv.Quote(s)
}

// nearest finds the known key that a mistyped one is closest to, if any: another case, or up to two letters
// wrong, missing, too many, or swapped (one in a short word).
func nearest(key string, known []string) string {
	if len(key) > 40 {
		return ""
	}
	best, bestAt := "", 3
	for _, k := range known {
		d := distance(strings.ToLower(key), strings.ToLower(k))
		if d < bestAt && d <= (len(k)+1)/3 {
			best, bestAt = k, d
		}
	}
	return best
}

// distance counts edits: insert, delete, replace, swap neighbours.
func distance(a, b string) int {
	var before, last []int
	for i := 0; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		for j := range row {
			switch {
			case i == 0:
				row[j] = j
			case j == 0:
				row[j] = i
			default:
				replace := last[j-1]
				if a[i-1] != b[j-1] {
					replace++
				}
				row[j] = min(last[j]+1, row[j-1]+1, replace)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					row[j] = min(row[j], before[j-2]+1)
				}
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
