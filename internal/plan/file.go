package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
)

// The seal is a digest of the file with zeros in its place: an apply does what the file says, so that a
// file that somebody edited, or that lost a part on its way, must not be taken for what was reviewed.
var seal = regexp.MustCompile(`^\{\n  "seal": "([0-9a-f]{64})",\n`)

const noSeal = "0000000000000000000000000000000000000000000000000000000000000000"

// maxFile bounds a saved plan, in bytes: configuration files and their diffs are the most of it.
const maxFile = 64 << 20

// file is how a plan is saved.
type file struct {
	Seal string `json:"seal"`
	*Plan
}

// Encode makes the file in which a plan is saved.
func Encode(p *Plan) ([]byte, error) {
	data, err := json.MarshalIndent(file{noSeal, p}, "", "  ")
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	return bytes.Replace(data, []byte(noSeal), sealOf(data), 1), nil
}

func sealOf(data []byte) []byte {
	sum := sha256.Sum256(data)
	return []byte(hex.EncodeToString(sum[:]))
}

// Decode reads what Encode wrote, and refuses anything else; name is the file's, for messages.
func Decode(name string, data []byte) (*Plan, error) {
	const again = "put it back from a copy, or make a new one with `mqlift plan -o`"
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is not a plan that mqlift saved: it has more than %d bytes; %s", name, maxFile, again)
	}
	// The version comes first: a later one may have other fields.
	var version struct {
		Version json.RawMessage `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("%s is not a plan that mqlift saved: %w; %s", name, inFile(data, err), again)
	}
	if string(version.Version) != "1" {
		return nil, fmt.Errorf("%s is not a plan of this version of mqlift; %s", name, again)
	}
	m := seal.FindSubmatchIndex(data)
	if m == nil {
		return nil, fmt.Errorf("%s is not a plan as mqlift saved it: it does not begin with its seal; %s", name, again)
	}
	whole := bytes.Clone(data)
	copy(whole[m[2]:m[3]], noSeal)
	if !bytes.Equal(sealOf(whole), data[m[2]:m[3]]) {
		return nil, fmt.Errorf("%s was changed after mqlift saved it: its seal does not fit; %s", name, again)
	}
	f := file{Plan: &Plan{}}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s is not a plan of this version of mqlift: %w; %s", name, inFile(data, err), again)
	}
	if err := f.Check(); err != nil {
		return nil, fmt.Errorf("%s is not a plan of this version of mqlift: %w; %s", name, err, again)
	}
	return f.Plan, nil
}

// Check refuses a plan without what the code that reads it takes for granted.
func (p *Plan) Check() error {
	for i, m := range p.Members {
		if m == nil {
			return fmt.Errorf("members[%d] is null", i)
		}
	}
	if p.Fingerprint == "" || p.Group == "" {
		return errors.New("it has no fingerprint or no group")
	}
	return nil
}

// inFile says where in the file an error of encoding/json is, as line:column, and what it is without
// Go's names of types.
func inFile(data []byte, err error) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", lineAndColumn(data, syntax.Offset), err)
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("it holds %s and no object", article(wrong.Value))
	case errors.As(err, &wrong):
		return fmt.Errorf("%s: %s is %s where %s belongs", lineAndColumn(data, wrong.Offset),
			strings.TrimPrefix(wrong.Field, "Plan."), article(wrong.Value), kindOf(wrong.Type))
	}
	return err
}

func lineAndColumn(data []byte, offset int64) string {
	before := data[:min(max(offset-1, 0), int64(len(data)))]
	line := bytes.LastIndexByte(before, '\n') + 1
	return fmt.Sprintf("line %d, column %d", bytes.Count(before, []byte("\n"))+1, len(before)-line+1)
}

func article(value string) string {
	if number, ok := strings.CutPrefix(value, "number "); ok {
		return number
	}
	if strings.HasPrefix(value, "array") || strings.HasPrefix(value, "object") {
		return "an " + value
	}
	return "a " + value
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a whole number"
}
