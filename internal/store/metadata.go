package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mqlift/internal/rocketmq"
)

// Metadata is what a broker keeps in config/*.json: topics, groups, offsets.
type Metadata struct {
	Dir   string                     `json:"dir"`
	Files map[string]json.RawMessage `json:"files"` // by name, as strict JSON
	// Broken says of files that are no JSON what is wrong with them.
	Broken map[string]string `json:"broken,omitempty"`
	// Fallback says the same of files that were read from their .bak, as a starting broker does
	// (ConfigManager.load, 4.5.2).
	Fallback map[string]string `json:"fallback,omitempty"`
}

// ReadMetadata reads config/*.json under a store's root. A running broker replaces them now and then,
// the one before being beside as .bak (MixAll.string2File, 4.5.2). Without the folder there are none.
func ReadMetadata(root string) (*Metadata, error) {
	m := &Metadata{Dir: filepath.Join(root, "config"), Files: map[string]json.RawMessage{}, Broken: map[string]string{}, Fallback: map[string]string{}}
	entries, err := os.ReadDir(m.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".bak")
		if !strings.HasSuffix(name, ".json") || !e.Type().IsRegular() || m.Files[name] != nil {
			continue
		}
		var wrong error
		fallback := false
		for _, path := range []string{filepath.Join(m.Dir, name), filepath.Join(m.Dir, name), filepath.Join(m.Dir, name+".bak")} {
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("metadata: %w", err)
			}
			var strict json.RawMessage
			if err := rocketmq.DecodeJSON(data, &strict); err != nil {
				wrong = errors.Join(wrong, err)
				continue
			}
			m.Files[name], fallback = strict, strings.HasSuffix(path, ".bak")
			break
		}
		if wrong == nil {
			continue
		}
		what := strings.SplitN(wrong.Error(), "\n", 2)[0]
		if m.Files[name] == nil {
			m.Broken[name] = what
		} else if fallback {
			m.Fallback[name] = what
		}
	}
	return m, nil
}

// MetadataDifference is one value that members do not have alike.
type MetadataDifference struct {
	File   string            `json:"file"`
	Path   string            `json:"path"`   // keys from the file's outermost object on
	Values map[string]string `json:"values"` // JSON by member; "" where there is none
}

// String says it in one line.
func (d MetadataDifference) String() string {
	var sides []string
	for _, name := range slices.Sorted(maps.Keys(d.Values)) {
		value := d.Values[name]
		if value == "" {
			value = "nothing"
		}
		if len(value) > 80 {
			value = strings.ToValidUTF8(value[:80], "") + "…"
		}
		sides = append(sides, name+" has "+value)
	}
	what := d.File
	if d.Path != "" {
		what += ": " + d.Path
	}
	return what + ": " + strings.Join(sides, ", ")
}

// CompareMetadata compares config/*.json of several members by their meaning: neither the order of keys
// nor the form counts, nor dataVersion, which only tells how often a file was written. A file that is
// nothing but empty is the same as none.
func CompareMetadata(members map[string]*Metadata) []MetadataDifference {
	files := map[string]bool{}
	for _, m := range members {
		for name := range m.Files {
			files[name] = true
		}
		for name := range m.Broken {
			files[name] = true
		}
	}
	var l []MetadataDifference
	for _, file := range slices.Sorted(maps.Keys(files)) {
		values := map[string]any{}
		for name, m := range members {
			values[name] = nil
			if wrong := m.Broken[file]; wrong != "" {
				values[name] = "not readable: " + wrong
			} else if data := m.Files[file]; data != nil {
				values[name] = decodeExactly(data)
			}
			if top, ok := values[name].(map[string]any); ok {
				delete(top, "dataVersion")
			}
		}
		differ(file, nil, values, &l)
	}
	return l
}

// decodeExactly keeps numbers as they are written; offsets may be larger than a float64 can tell apart.
func decodeExactly(data []byte) any {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return string(data)
	}
	return v
}

// builtIn are groups that a broker makes for itself at every start (SubscriptionGroupManager.init, 4.5.2
// to 5.3.3). Until an operator changes a group, a master has no subscriptionGroup.json, while its slave
// writes one with these (seen on 4.5.2): a file without them means the same.
var builtIn = []string{"TOOLS_CONSUMER", "FILTERSRV_CONSUMER", "SELF_TEST_C_GROUP", "CID_ONS-HTTP-PROXY",
	"CID_ONSAPI_PULL", "CID_ONSAPI_PERMISSION", "CID_ONSAPI_OWNER", "CID_RMQ_SYS_TRANS"}

// entryDepth is how deep the entries of a file are: topicConfigTable / orders. What is missing from there
// on is missing as a whole; what is missing above may just be empty.
const entryDepth = 2

// differ goes down as long as all have objects.
func differ(file string, path []string, values map[string]any, l *[]MetadataDifference) {
	if len(path) == entryDepth && path[0] == "subscriptionGroupTable" && slices.Contains(builtIn, path[1]) {
		for _, v := range values {
			if v == nil {
				return
			}
		}
	}
	keys := map[string]bool{}
	objects := true
	for _, v := range values {
		switch o := v.(type) {
		case map[string]any:
			for key := range o {
				keys[key] = true
			}
		case nil:
			objects = objects && len(path) < entryDepth
		default:
			objects = false
		}
	}
	if objects {
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			below := map[string]any{}
			for name, v := range values {
				o, _ := v.(map[string]any)
				below[name] = o[key]
			}
			differ(file, append(slices.Clone(path), key), below, l)
		}
		return
	}
	d := MetadataDifference{File: file, Path: strings.Join(path, " / "), Values: map[string]string{}}
	texts := map[string]bool{}
	for name, v := range values {
		text := ""
		if v != nil {
			b, err := json.Marshal(v) // sorts keys
			if err != nil {
				b = []byte(err.Error())
			}
			text = string(b)
		}
		d.Values[name] = text
		texts[text] = true
	}
	if len(texts) > 1 {
		*l = append(*l, d)
	}
}
