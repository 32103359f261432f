package main

import "testing"

func TestRatesAreRead(t *testing.T) {
	for text, want := range map[string]int64{
		"1024": 1024, "800K": 800 << 10, "50M": 50 << 20, "50MiB": 50 << 20, "50MB": 50 << 20, "1.5G": 3 << 29,
		"": 0, "0": 0, "-5M": 0, "10": 0, "fast": 0, "M": 0, "5T": 0, "5 M": 0, "NaN": 0, "Inf": 0, "1e9": 0, "0x10M": 0, "9999999G": 0,
	} {
		var r rate
		err := r.Set(text)
		if int64(r) != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", text, r, err)
		}
	}
}
