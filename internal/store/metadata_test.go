package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mqlift/internal/store"
)

func metadata(t *testing.T, files map[string]string) *store.Metadata {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, "config", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := store.ReadMetadata(root)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMetadataIsComparedByMeaning(t *testing.T) {
	master := metadata(t, map[string]string{
		"topics.json":         `{"dataVersion":{"counter":7,"timestamp":1},"topicConfigTable":{"orders":{"perm":6,"topicName":"orders"},"more":{"perm":4}}}`,
		"consumerOffset.json": "{\n\t\"offsetTable\":{\"orders@g\":{0:9007199254740993,1:5\n\t\t}\n\t}\n}",
		"delayOffset.json":    `{"offsetTable":{1:3}}`,
		"timercheck.json":     `[1,2]`,
		"notes.txt":           "x",
	})
	same := metadata(t, map[string]string{
		"topics.json":         `{"topicConfigTable":{"more":{"perm":4},"orders":{"topicName":"orders","perm":6}},"dataVersion":{"counter":9}}`,
		"consumerOffset.json": `{"offsetTable":{"orders@g":{"1":5,"0":9007199254740993}}}`,
		"delayOffset.json":    `{"offsetTable":{1:3,},"extra":null}`,
		"timercheck.json":     `[1, 2]`,
		"consumerFilter.json": `{"filterDataByTopic":{}}`,
		// A slave writes what its broker made for itself; the master never has.
		"subscriptionGroup.json": `{"dataVersion":{"counter":1},"subscriptionGroupTable":{"CID_ONSAPI_OWNER":{"retryQueueNums":1},"TOOLS_CONSUMER":{"retryQueueNums":1}}}`,
	})
	if l := store.CompareMetadata(map[string]*store.Metadata{"a": master, "b": same}); len(l) > 0 {
		t.Errorf("equal ones differ: %v", l)
	}
	// Between the removal of a file and its replacement only the one before is there.
	other := metadata(t, map[string]string{
		"topics.json.bak":     `{"topicConfigTable":{"orders":{"perm":2,"topicName":"orders"}}}`,
		"consumerOffset.json": `{"offsetTable":{"orders@g":{0:9007199254740992,1:5}}}`,
		"delayOffset.json":    `{"offsetTable":{1:3}`,
		"timercheck.json":     `[2,1]`,
	})
	got := ""
	for _, d := range store.CompareMetadata(map[string]*store.Metadata{"a": master, "b": same, "c": other}) {
		got += d.String() + "\n"
	}
	want := `consumerOffset.json: offsetTable / orders@g / 0: a has 9007199254740993, b has 9007199254740993, c has 9007199254740992
delayOffset.json: a has {"offsetTable":{"1":3}}, b has {"extra":null,"offsetTable":{"1":3}}, c has "not readable: `
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, line := range []string{
		"timercheck.json: a has [1,2], b has [1,2], c has [2,1]",
		`topics.json: topicConfigTable / more: a has {"perm":4}, b has {"perm":4}, c has nothing`,
		"topics.json: topicConfigTable / orders / perm: a has 6, b has 6, c has 2",
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("%q is not in\n%s", line, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 5 {
		t.Errorf("%d differences:\n%s", n, got)
	}
}

func TestMetadataOfNoFolderIsNone(t *testing.T) {
	m, err := store.ReadMetadata(t.TempDir())
	if err != nil || len(m.Files) > 0 {
		t.Error(m, err)
	}
	if l := store.CompareMetadata(map[string]*store.Metadata{"a": m}); fmt.Sprint(l) != "[]" {
		t.Error(l)
	}
}
