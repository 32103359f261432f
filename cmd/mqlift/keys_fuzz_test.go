package main

import (
	"strings"
	"testing"
)

func FuzzKeysAreWhatWasAskedFor(f *testing.F) {
	for _, s := range []string{"orders:k1", "orders:m600000..m600099", "a:007..010", "a:b:c..d", ":", "t:x9..x1", "t:m0..m99999999999999999999", "t:..1", "t:é1..é3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		keys, err := parseKeys(spec)
		if err != nil {
			return
		}
		topic, key, _ := strings.Cut(spec, ":")
		if len(keys) == 0 || len(keys) > maxKeys {
			t.Fatalf("%q is %d keys", spec, len(keys))
		}
		seen := map[string]bool{}
		for _, k := range keys {
			if k.Topic != topic || k.Key == "" || seen[k.Key] {
				t.Fatalf("%q holds %+v", spec, k)
			}
			seen[k.Key] = true
		}
		first, last, ranged := strings.Cut(key, "..")
		if ranged && (keys[0].Key != first || len(last) >= len(first) && keys[len(keys)-1].Key != last) || !ranged && keys[0].Key != key {
			t.Fatalf("%q begins with %q and ends with %q", spec, keys[0].Key, keys[len(keys)-1].Key)
		}
	})
}
