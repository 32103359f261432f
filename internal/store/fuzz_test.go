package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
)

func FuzzInspectStaysWithinTheLog(f *testing.F) {
	const fileSize = 4096
	l := storetest.New(f, filepath.Join(f.TempDir(), "commitlog"), fileSize, 0)
	l.Fill(8, "orders", "k", 300)
	data, err := os.ReadFile(filepath.Join(l.Dir, store.FileName(0)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, []byte{})
	f.Add(data[:3000], data[:500])
	f.Add([]byte{0, 0, 0, 8, 0xcb, 0xd4, 0x31, 0x94}, data)
	dir := filepath.Join(f.TempDir(), "commitlog")
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		for i, b := range [][]byte{first, second} {
			file := make([]byte, fileSize)
			copy(file, b)
			if err := os.WriteFile(filepath.Join(dir, store.FileName(int64(i)*fileSize)), file, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		in, err := store.Inspect(t.Context(), dir, store.Options{Samples: 3})
		if err != nil {
			t.Fatal(err)
		}
		if in.End < 0 || in.End > 2*fileSize || in.First != 0 || in.To != in.End || in.Messages < 0 || in.Messages > in.End/91 {
			t.Fatalf("%+v", in)
		}
		at := int64(0)
		for _, c := range in.Chunks {
			if c.Offset < at || c.Length <= 0 || c.Offset+c.Length > in.End+8 && c.Offset < fileSize {
				t.Fatalf("chunks %+v, end %d", in.Chunks, in.End)
			}
			at = c.Offset + c.Length
		}
		for _, f := range in.Findings {
			if f.What == "" || f.Where == "" || f.Do == "" {
				t.Fatalf("not three parts: %+v", f)
			}
		}
		if in.Findings.Err() != nil || in.End == 0 {
			return
		}
		// Up to the end that was found, everything is found again.
		again, err := store.Inspect(t.Context(), dir, store.Options{To: in.End})
		if err != nil || again.Messages != in.Messages {
			t.Fatalf("up to %d: %d messages and then %+v, %v", in.End, in.Messages, again, err)
		}
	})
}

func FuzzQueuesAndIndexReachNoFurtherThanTheySay(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x64\x00\x00\x00\x00\x00\x00\x00\x07"), make([]byte, 40))
	f.Add(make([]byte, 19), make([]byte, 39))
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, queue, index []byte) {
		for name, b := range map[string][]byte{"consumequeue/t/0/" + store.FileName(0): queue, "index/20200101120000123": index} {
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if at, err := store.MaxConsumeQueueOffset(t.Context(), root); err == nil && (at < -1 || len(queue) < 20 && at != -1) {
			t.Fatalf("%d bytes reach %d", len(queue), at)
		}
		files, err := store.IndexFiles(t.Context(), root)
		if err == nil && (len(files) > 1 || len(files) == 1 && len(index) < 40) {
			t.Fatalf("%d bytes: %+v", len(index), files)
		}
	})
}

// Offsets are carried over by what this says: a difference must not go unseen, and the form must not be one.
func FuzzMetadataIsComparedByMeaning(f *testing.F) {
	f.Add([]byte(`{"offsetTable":{"orders@g":{0:9007199254740993,1:5}},"dataVersion":{"counter":1}}`), []byte(`{"offsetTable":{"orders@g":{"1":5,"0":9007199254740992}}}`))
	f.Add([]byte(`{"subscriptionGroupTable":{"TOOLS_CONSUMER":{"a":1}}}`), []byte(`{"subscriptionGroupTable":{}}`))
	f.Add([]byte(`[{"a":null},1e400]`), []byte(`{"offsetTable":{"a":null}}`))
	f.Add([]byte("{'a':\"\xff\"}"), []byte(`{"a":{}`))
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, a, b []byte) {
		read := func(member string, file []byte) *store.Metadata {
			dir := filepath.Join(root, member, "config")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "t.json"), file, 0o644)); err != nil {
				t.Fatal(err)
			}
			m, err := store.ReadMetadata(filepath.Dir(dir))
			if err != nil {
				t.Fatal(err)
			}
			if (m.Files["t.json"] == nil) == (m.Broken["t.json"] == "") {
				t.Fatalf("neither read nor broken, or both: %+v", m)
			}
			return m
		}
		one, two := read("one", a), read("two", b)
		if l := store.CompareMetadata(map[string]*store.Metadata{"a": one, "b": one}); len(l) > 0 {
			t.Fatalf("not as itself: %v", l)
		}
		for _, d := range store.CompareMetadata(map[string]*store.Metadata{"a": one, "b": two}) {
			if d.File != "t.json" || len(d.Values) != 2 || d.Values["a"] == d.Values["b"] {
				t.Fatalf("no difference: %+v", d)
			}
		}
		data := one.Files["t.json"]
		if data == nil {
			return
		}
		// Sorted anew and spread over lines it means the same.
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		other, err := json.MarshalIndent(v, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if l := store.CompareMetadata(map[string]*store.Metadata{"a": one, "b": read("two", other)}); len(l) > 0 {
			t.Fatalf("%s\nand\n%s\ndiffer: %v", data, other, l)
		}
		// One more entry is seen wherever there are entries.
		top, _ := v.(map[string]any)
		table, _ := top["offsetTable"].(map[string]any)
		if table == nil {
			return
		}
		table["one more"] = 1
		more, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if l := store.CompareMetadata(map[string]*store.Metadata{"a": one, "b": read("two", more)}); len(l) != 1 {
			t.Fatalf("%s\nand\n%s\ndiffer by %v", data, more, l)
		}
	})
}
