package rocketmq

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/brokerconf"
)

func FuzzReadFrameTakesWhatItsLengthSays(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x06\x00\x00\x00\x02{}rest"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("HTTP/1.1 400"))
	f.Add([]byte{0x16, 3, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		frame, err := readFrame(r)
		switch {
		case err == nil:
			if len(frame)+4 != len(b)-r.Len() || !bytes.Equal(frame, b[4:4+len(frame)]) {
				t.Fatalf("a frame of %d bytes out of %d, %d left", len(frame), len(b), r.Len())
			}
		case !errors.Is(err, ErrFrame) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Fatal(err)
		case errors.Is(err, ErrFrame) && len(b)-r.Len() != 4:
			t.Fatal("more than the length was read")
		}
	})
}

// The tables of a broker, from config/*.json or from an answer: a table that is not there is an error and
// never an empty one.
func FuzzTablesAreThereOrRefused(f *testing.F) {
	for _, name := range []string{"topics", "groups", "consumer-offsets", "delay-offsets"} {
		f.Add(captured(f, name).Body)
	}
	f.Add([]byte(`{"topicConfigTable":null,"offsetTable":{"a@b":{0:9223372036854775807}},"subscriptionGroupTable":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		topics, _, err := ParseTopics(b)
		if (err == nil) != (topics != nil) {
			t.Fatalf("topics %v, %v", topics, err)
		}
		groups, _, err := ParseSubscriptionGroups(b)
		if (err == nil) != (groups != nil) {
			t.Fatalf("groups %v, %v", groups, err)
		}
		offsets, err := ParseConsumerOffsets(b)
		if (err == nil) != (offsets != nil) {
			t.Fatalf("offsets %v, %v", offsets, err)
		}
		delays, err := ParseDelayOffsets(b)
		if (err == nil) != (delays != nil) {
			t.Fatalf("delays %v, %v", delays, err)
		}
	})
}

func FuzzPropertiesAreWrittenAsJavaReadsThem(f *testing.F) {
	f.Add("brokerPermission", "4")
	f.Add(" a=:#!\\", " é\n\t😀\x00")
	f.Fuzz(func(t *testing.T, key, value string) {
		if key == "" {
			return
		}
		set := map[string]string{string([]rune(key)): string([]rune(value))}
		file, err := brokerconf.Parse("update", formatProperties(set)) // as Java reads it
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(set, file.Map()); diff != "" {
			t.Fatalf("%s\n%q", diff, formatProperties(set))
		}
	})
}
